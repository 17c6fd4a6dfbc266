//! Messages: requests to be sent, and the reader that makes messages of what a connection receives.
//!
//! A message is frames up to one with the final flag. The first one's content: `i32` type, `i64` correlation id, then for a
//! request and an event `i32` partition id, for a response `u8` backup acknowledgements; then the parameters of fixed size.
//! Source: Open Binary Client Protocol, sections "Message" and "Fragmentation".

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::error::{Error, Result};
use super::frame::{self, Frames};

/// Bytes before the fixed-size parameters of a request's or an event's first frame: type, correlation id, partition id.
pub(crate) const REQUEST_HEADER_LEN: usize = 16;

/// Bytes before the fixed-size parameters of a response's first frame: type, correlation id, backup acknowledgements.
const RESPONSE_HEADER_LEN: usize = 13;

/// The most messages that may have fragments outstanding on one connection: it bounds what the bookkeeping takes.
const MAX_FRAGMENTED_MESSAGES: usize = 1024;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To any member.
    Any,
    /// To the owner of the partition with this hash: a key's, or that of a structure's name.
    Key(i32),
    /// To the owner of the partition with this id.
    Partition(i32),
}

/// When a call whose outcome is unknown may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It changes nothing, or the same whether it is applied once or twice.
    Always,
    /// A mutation that may be repeated if the user allowed it.
    IfRedo,
    /// It takes something away with its answer, or is bound to one connection.
    Never,
}

/// One request, ready to be sent any number of times: the first frame is finished per try, the rest is shared and never copied.
#[derive(Clone)]
pub(crate) struct Request {
    /// The protocol's own name, such as `Map.Set`, for errors and logs.
    pub(crate) operation: &'static str,
    pub(crate) route: Route,
    pub(crate) retry: Retry,
    pub(super) message_type: i32,
    /// The parameters of fixed size, which the first frame ends with.
    pub(super) fixed: Bytes,
    /// The frames after the first.
    pub(super) rest: Bytes,
}

impl Request {
    /// Bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        frame::HEADER_LEN
            .saturating_add(REQUEST_HEADER_LEN)
            .saturating_add(self.fixed.len())
            .saturating_add(self.rest.len())
    }

    /// Appends the first frame. `partition_id` is -1 where the request has none. `backup_aware` asks the member to answer before
    /// its backups do, and the backups to tell this client: set it only where a backup listener is registered on the connection.
    pub(crate) fn write_first(&self, correlation_id: i64, partition_id: i32, backup_aware: bool, out: &mut BytesMut) {
        let mut flags = frame::UNFRAGMENTED;
        if self.rest.is_empty() {
            flags |= frame::FINAL;
        }
        if backup_aware {
            flags |= frame::BACKUP_AWARE;
        }
        frame::put_header(out, REQUEST_HEADER_LEN.saturating_add(self.fixed.len()), flags);
        out.put_i32_le(self.message_type);
        out.put_i64_le(correlation_id);
        out.put_i32_le(partition_id);
        out.put_slice(&self.fixed);
    }

    /// The frames after the first, to be sent after it; empty where the first is all.
    pub(crate) fn rest(&self) -> &Bytes {
        &self.rest
    }

    /// Whether `incoming` is this request's answer, and not an error.
    ///
    /// # Errors
    /// The member's error, where that is what it answered; `Protocol` where it answered something else.
    pub(crate) fn check_answer(&self, incoming: &Incoming) -> Result<()> {
        if let Some(error) = incoming.as_error() {
            return Err(error);
        }
        if incoming.message_type == self.message_type.saturating_add(1) {
            Ok(())
        } else {
            Err(Error::protocol(format!(
                "{} was answered by a message of type 0x{:06X}",
                self.operation, incoming.message_type
            )))
        }
    }
}

/// Without the content, which is the user's.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("operation", &self.operation)
            .field("route", &self.route)
            .field("retry", &self.retry)
            .field("len", &self.len())
            .finish()
    }
}

/// One whole message from a member: a response, an error or an event.
pub(crate) struct Incoming {
    bytes: Bytes,
    flags: u16,
    message_type: i32,
    correlation_id: i64,
}

