//! `Queue.yaml`: operations of the distributed queue, which lives in the partition of its name.
//!
//! Reads are repeated when their outcome is unknown, although the definition marks no operation of the queue retryable: they
//! change nothing. What takes an item away is never repeated: the item of the lost answer would be lost, and the next one taken.

use uuid::Uuid;

use crate::hazelcast::data::Data;
use crate::hazelcast::error::Result;
use crate::hazelcast::message::{Incoming, Request, Retry, Route};
use crate::hazelcast::partition::name_partition_hash;

use super::builder::RequestBuilder;
use super::types::{data_list, nullable_data};
use super::{Operation, decode_event};

const OFFER: Operation = Operation::new("Queue.Offer", 0x03_0100, Retry::IfRedo);
const SIZE: Operation = Operation::new("Queue.Size", 0x03_0300, Retry::Always);
const REMOVE: Operation = Operation::new("Queue.Remove", 0x03_0400, Retry::IfRedo);
const POLL: Operation = Operation::new("Queue.Poll", 0x03_0500, Retry::Never);
const PEEK: Operation = Operation::new("Queue.Peek", 0x03_0700, Retry::Always);
const ITERATOR: Operation = Operation::new("Queue.Iterator", 0x03_0800, Retry::Always);
const DRAIN_TO_MAX_SIZE: Operation = Operation::new("Queue.DrainToMaxSize", 0x03_0A00, Retry::Never);
const CLEAR: Operation = Operation::new("Queue.Clear", 0x03_0F00, Retry::IfRedo);
const ADD_ALL: Operation = Operation::new("Queue.AddAll", 0x03_1000, Retry::IfRedo);
const ADD_LISTENER: Operation = Operation::new("Queue.AddListener", 0x03_1100, Retry::Never);
const REMOVE_LISTENER: Operation = Operation::new("Queue.RemoveListener", 0x03_1200, Retry::Never);

/// Message type of the event that [`decode_item_event`] reads.
pub(crate) const ITEM_EVENT: i32 = 0x03_1102;

/// `Queue.yaml`, 3.1 `offer`: waits up to `timeout_ms` milliseconds for room in a queue that is full.
pub(crate) fn offer_request(name: &str, value: &Data, timeout_ms: i64) -> Result<Request> {
    to_queue(&OFFER, name).long(timeout_ms).string(name).data(value).build()
}

/// Whether the item was added: false where the queue stayed full.
pub(crate) fn decode_offer(incoming: &Incoming) -> Result<bool> {
    OFFER.decode(incoming, |parameters| parameters.fixed.boolean())
}

/// `Queue.yaml`, 3.3 `size`.
pub(crate) fn size_request(name: &str) -> Result<Request> {
    to_queue(&SIZE, name).string(name).build()
}

/// The number of items.
pub(crate) fn decode_size(incoming: &Incoming) -> Result<i32> {
    SIZE.decode(incoming, |parameters| parameters.fixed.int())
}

/// `Queue.yaml`, 3.4 `remove`: one item whose bytes are those of `value`, such as [`decode_iterator`] gave.
pub(crate) fn remove_request(name: &str, value: &Data) -> Result<Request> {
    to_queue(&REMOVE, name).string(name).data(value).build()
}

/// Whether there was such an item.
pub(crate) fn decode_remove(incoming: &Incoming) -> Result<bool> {
    REMOVE.decode(incoming, |parameters| parameters.fixed.boolean())
}

/// `Queue.yaml`, 3.5 `poll`: takes the first item, waiting up to `timeout_ms` milliseconds for one.
pub(crate) fn poll_request(name: &str, timeout_ms: i64) -> Result<Request> {
    to_queue(&POLL, name).long(timeout_ms).string(name).build()
}

/// The item; `None` where none came in time.
pub(crate) fn decode_poll(incoming: &Incoming) -> Result<Option<Data>> {
    POLL.decode(incoming, |parameters| nullable_data(&mut parameters.frames))
}

/// `Queue.yaml`, 3.7 `peek`.
pub(crate) fn peek_request(name: &str) -> Result<Request> {
    to_queue(&PEEK, name).string(name).build()
}

