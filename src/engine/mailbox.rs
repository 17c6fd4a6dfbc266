//! [`Mailbox`]: the hand-over of messages, and what was delivered.
//!
//! Nothing is taken out before it is stored: who delivers looks, stores, and then removes. A process may die between any
//! two of the three, and the next one goes on; what is done twice changes nothing.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::page::{ListPage, PageRange};
use super::{Engine, Result};
use crate::message::Message;

/// Longest batch, in bytes as it waits in the mailbox: 16 MiB. A text of 1 MiB takes up to six where it is written as JSON.
pub const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Messages that are handed over together, under an id that stays the same however often they are offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The key under which it is delivered, once: 1 to 256 bytes.
    pub id: String,
    /// One at least.
    pub messages: Vec<Message>,
}

/// What became of a batch that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It waits in the mailbox, on its owner and on its backup.
    Accepted,
    /// The mailbox is full; the batch is not in it, unless an earlier try of the same call put it there unheard.
    Full,
}

/// Something that waits in the mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What the engine knows it by. Two items of the same bytes may have the same one.
    pub token: Bytes,
    /// What it is, or why it cannot be read: anybody may have put it there.
    pub content: std::result::Result<Batch, String>,
}

/// What a look at the mailbox shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// What waits, the longest waiting first; where more waits than the engine hands over in one answer, a part of it from
    /// the front.
    pub items: Vec<Item>,
    /// Whether that is all. Of a part, the rest is seen once this was taken out.
    pub is_all: bool,
}

/// One part of all that was delivered, as [`Mailbox::all`] hands it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveredPage {
    /// Delivered messages, in no promised order.
    pub messages: Vec<DeliveredMessage>,
    /// Entries that cannot be read and were left out.
    pub skipped: u64,
}

/// A message that was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveredMessage {
    /// The message.
    pub message: Message,
    /// Id of the instance that delivered it.
    pub by: String,
}

/// The mailbox that all instances share.
pub trait Mailbox: Engine {
    /// Puts a batch in, of at most [`MAX_BATCH_BYTES`]. Where the outcome was unknown it was offered again: it may be in
    /// twice, under one id.
    fn offer<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Offered>>;

    /// What waits, all of it or a part from the front. It stays where it is.
    fn look(&self) -> BoxFuture<'_, Result<Looked>>;

    /// Delivers a batch in the name of the instance `by`. One of this id that was delivered before stays as it is.
    fn store<'a>(&'a self, batch: &'a Batch, by: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Sets aside what cannot be read, with the reason.
    fn reject<'a>(&'a self, item: &'a Item, reason: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Takes an item out. `false` where somebody else did, or an earlier try of the same call, unheard.
    fn remove<'a>(&'a self, item: &'a Item) -> BoxFuture<'a, Result<bool>>;

    /// All that was delivered, part by part, in bounded memory. After an error the stream ends.
    fn all(&self) -> BoxStream<'_, Result<DeliveredPage>>;

    /// A page of what was delivered, in bounded memory, however much that is. Where batches have an identifier in common, the
    /// message of the batch whose id comes first is on the page. What is no delivery is not counted.
    fn page<'a>(&'a self, range: &'a PageRange) -> BoxFuture<'a, Result<ListPage<DeliveredMessage>>>;

    /// Hints that something was put in. Some may be missing: look from time to time all the same.
    fn news(&self) -> BoxStream<'_, ()>;
}