impl Incoming {
    /// `bytes` are whole frames, the message's own first one at their start.
    fn new(bytes: Bytes) -> Result<Self> {
        let first = Frames::new(&bytes).next()?;
        let too_short = || Error::protocol("a message's first frame is too short for its header");
        let (&message_type, after_type) = first.content.split_first_chunk().ok_or_else(too_short)?;
        let &correlation_id = after_type.first_chunk().ok_or_else(too_short)?;
        let incoming = Self {
            flags: first.flags,
            message_type: i32::from_le_bytes(message_type),
            correlation_id: i64::from_le_bytes(correlation_id),
            bytes: bytes.clone(),
        };
        if first.content.len() < incoming.header_len() {
            return Err(too_short());
        }
        Ok(incoming)
    }

    fn header_len(&self) -> usize {
        if self.is_event() || self.is_backup_event() {
            REQUEST_HEADER_LEN
        } else {
            RESPONSE_HEADER_LEN
        }
    }

    /// Bytes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The protocol's message type: 0 is an error, that of a response is the request's + 1, those of events follow.
    pub(crate) fn message_type(&self) -> i32 {
        self.message_type
    }

    /// The correlation id of the request that this answers, or that registered the listener of this event.
    pub(crate) fn correlation_id(&self) -> i64 {
        self.correlation_id
    }

    /// Whether this is an event for a listener.
    pub(crate) fn is_event(&self) -> bool {
        self.flags & frame::EVENT != 0
    }

    /// Whether this is a backup's acknowledgement (`codec::client::decode_backup_event`).
    pub(crate) fn is_backup_event(&self) -> bool {
        self.flags & frame::BACKUP_EVENT != 0
    }

    /// How many backups will acknowledge this response's operation by events of their own; 0 for an event.
    pub(crate) fn backup_acks(&self) -> u8 {
        if self.header_len() == REQUEST_HEADER_LEN {
            return 0;
        }
        self.first_content()
            .get(RESPONSE_HEADER_LEN - 1)
            .copied()
            .unwrap_or_default()
    }

    /// The parameters of fixed size, in the first frame.
    pub(crate) fn fixed(&self) -> &[u8] {
        self.first_content().get(self.header_len()..).unwrap_or_default()
    }

    /// The frames after the first: all other parameters.
    pub(crate) fn frames(&self) -> Frames<'_> {
        let mut frames = Frames::new(&self.bytes);
        // The first frame was read when this was made, so it is there.
        let _ = frames.next();
        frames
    }

    fn first_content(&self) -> &[u8] {
        Frames::new(&self.bytes).next().map_or(&[], |frame| frame.content)
    }
}

/// Without the content, which is the user's.
impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("message_type", &format_args!("0x{:06X}", self.message_type))
            .field("correlation_id", &self.correlation_id)
            .field("flags", &format_args!("0x{:04X}", self.flags))
            .field("len", &self.len())
            .finish()
    }
}

/// Takes bytes as they arrive and hands out whole messages, fragments joined.
///
/// What it keeps is bounded: a message, and all unfinished ones together, may not exceed the limit it was made with.
/// After an error the place of the next message is lost: the connection must be closed.
#[derive(Debug)]
pub(crate) struct MessageReader {
    max_bytes: usize,
    /// How much of the buffer is known to be whole frames of the message at its start.
    scanned: usize,
    /// Messages of which not all fragments came yet, by fragment id.
    unfinished: HashMap<i64, BytesMut>,
    unfinished_bytes: usize,
}

impl MessageReader {
    /// `max_message_bytes` limits a message, its headers included, and what is kept of all unfinished ones.
    pub(crate) fn new(max_message_bytes: usize) -> Self {
        Self {
            max_bytes: max_message_bytes,
            scanned: 0,
            unfinished: HashMap::new(),
            unfinished_bytes: 0,
        }
    }

