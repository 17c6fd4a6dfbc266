//! Some messages as bytes, for benches, which see the crate from outside. What is no bench uses [`Map`](super::Map) and
//! [`Queue`](super::Queue).

use bytes::BytesMut;

use super::codec::{map, queue};
use super::data::ToData;
use super::error::Result;
use super::message::{Incoming, MessageReader, Request};

/// A correlation id like any other.
const CORRELATION_ID: i64 = 1;

/// A partition like any other.
const PARTITION_ID: i32 = 7;

/// The most that a reader keeps, in bytes: what a client allows unless told otherwise.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Appends the request that stores `value` under `key` in the map `name`, as a connection writes it.
///
/// # Errors
/// [`Kind::TooLarge`](super::Kind) where a client would not send it.
pub fn write_set(name: &str, key: &str, value: &str, out: &mut BytesMut) -> Result<()> {
    map::set_request(name, &key.to_data(), &value.to_data()).map(|request| write(&request, out))
}

/// Appends the request that offers `item` to the queue `name`, as a connection writes it.
///
/// # Errors
/// Those of [`write_set`].
pub fn write_offer(name: &str, item: &str, out: &mut BytesMut) -> Result<()> {
    queue::offer_request(name, &item.to_data(), 0).map(|request| write(&request, out))
}

fn write(request: &Request, out: &mut BytesMut) {
    request.write_first(CORRELATION_ID, PARTITION_ID, true, out);
    out.extend_from_slice(request.rest());
}

/// Takes messages out of what a connection has received.
#[derive(Debug)]
pub struct Reader(MessageReader);

impl Default for Reader {
    fn default() -> Self {
        Self(MessageReader::new(MAX_MESSAGE_BYTES))
    }
}

impl Reader {
    /// Takes the next message, whatever it is. Returns how many bytes it has on the wire; `None` where it is not whole.
    ///
    /// # Errors
    /// [`Kind::Protocol`](super::Kind) where the bytes are no messages.
    pub fn skip(&mut self, buffer: &mut BytesMut) -> Result<Option<usize>> {
        Ok(self.0.next(buffer)?.map(|message| message.len()))
    }

    /// Takes the next message, an answer to `Map.Get`. Returns how many bytes the value has, serialized; `None` where there is
    /// none, or the message is not whole.
    ///
    /// # Errors
    /// [`Kind::Protocol`](super::Kind) where the bytes are no such answer.
    pub fn value(&mut self, buffer: &mut BytesMut) -> Result<Option<usize>> {
        let value = self.read(buffer, map::decode_get)?.flatten();
        Ok(value.map(|value| value.as_bytes().len()))
    }

    /// Takes the next message, an answer to `Map.FetchEntries`. Returns how many entries it has; `None` where it is not whole.
    ///
    /// # Errors
    /// [`Kind::Protocol`](super::Kind) where the bytes are no such answer.
    pub fn entries(&mut self, buffer: &mut BytesMut) -> Result<Option<usize>> {
        let batch = self.read(buffer, map::decode_fetch_entries)?;
        Ok(batch.map(|(_, entries)| entries.len()))
    }

    fn read<T>(&mut self, buffer: &mut BytesMut, decode: fn(&Incoming) -> Result<T>) -> Result<Option<T>> {
        self.0.next(buffer)?.map(|message| decode(&message)).transpose()
    }
}
