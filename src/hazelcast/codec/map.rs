//! `Map.yaml`: operations of the distributed map.
//!
//! Reads are repeated when their outcome is unknown, also where the definition does not mark them retryable: they change nothing.

use uuid::Uuid;

use crate::hazelcast::data::Data;
use crate::hazelcast::error::Result;
use crate::hazelcast::message::{Incoming, Request, Retry, Route};

use super::types::{data_list, entry_list, int_pair_list, nullable_data};
use super::{Operation, decode_event};

const PUT: Operation = Operation::new("Map.Put", 0x01_0100, Retry::IfRedo);
const GET: Operation = Operation::new("Map.Get", 0x01_0200, Retry::Always);
const REMOVE: Operation = Operation::new("Map.Remove", 0x01_0300, Retry::IfRedo);
const REPLACE_IF_SAME: Operation = Operation::new("Map.ReplaceIfSame", 0x01_0500, Retry::IfRedo);
const CONTAINS_KEY: Operation = Operation::new("Map.ContainsKey", 0x01_0600, Retry::Always);
const PUT_IF_ABSENT: Operation = Operation::new("Map.PutIfAbsent", 0x01_0E00, Retry::IfRedo);
const SET: Operation = Operation::new("Map.Set", 0x01_0F00, Retry::IfRedo);
const ADD_PARTITION_LOST_LISTENER: Operation = Operation::new("Map.AddPartitionLostListener", 0x01_1B00, Retry::Never);
const REMOVE_PARTITION_LOST_LISTENER: Operation =
    Operation::new("Map.RemovePartitionLostListener", 0x01_1C00, Retry::Never);
const KEY_SET: Operation = Operation::new("Map.KeySet", 0x01_2200, Retry::Always);
const GET_ALL: Operation = Operation::new("Map.GetAll", 0x01_2300, Retry::Always);
const VALUES: Operation = Operation::new("Map.Values", 0x01_2400, Retry::Always);
const ENTRY_SET: Operation = Operation::new("Map.EntrySet", 0x01_2500, Retry::Always);
const SIZE: Operation = Operation::new("Map.Size", 0x01_2A00, Retry::Always);
const PUT_ALL: Operation = Operation::new("Map.PutAll", 0x01_2C00, Retry::IfRedo);
const CLEAR: Operation = Operation::new("Map.Clear", 0x01_2D00, Retry::IfRedo);
const FETCH_KEYS: Operation = Operation::new("Map.FetchKeys", 0x01_3700, Retry::Always);
const FETCH_ENTRIES: Operation = Operation::new("Map.FetchEntries", 0x01_3800, Retry::Always);

/// Message type of the event that [`decode_partition_lost_event`] reads.
pub(crate) const PARTITION_LOST_EVENT: i32 = 0x01_1B02;

/// The calling thread, which only locks care about: this client takes none.
const THREAD_ID: i64 = 1;

/// The time to live that the map's configuration says, in place of one of this entry's own.
const TTL_OF_MAP: i64 = -1;

/// `Map.yaml`, 1.1 `put`: stores and answers the value that was there.
pub(crate) fn put_request(name: &str, key: &Data, value: &Data) -> Result<Request> {
    store(&PUT, name, key, value)
}

/// The value that was there.
pub(crate) fn decode_put(incoming: &Incoming) -> Result<Option<Data>> {
    PUT.decode(incoming, |parameters| nullable_data(&mut parameters.frames))
}

/// `Map.yaml`, 1.2 `get`.
pub(crate) fn get_request(name: &str, key: &Data) -> Result<Request> {
    of_key(&GET, name, key)
}

/// The value, where there is one.
pub(crate) fn decode_get(incoming: &Incoming) -> Result<Option<Data>> {
    GET.decode(incoming, |parameters| nullable_data(&mut parameters.frames))
}

/// `Map.yaml`, 1.3 `remove`.
pub(crate) fn remove_request(name: &str, key: &Data) -> Result<Request> {
    of_key(&REMOVE, name, key)
}

/// The value that was there.
pub(crate) fn decode_remove(incoming: &Incoming) -> Result<Option<Data>> {
    REMOVE.decode(incoming, |parameters| nullable_data(&mut parameters.frames))
}

/// `Map.yaml`, 1.5 `replaceIfSame`: stores `value` where the bytes there are those of `test_value`.
pub(crate) fn replace_if_same_request(name: &str, key: &Data, test_value: &Data, value: &Data) -> Result<Request> {
    REPLACE_IF_SAME
        .request(Route::Key(key.partition_hash()))
        .long(THREAD_ID)
        .string(name)
        .data(key)
        .data(test_value)
        .data(value)
        .build()
}

