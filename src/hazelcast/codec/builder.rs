//! Requests out of parameters.

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use crate::hazelcast::data::Data;
use crate::hazelcast::error::{Error, Kind, Result};
use crate::hazelcast::frame;
use crate::hazelcast::message::{REQUEST_HEADER_LEN, Request, Retry, Route};

/// The most bytes that a request may have on the wire. A frame could say 2 GiB, but a member has to hold it several times.
pub(crate) const MAX_REQUEST_BYTES: usize = 256 << 20;

/// Collects a request's parameters, in the order of the protocol's definition: first those of fixed size, then the others.
pub(crate) struct RequestBuilder {
    operation: &'static str,
    message_type: i32,
    route: Route,
    retry: Retry,
    fixed: BytesMut,
    rest: BytesMut,
    last_frame: usize,
    /// Bytes on the wire. Beyond the limit it counts on, and nothing is copied any more.
    size: usize,
}

impl RequestBuilder {
    pub(super) fn new(operation: &'static str, message_type: i32, route: Route, retry: Retry) -> Self {
        Self {
            operation,
            message_type,
            route,
            retry,
            fixed: BytesMut::new(),
            rest: BytesMut::new(),
            last_frame: 0,
            size: frame::HEADER_LEN + REQUEST_HEADER_LEN,
        }
    }

    pub(super) fn byte(self, value: u8) -> Self {
        self.fixed(&[value])
    }

    pub(super) fn boolean(self, value: bool) -> Self {
        self.byte(value.into())
    }

    pub(super) fn int(self, value: i32) -> Self {
        self.fixed(&value.to_le_bytes())
    }

    pub(super) fn long(self, value: i64) -> Self {
        self.fixed(&value.to_le_bytes())
    }

    /// 17 bytes, null or not.
    pub(super) fn uuid(self, value: Option<Uuid>) -> Self {
        let (most, least) = value.unwrap_or_default().as_u64_pair();
        self.boolean(value.is_none())
            .fixed(&most.to_le_bytes())
            .fixed(&least.to_le_bytes())
    }

    pub(super) fn string(mut self, value: &str) -> Self {
        self.frame(value.as_bytes(), 0);
        self
    }

    pub(super) fn nullable_string(mut self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.frame(value.as_bytes(), 0),
            None => self.frame(&[], frame::NULL),
        }
        self
    }

    pub(super) fn data(mut self, value: &Data) -> Self {
        self.frame(value.as_bytes(), 0);
        self
    }

    pub(super) fn string_list(self, values: &[&str]) -> Self {
        self.list(values.iter().map(|value| value.as_bytes()))
    }

    pub(super) fn data_list(self, values: &[Data]) -> Self {
        self.list(values.iter().map(Data::as_bytes))
    }

    pub(super) fn entry_list(self, entries: &[(Data, Data)]) -> Self {
        self.list(
            entries
                .iter()
                .flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]),
        )
    }

    /// A list of pairs of fixed size: one frame.
    pub(super) fn int_pair_list(mut self, pairs: &[(i32, i32)]) -> Self {
        let mut content = BytesMut::with_capacity(pairs.len().saturating_mul(2 * size_of::<i32>()));
        for &(first, second) in pairs {
            content.put_i32_le(first);
            content.put_i32_le(second);
        }
        self.frame(&content, 0);
        self
    }

    /// # Errors
    /// `TooLarge` where the request would exceed [`MAX_REQUEST_BYTES`].
    pub(super) fn build(mut self) -> Result<Request> {
        if self.size > MAX_REQUEST_BYTES {
            return Err(Error::new(
                Kind::TooLarge,
                format!(
                    "{} was not sent: it would have {} bytes, and a request may have {MAX_REQUEST_BYTES}",
                    self.operation, self.size
                ),
            ));
        }
        frame::add_flags(&mut self.rest, self.last_frame, frame::FINAL);
        Ok(Request {
            operation: self.operation,
            route: self.route,
            retry: self.retry,
            message_type: self.message_type,
            fixed: self.fixed.freeze(),
            rest: self.rest.freeze(),
        })
    }

    fn fixed(mut self, bytes: &[u8]) -> Self {
        self.size = self.size.saturating_add(bytes.len());
        self.fixed.put_slice(bytes);
        self
    }

    /// A list of items of variable size, a frame each.
    fn list<'a>(mut self, items: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let bytes = items.clone().fold(2 * frame::HEADER_LEN, |sum, item| {
            sum.saturating_add(item.len()).saturating_add(frame::HEADER_LEN)
        });
        if self.size.saturating_add(bytes) <= MAX_REQUEST_BYTES {
            self.rest.reserve(bytes);
        }
        self.frame(&[], frame::BEGIN_STRUCT);
        for item in items {
            self.frame(item, 0);
        }
        self.frame(&[], frame::END_STRUCT);
        self
    }

    fn frame(&mut self, content: &[u8], flags: u16) {
        self.size = self
            .size
            .saturating_add(content.len())
            .saturating_add(frame::HEADER_LEN);
        if self.size <= MAX_REQUEST_BYTES {
            self.last_frame = self.rest.len();
            frame::put_frame(&mut self.rest, content, flags);
        }
    }
}