/// The first item, which stays; `None` where the queue is empty.
pub(crate) fn decode_peek(incoming: &Incoming) -> Result<Option<Data>> {
    PEEK.decode(incoming, |parameters| nullable_data(&mut parameters.frames))
}

/// `Queue.yaml`, 3.8 `iterator`.
pub(crate) fn iterator_request(name: &str) -> Result<Request> {
    to_queue(&ITERATOR, name).string(name).build()
}

/// All items in their order, which stay.
pub(crate) fn decode_iterator(incoming: &Incoming) -> Result<Vec<Data>> {
    ITERATOR.decode(incoming, |parameters| data_list(&mut parameters.frames))
}

/// `Queue.yaml`, 3.10 `drainToMaxSize`: takes the first `max_size` items.
pub(crate) fn drain_to_max_size_request(name: &str, max_size: i32) -> Result<Request> {
    to_queue(&DRAIN_TO_MAX_SIZE, name).int(max_size).string(name).build()
}

/// The items, in their order.
pub(crate) fn decode_drain_to_max_size(incoming: &Incoming) -> Result<Vec<Data>> {
    DRAIN_TO_MAX_SIZE.decode(incoming, |parameters| data_list(&mut parameters.frames))
}

/// `Queue.yaml`, 3.15 `clear`. Its response has no parameters.
pub(crate) fn clear_request(name: &str) -> Result<Request> {
    to_queue(&CLEAR, name).string(name).build()
}

/// `Queue.yaml`, 3.16 `addAll`: all of `values` in their order, or none.
pub(crate) fn add_all_request(name: &str, values: &[Data]) -> Result<Request> {
    to_queue(&ADD_ALL, name).string(name).data_list(values).build()
}

/// Whether the items were added: false where the queue has not enough room.
pub(crate) fn decode_add_all(incoming: &Incoming) -> Result<bool> {
    ADD_ALL.decode(incoming, |parameters| parameters.fixed.boolean())
}

/// `Queue.yaml`, 3.17 `addListener`, for the connection it is sent on. With `include_value` the events hold the item; with
/// `local_only` that member tells of queues it owns alone.
pub(crate) fn add_listener_request(name: &str, include_value: bool, local_only: bool) -> Result<Request> {
    ADD_LISTENER
        .request(Route::Any)
        .boolean(include_value)
        .boolean(local_only)
        .string(name)
        .build()
}

/// The registration id.
pub(crate) fn decode_add_listener(incoming: &Incoming) -> Result<Uuid> {
    ADD_LISTENER.decode(incoming, |parameters| parameters.fixed.uuid())
}

/// What happened to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemEventType {
    Added,
    Removed,
    /// What this client does not know.
    Other(i32),
}

/// An item was added or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ItemEvent {
    /// The item, where the listener asked for it.
    pub(crate) item: Option<Data>,
    /// The member that tells.
    pub(crate) member: Uuid,
    pub(crate) event_type: ItemEventType,
}

/// `Queue.yaml`, 3.17, event `Item`.
pub(crate) fn decode_item_event(incoming: &Incoming) -> Result<ItemEvent> {
    decode_event("Item", ITEM_EVENT, incoming, |parameters| {
        Ok(ItemEvent {
            member: parameters.fixed.uuid()?,
            event_type: match parameters.fixed.int()? {
                1 => ItemEventType::Added,
                2 => ItemEventType::Removed,
                other => ItemEventType::Other(other),
            },
            item: nullable_data(&mut parameters.frames)?,
        })
    })
}

/// `Queue.yaml`, 3.18 `removeListener`, on the connection that it was added on.
pub(crate) fn remove_listener_request(name: &str, registration_id: Uuid) -> Result<Request> {
    REMOVE_LISTENER
        .request(Route::Any)
        .uuid(Some(registration_id))
        .string(name)
        .build()
}

fn to_queue(operation: &Operation, name: &str) -> RequestBuilder {
    operation.request(Route::Key(name_partition_hash(name)))
}