    /// Takes the next message out of `buffer`, where it is whole; else leaves the buffer, which must be the same at the next call
    /// but for bytes appended. A message shares the buffer's memory; one that came in fragments is copied together.
    ///
    /// # Errors
    /// `Protocol` where the bytes are no messages, or one that exceeds the limit.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Incoming>> {
        while self.scan(buffer)? {
            let message = buffer.split_to(self.scanned).freeze();
            self.scanned = 0;
            let first = Frames::new(&message).next()?;
            if first.flags & frame::UNFRAGMENTED == frame::UNFRAGMENTED {
                return Incoming::new(message).map(Some);
            }
            let frames = message
                .get(frame::HEADER_LEN.saturating_add(first.content.len())..)
                .unwrap_or_default();
            if let Some(joined) = self.join(first.flags, first.content, frames)? {
                return Incoming::new(joined).map(Some);
            }
        }
        Ok(None)
    }

    /// Moves `scanned` over the frames that are there; true where it stands behind a final one.
    fn scan(&mut self, buffer: &[u8]) -> Result<bool> {
        loop {
            let left = buffer.get(self.scanned..).unwrap_or_default();
            let Some(header) = frame::read_header(left)? else {
                return Ok(false);
            };
            let end = self.scanned.saturating_add(header.length);
            if end.saturating_add(self.unfinished_bytes) > self.max_bytes {
                return Err(Error::protocol(format!(
                    "a message exceeds the limit of {} bytes",
                    self.max_bytes
                )));
            }
            if header.length > left.len() {
                return Ok(false);
            }
            self.scanned = end;
            if header.flags & frame::FINAL != 0 {
                return Ok(true);
            }
        }
    }

    /// Adds a fragment's `frames` to its message, and gives that out where this was the last one.
    fn join(&mut self, flags: u16, fragment_id: &[u8], frames: &[u8]) -> Result<Option<Bytes>> {
        let &fragment_id = fragment_id
            .first_chunk()
            .ok_or_else(|| Error::protocol("a fragment has no fragment id"))?;
        let outstanding = self.unfinished.len();
        let mut entry = match self.unfinished.entry(i64::from_le_bytes(fragment_id)) {
            Entry::Vacant(vacant) if flags & frame::BEGIN_FRAGMENT != 0 => {
                if outstanding >= MAX_FRAGMENTED_MESSAGES {
                    return Err(Error::protocol(format!(
                        "more than {MAX_FRAGMENTED_MESSAGES} messages have fragments outstanding"
                    )));
                }
                vacant.insert_entry(BytesMut::new())
            }
            Entry::Occupied(occupied) if flags & frame::BEGIN_FRAGMENT == 0 => occupied,
            Entry::Vacant(_) => return Err(Error::protocol("a fragment continues a message that did not begin")),
            Entry::Occupied(_) => return Err(Error::protocol("a fragment begins a message that began already")),
        };
        entry.get_mut().extend_from_slice(frames);
        self.unfinished_bytes = self.unfinished_bytes.saturating_add(frames.len());
        if flags & frame::END_FRAGMENT == 0 {
            return Ok(None);
        }
        let joined = entry.remove();
        self.unfinished_bytes = self.unfinished_bytes.saturating_sub(joined.len());
        Ok(Some(joined.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_are_there_are_scanned_once() {
        let mut reader = MessageReader::new(1 << 20);
        let mut buffer = BytesMut::new();
        frame::put_frame(&mut buffer, &[0; 13], frame::UNFRAGMENTED);
        for _ in 0..100 {
            frame::put_frame(&mut buffer, &[0; 50], 0);
            let whole_frames = buffer.len();
            buffer.put_slice(&[56, 0, 0, 0, 0, 0, 1, 2, 3]);
            assert!(reader.next(&mut buffer).unwrap().is_none());
            assert_eq!(
                reader.scanned, whole_frames,
                "the next call starts behind the last whole frame"
            );
            buffer.truncate(whole_frames);
        }
        frame::put_frame(&mut buffer, &[], frame::FINAL);
        assert!(reader.next(&mut buffer).unwrap().is_some());
        assert_eq!(reader.scanned, 0);
    }
}
