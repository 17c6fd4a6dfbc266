//! The distributed queue.

use std::sync::Arc;
use std::time::Duration;

use super::codec::queue::{self, ItemEventType};
use super::data::{Data, ToData};
use super::error::{Error, Result};
use super::invocation::Shared;
use super::listener::{Listener, Registration};

/// A distributed queue (`IQueue`). Clones are handles to the same queue. All its items live in one partition.
///
/// The queue has no acknowledgement: [`Queue::poll`] and [`Queue::drain_to`] remove before the answer travels, so an item
/// is lost where the connection, the client or the future that waits for it ends in between. To lose nothing, look at
/// the items ([`Queue::iterator`]), store them, and only then [`Queue::remove`] them.
///
/// Every operation has the handle's deadline, tries and waits together, and the errors of [`Kind`](super::Kind).
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Shared>,
    name: String,
    timeout: Duration,
}

/// What happened to an item of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemEvent {
    /// One was added.
    Added,
    /// One was removed.
    Removed,
}

impl Queue {
    pub(super) fn new(shared: Arc<Shared>, name: String) -> Self {
        let timeout = shared.config.invocation_timeout;
        Self { shared, name, timeout }
    }

    /// The same queue with another deadline for each operation.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds an item at the end, without waiting for room. Returns whether there was room.
    pub async fn offer(&self, item: &(impl ToData + ?Sized)) -> Result<bool> {
        let request = queue::offer_request(&self.name, &item.to_data(), 0)?;
        queue::decode_offer(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Adds all items at the end, or none. Returns whether there was room.
    pub async fn add_all<T: ToData>(&self, items: impl IntoIterator<Item = T>) -> Result<bool> {
        let items: Vec<Data> = items.into_iter().map(|item| item.to_data()).collect();
        let request = queue::add_all_request(&self.name, &items)?;
        queue::decode_add_all(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Takes the first item; waits for one at most `wait`, which the member counts and the deadline is added to.
    ///
    /// Never repeated. The item is lost where the answer does not arrive, or where this future is dropped meanwhile.
    pub async fn poll(&self, wait: Duration) -> Result<Option<Data>> {
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let request = queue::poll_request(&self.name, wait_ms)?;
        queue::decode_poll(&self.shared.invoke(request, self.timeout.saturating_add(wait)).await?)
    }

    /// The first item, which stays where it is.
    pub async fn peek(&self) -> Result<Option<Data>> {
        let request = queue::peek_request(&self.name)?;
        queue::decode_peek(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Removes the first item of exactly these bytes. Returns whether there was one.
    ///
    /// Where a try was repeated, `false` says nothing: the first may have removed it.
    pub async fn remove(&self, item: &(impl ToData + ?Sized)) -> Result<bool> {
        let request = queue::remove_request(&self.name, &item.to_data())?;
        queue::decode_remove(&self.shared.invoke(request, self.timeout).await?)
    }

    /// All items, first to last; they stay where they are.
    pub async fn iterator(&self) -> Result<Vec<Data>> {
        let request = queue::iterator_request(&self.name)?;
        queue::decode_iterator(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Takes the first items, at most `max` of them.
    ///
    /// Never repeated. The items are lost where the answer does not arrive, or where this future is dropped meanwhile.
    pub async fn drain_to(&self, max: usize) -> Result<Vec<Data>> {
        let request = queue::drain_to_max_size_request(&self.name, i32::try_from(max).unwrap_or(i32::MAX))?;
        queue::decode_drain_to_max_size(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Number of items.
    pub async fn size(&self) -> Result<i32> {
        let request = queue::size_request(&self.name)?;
        queue::decode_size(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Removes all items.
    pub async fn clear(&self) -> Result<()> {
        let request = queue::clear_request(&self.name)?;
        self.shared.invoke(request, self.timeout).await.map(|_| ())
    }

    /// Tells of items that were added or removed, without the items.
    pub fn item_listener(&self) -> Listener<ItemEvent> {
        let (added, removed) = (self.name.clone(), self.name.clone());
        let registration = Registration {
            add: Box::new(move || queue::add_listener_request(&added, false, false)),
            decode_id: queue::decode_add_listener,
            remove: Box::new(move |id| queue::remove_listener_request(&removed, id)),
            decode_event: |message| match queue::decode_item_event(message)?.event_type {
                ItemEventType::Added => Ok(ItemEvent::Added),
                ItemEventType::Removed => Ok(ItemEvent::Removed),
                ItemEventType::Other(kind) => Err(Error::protocol(format!("an item event of the unknown kind {kind}"))),
            },
        };
        Listener::spawn(Arc::clone(&self.shared), registration)
    }
}