/// Whether it was replaced. A repeated call may say false although its first try was applied.
pub(crate) fn decode_replace_if_same(incoming: &Incoming) -> Result<bool> {
    REPLACE_IF_SAME.decode(incoming, |parameters| parameters.fixed.boolean())
}

/// `Map.yaml`, 1.6 `containsKey`.
pub(crate) fn contains_key_request(name: &str, key: &Data) -> Result<Request> {
    of_key(&CONTAINS_KEY, name, key)
}

/// Whether the key has a value.
pub(crate) fn decode_contains_key(incoming: &Incoming) -> Result<bool> {
    CONTAINS_KEY.decode(incoming, |parameters| parameters.fixed.boolean())
}

/// `Map.yaml`, 1.14 `putIfAbsent`.
pub(crate) fn put_if_absent_request(name: &str, key: &Data, value: &Data) -> Result<Request> {
    store(&PUT_IF_ABSENT, name, key, value)
}

/// The value that was there, which stays.
pub(crate) fn decode_put_if_absent(incoming: &Incoming) -> Result<Option<Data>> {
    PUT_IF_ABSENT.decode(incoming, |parameters| nullable_data(&mut parameters.frames))
}

/// `Map.yaml`, 1.15 `set`: stores; its response has no parameters.
pub(crate) fn set_request(name: &str, key: &Data, value: &Data) -> Result<Request> {
    store(&SET, name, key, value)
}

/// `Map.yaml`, 1.27 `addPartitionLostListener`, for the connection it is sent on. With `local_only`, that member tells of its own
/// partitions alone.
pub(crate) fn add_partition_lost_listener_request(name: &str, local_only: bool) -> Result<Request> {
    ADD_PARTITION_LOST_LISTENER
        .request(Route::Any)
        .boolean(local_only)
        .string(name)
        .build()
}

/// The registration id.
pub(crate) fn decode_add_partition_lost_listener(incoming: &Incoming) -> Result<Uuid> {
    ADD_PARTITION_LOST_LISTENER.decode(incoming, |parameters| parameters.fixed.uuid())
}

/// `Map.yaml`, 1.28 `removePartitionLostListener`, on the connection that it was added on.
pub(crate) fn remove_partition_lost_listener_request(name: &str, registration_id: Uuid) -> Result<Request> {
    REMOVE_PARTITION_LOST_LISTENER
        .request(Route::Any)
        .uuid(Some(registration_id))
        .string(name)
        .build()
}

/// A partition of a map lost its owner and all backups: its entries are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapPartitionLost {
    pub(crate) partition_id: i32,
    /// The member that tells.
    pub(crate) member: Uuid,
}

/// `Map.yaml`, 1.27, event `MapPartitionLost`.
pub(crate) fn decode_partition_lost_event(incoming: &Incoming) -> Result<MapPartitionLost> {
    decode_event("MapPartitionLost", PARTITION_LOST_EVENT, incoming, |parameters| {
        Ok(MapPartitionLost {
            partition_id: parameters.fixed.int()?,
            member: parameters.fixed.uuid()?,
        })
    })
}

/// `Map.yaml`, 1.34 `keySet`.
pub(crate) fn key_set_request(name: &str) -> Result<Request> {
    of_map(&KEY_SET, name)
}

/// All keys.
pub(crate) fn decode_key_set(incoming: &Incoming) -> Result<Vec<Data>> {
    KEY_SET.decode(incoming, |parameters| data_list(&mut parameters.frames))
}

/// `Map.yaml`, 1.35 `getAll`: the keys must all be of the partition named, others are ignored.
pub(crate) fn get_all_request(name: &str, partition_id: i32, keys: &[Data]) -> Result<Request> {
    GET_ALL
        .request(Route::Partition(partition_id))
        .string(name)
        .data_list(keys)
        .build()
}

/// The entries of those keys that have a value.
pub(crate) fn decode_get_all(incoming: &Incoming) -> Result<Vec<(Data, Data)>> {
    GET_ALL.decode(incoming, |parameters| entry_list(&mut parameters.frames))
}

/// `Map.yaml`, 1.36 `values`.
pub(crate) fn values_request(name: &str) -> Result<Request> {
    of_map(&VALUES, name)
}

/// All values, in no order.
pub(crate) fn decode_values(incoming: &Incoming) -> Result<Vec<Data>> {
    VALUES.decode(incoming, |parameters| data_list(&mut parameters.frames))
}

