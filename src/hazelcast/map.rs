//! The distributed map.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, join_all, try_join_all};
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};

use super::codec::map::{self, IterationPointers};
use super::data::{Data, ToData};
use super::deadline::Deadline;
use super::error::Result;
use super::invocation::Shared;
use super::listener::{Listener, Registration};
use super::message::{Incoming, Request};
use super::partition::partition_id;

/// Partitions that [`Map::entries`] and [`Map::keys`] read at a time.
const PARTITIONS_AT_A_TIME: usize = 4;

/// What they aim at for the size of one batch, in bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// A distributed map (`IMap`). Clones are handles to the same map.
///
/// Keys and values are whatever can be serialized ([`ToData`]); what comes back is [`Data`], read by its user, since other
/// clients may have stored anything. Every operation has the handle's deadline, tries and waits together, and the errors
/// of [`Kind`](super::Kind): those whose outcome is unknown are repeated only as
/// [`Config::redo_operations`](super::Config::redo_operations) says.
#[derive(Clone, Debug)]
pub struct Map {
    shared: Arc<Shared>,
    name: String,
    timeout: Duration,
}

/// A partition of a map whose entries are gone: the last member that had a copy was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapPartitionLost {
    /// The partition's id.
    pub partition_id: i32,
}

/// What became of some of the entries that [`Map::put_each`] was given.
#[derive(Debug)]
pub struct Stored {
    /// Their places among these entries.
    pub places: Vec<usize>,
    /// Whether they were stored. Where that failed, some may have been.
    pub outcome: Result<()>,
}

impl Map {
    pub(super) fn new(shared: Arc<Shared>, name: String) -> Self {
        let timeout = shared.config.invocation_timeout;
        Self { shared, name, timeout }
    }