/// `Map.yaml`, 1.37 `entrySet`.
pub(crate) fn entry_set_request(name: &str) -> Result<Request> {
    of_map(&ENTRY_SET, name)
}

/// All entries, in no order.
pub(crate) fn decode_entry_set(incoming: &Incoming) -> Result<Vec<(Data, Data)>> {
    ENTRY_SET.decode(incoming, |parameters| entry_list(&mut parameters.frames))
}

/// `Map.yaml`, 1.42 `size`.
pub(crate) fn size_request(name: &str) -> Result<Request> {
    of_map(&SIZE, name)
}

/// The number of entries.
pub(crate) fn decode_size(incoming: &Incoming) -> Result<i32> {
    SIZE.decode(incoming, |parameters| parameters.fixed.int())
}

/// `Map.yaml`, 1.44 `putAll`: the keys must all be of the partition named, others are ignored. No map loader is asked for old values.
/// Its response has no parameters.
pub(crate) fn put_all_request(name: &str, partition_id: i32, entries: &[(Data, Data)]) -> Result<Request> {
    PUT_ALL
        .request(Route::Partition(partition_id))
        .boolean(false) // triggerMapLoader, since 2.1
        .string(name)
        .entry_list(entries)
        .build()
}

/// `Map.yaml`, 1.45 `clear`. Its response has no parameters.
pub(crate) fn clear_request(name: &str) -> Result<Request> {
    of_map(&CLEAR, name)
}

/// How far an iteration over a partition came, in the member's own terms: a table's index and size, one pair for each size that
/// the table had meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IterationPointers(Vec<(i32, i32)>);

impl IterationPointers {
    pub(crate) fn start() -> Self {
        Self(vec![(i32::MAX, -1)])
    }

    /// Whether nothing is left. A batch without entries ends an iteration as well.
    pub(crate) fn is_at_end(&self) -> bool {
        self.0.last().is_none_or(|&(index, _)| index < 0)
    }
}

/// `Map.yaml`, 1.55 `fetchKeys`: about `batch` keys of a partition, from where `pointers` stand.
pub(crate) fn fetch_keys_request(
    name: &str,
    partition_id: i32,
    pointers: &IterationPointers,
    batch: i32,
) -> Result<Request> {
    fetch(&FETCH_KEYS, name, partition_id, pointers, batch)
}

/// Where the next batch starts, and this one's keys.
pub(crate) fn decode_fetch_keys(incoming: &Incoming) -> Result<(IterationPointers, Vec<Data>)> {
    FETCH_KEYS.decode(incoming, |parameters| {
        let pointers = int_pair_list(&mut parameters.frames)?;
        Ok((IterationPointers(pointers), data_list(&mut parameters.frames)?))
    })
}

/// `Map.yaml`, 1.56 `fetchEntries`: about `batch` entries of a partition, from where `pointers` stand.
pub(crate) fn fetch_entries_request(
    name: &str,
    partition_id: i32,
    pointers: &IterationPointers,
    batch: i32,
) -> Result<Request> {
    fetch(&FETCH_ENTRIES, name, partition_id, pointers, batch)
}

/// Where the next batch starts, and this one's entries.
pub(crate) fn decode_fetch_entries(incoming: &Incoming) -> Result<(IterationPointers, Vec<(Data, Data)>)> {
    FETCH_ENTRIES.decode(incoming, |parameters| {
        let pointers = int_pair_list(&mut parameters.frames)?;
        Ok((IterationPointers(pointers), entry_list(&mut parameters.frames)?))
    })
}

fn fetch(
    operation: &Operation,
    name: &str,
    partition_id: i32,
    pointers: &IterationPointers,
    batch: i32,
) -> Result<Request> {
    operation
        .request(Route::Partition(partition_id))
        .int(batch)
        .string(name)
        .int_pair_list(&pointers.0)
        .build()
}

fn of_map(operation: &Operation, name: &str) -> Result<Request> {
    operation.request(Route::Any).string(name).build()
}

fn of_key(operation: &Operation, name: &str, key: &Data) -> Result<Request> {
    operation
        .request(Route::Key(key.partition_hash()))
        .long(THREAD_ID)
        .string(name)
        .data(key)
        .build()
}

fn store(operation: &Operation, name: &str, key: &Data, value: &Data) -> Result<Request> {
    operation
        .request(Route::Key(key.partition_hash()))
        .long(THREAD_ID)
        .long(TTL_OF_MAP)
        .string(name)
        .data(key)
        .data(value)
        .build()
}