    /// The same map with another deadline for each operation.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The map's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Stores a value and returns the one before.
    pub async fn put(&self, key: &(impl ToData + ?Sized), value: &(impl ToData + ?Sized)) -> Result<Option<Data>> {
        let request = map::put_request(&self.name, &key.to_data(), &value.to_data())?;
        map::decode_put(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Stores a value. Cheaper than [`Map::put`]: the one before does not travel.
    pub async fn set(&self, key: &(impl ToData + ?Sized), value: &(impl ToData + ?Sized)) -> Result<()> {
        let request = map::set_request(&self.name, &key.to_data(), &value.to_data())?;
        self.shared.invoke(request, self.timeout).await.map(|_| ())
    }

    /// Stores a value where the key has none, and returns the one that stands already, or `None` where this one was stored.
    ///
    /// Where a try was repeated, the one that stands may be this call's own.
    pub async fn put_if_absent(
        &self,
        key: &(impl ToData + ?Sized),
        value: &(impl ToData + ?Sized),
    ) -> Result<Option<Data>> {
        let request = map::put_if_absent_request(&self.name, &key.to_data(), &value.to_data())?;
        map::decode_put_if_absent(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Stores all entries, those of one partition in one request. Where it fails, some may have been stored.
    pub async fn put_all<K: ToData, V: ToData>(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<()> {
        let stored = self.put_each(entries).await?;
        stored.into_iter().try_for_each(|stored| stored.outcome)
    }

    /// Stores all entries, those of one partition in one request, of which each stands or fails for itself.
    ///
    /// # Errors
    /// Where none was stored, since no member has told how many partitions there are.
    pub async fn put_each<K: ToData, V: ToData>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Vec<Stored>> {
        let deadline = Deadline::after(self.timeout);
        let entries = entries.into_iter().map(|(key, value)| (key.to_data(), value.to_data()));
        let partitions = self
            .by_partition(entries.enumerate(), |(_, (key, _))| key.partition_hash(), deadline)
            .await?;
        let calls = partitions.into_iter().map(|(partition, entries)| async move {
            let (places, entries): (Vec<usize>, Vec<_>) = entries.into_iter().unzip();
            let outcome = self.put_in(partition, &entries, deadline).await;
            Stored { places, outcome }
        });
        Ok(join_all(calls).await)
    }

    /// Stores entries of one partition.
    async fn put_in(&self, partition: i32, entries: &[(Data, Data)], deadline: Deadline) -> Result<()> {
        let request = match entries {
            [(key, value)] => map::set_request(&self.name, key, value)?,
            entries => map::put_all_request(&self.name, partition, entries)?,
        };
        self.shared.invoke_until(request, deadline).await.map(drop)
    }

    /// The value of a key.
    pub async fn get(&self, key: &(impl ToData + ?Sized)) -> Result<Option<Data>> {
        let request = map::get_request(&self.name, &key.to_data())?;
        map::decode_get(&self.shared.invoke(request, self.timeout).await?)
    }

    /// The entries of these keys, without those that have none, in no particular order.
    pub async fn get_all<K: ToData>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<(Data, Data)>> {
        let deadline = Deadline::after(self.timeout);
        let keys = keys.into_iter().map(|key| key.to_data());
        let partitions = self.by_partition(keys, Data::partition_hash, deadline).await?;
        let calls = partitions.into_iter().map(|(partition, keys)| async move {
            let request = map::get_all_request(&self.name, partition, &keys)?;
            map::decode_get_all(&self.shared.invoke_until(request, deadline).await?)
        });
        Ok(try_join_all(calls).await?.into_iter().flatten().collect())
    }

    /// Removes a key and returns the value that it had.
    pub async fn remove(&self, key: &(impl ToData + ?Sized)) -> Result<Option<Data>> {
        let request = map::remove_request(&self.name, &key.to_data())?;
        map::decode_remove(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Replaces a value if the key has exactly `expected`. Returns whether it did.
    ///
    /// Where a try was repeated, `false` says nothing: the first may have replaced it. Read again.
    pub async fn replace_if_same(
        &self,
        key: &(impl ToData + ?Sized),
        expected: &(impl ToData + ?Sized),
        value: &(impl ToData + ?Sized),
    ) -> Result<bool> {
        let request = map::replace_if_same_request(&self.name, &key.to_data(), &expected.to_data(), &value.to_data())?;
        map::decode_replace_if_same(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Whether the key has a value.
    pub async fn contains_key(&self, key: &(impl ToData + ?Sized)) -> Result<bool> {
        let request = map::contains_key_request(&self.name, &key.to_data())?;
        map::decode_contains_key(&self.shared.invoke(request, self.timeout).await?)
    }

    /// All keys, in one answer: for maps that are known to be small.
    pub async fn key_set(&self) -> Result<Vec<Data>> {
        let request = map::key_set_request(&self.name)?;
        map::decode_key_set(&self.shared.invoke(request, self.timeout).await?)
    }

    /// All values, in one answer: for maps that are known to be small.
    pub async fn values(&self) -> Result<Vec<Data>> {
        let request = map::values_request(&self.name)?;
        map::decode_values(&self.shared.invoke(request, self.timeout).await?)
    }

    /// All entries, in one answer: for maps that are known to be small. See [`Map::entries`] for others.
    pub async fn entry_set(&self) -> Result<Vec<(Data, Data)>> {
        let request = map::entry_set_request(&self.name)?;
        map::decode_entry_set(&self.shared.invoke(request, self.timeout).await?)
    }

    /// All entries in bounded memory, batch by batch, partition by partition.
    ///
    /// An entry that is there from the first batch to the last is handed out once, also where its partition moves to another
    /// member meanwhile; one that is stored or removed meanwhile is handed out once or not at all. Each batch has the handle's
    /// deadline. After an error the stream ends.
    pub fn entries(&self) -> impl Stream<Item = Result<Vec<(Data, Data)>>> + Send + '_ {
        self.all_partitions()
    }

    /// All keys in bounded memory, as [`Map::entries`] hands out entries.
    pub fn keys(&self) -> impl Stream<Item = Result<Vec<Data>>> + Send + '_ {
        self.all_partitions()
    }

    fn all_partitions<T: Fetched>(&self) -> impl Stream<Item = Result<Vec<T>>> + Send + '_ {
        stream::once(async { self.shared.partition_count(Deadline::after(self.timeout)).await })
            .map_ok(|count| {
                let partitions = stream::iter(0..count).map(|partition| Box::pin(self.all_of(partition)));
                partitions.flatten_unordered(PARTITIONS_AT_A_TIME)
            })
            .try_flatten()
            .scan(false, |failed, batch| {
                let item = (!*failed).then_some(batch);
                *failed |= item.as_ref().is_some_and(Result::is_err);
                future::ready(item)
            })
    }

    fn all_of<T: Fetched>(&self, partition: i32) -> impl Stream<Item = Result<Vec<T>>> + Send + '_ {
        stream::try_unfold(Some(Cursor::new::<T>()), move |cursor| async move {
            let Some(mut cursor) = cursor else { return Ok(None) };
            let request = T::request(&self.name, partition, &cursor.pointers, cursor.batch)?;
            let (pointers, batch) = T::decode(&self.shared.invoke(request, self.timeout).await?)?;
            let next = cursor.advance(pointers, &batch).then_some(cursor);
            Ok(Some((batch, next)))
        })
        .try_filter(|batch| future::ready(!batch.is_empty()))
    }

    /// Number of entries.
    pub async fn size(&self) -> Result<i32> {
        let request = map::size_request(&self.name)?;
        map::decode_size(&self.shared.invoke(request, self.timeout).await?)
    }

    /// Removes all entries.
    pub async fn clear(&self) -> Result<()> {
        let request = map::clear_request(&self.name)?;
        self.shared.invoke(request, self.timeout).await.map(|_| ())
    }

    /// Tells of partitions of this map that were lost with the last member that had a copy.
    pub fn partition_lost_listener(&self) -> Listener<MapPartitionLost> {
        let (added, removed) = (self.name.clone(), self.name.clone());
        let registration = Registration {
            add: Box::new(move || map::add_partition_lost_listener_request(&added, false)),
            decode_id: map::decode_add_partition_lost_listener,
            remove: Box::new(move |id| map::remove_partition_lost_listener_request(&removed, id)),
            decode_event: |message| {
                let event = map::decode_partition_lost_event(message)?;
                Ok(MapPartitionLost {
                    partition_id: event.partition_id,
                })
            },
        };
        Listener::spawn(Arc::clone(&self.shared), registration)
    }

    /// Groups what goes to the same partition.
    async fn by_partition<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        hash: impl Fn(&T) -> i32,
        deadline: Deadline,
    ) -> Result<BTreeMap<i32, Vec<T>>> {
        let count = self.shared.partition_count(deadline).await?;
        let mut partitions = BTreeMap::<i32, Vec<T>>::new();
        for item in items {
            partitions
                .entry(partition_id(hash(&item), count))
                .or_default()
                .push(item);
        }
        Ok(partitions)
    }
}

/// What can be read batch by batch.
trait Fetched: Sized + Send + 'static {
    /// How many are in the first batch of a partition, before their size is known.
    const FIRST_BATCH: i32;

    /// Most in one batch.
    const MAX_BATCH: i32;

    fn request(name: &str, partition: i32, pointers: &IterationPointers, batch: i32) -> Result<Request>;

    fn decode(answer: &Incoming) -> Result<(IterationPointers, Vec<Self>)>;

    /// How many bytes it has.
    fn size(&self) -> usize;
}

/// A key.
impl Fetched for Data {
    const FIRST_BATCH: i32 = 1000;
    const MAX_BATCH: i32 = 5000;

    fn request(name: &str, partition: i32, pointers: &IterationPointers, batch: i32) -> Result<Request> {
        map::fetch_keys_request(name, partition, pointers, batch)
    }

    fn decode(answer: &Incoming) -> Result<(IterationPointers, Vec<Self>)> {
        map::decode_fetch_keys(answer)
    }

    fn size(&self) -> usize {
        self.as_bytes().len()
    }
}

/// An entry.
impl Fetched for (Data, Data) {
    const FIRST_BATCH: i32 = 16;
    const MAX_BATCH: i32 = 1000;

    fn request(name: &str, partition: i32, pointers: &IterationPointers, batch: i32) -> Result<Request> {
        map::fetch_entries_request(name, partition, pointers, batch)
    }

    fn decode(answer: &Incoming) -> Result<(IterationPointers, Vec<Self>)> {
        map::decode_fetch_entries(answer)
    }

    fn size(&self) -> usize {
        let (key, value) = self;
        key.size().saturating_add(value.size())
    }
}

/// How far one partition has been read.
#[derive(Debug)]
struct Cursor {
    pointers: IterationPointers,
    batch: i32,
}

impl Cursor {
    fn new<T: Fetched>() -> Self {
        Self {
            pointers: IterationPointers::start(),
            batch: T::FIRST_BATCH,
        }
    }

    /// Moves behind a batch. Returns whether there is more.
    fn advance<T: Fetched>(&mut self, pointers: IterationPointers, batch: &[T]) -> bool {
        let bytes: usize = batch.iter().map(T::size).sum();
        if let Some(mean) = bytes.checked_div(batch.len()) {
            let fitting = i32::try_from(BATCH_BYTES / mean.max(1)).unwrap_or(T::MAX_BATCH);
            self.batch = fitting.clamp(1, T::MAX_BATCH);
        }
        self.pointers = pointers;
        !self.pointers.is_at_end()
    }
}
