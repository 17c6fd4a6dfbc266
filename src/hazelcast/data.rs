//! Serialized keys and values: what the protocol calls Data.
//!
//! Big-endian: `i32` partition hash (0 = computed from the payload), `i32` type, payload.

use std::fmt;
use std::str;

use bytes::{BufMut, Bytes, BytesMut};

use super::error::{Error, Result};
use super::partition;

/// Bytes before the payload: partition hash and type.
const HEADER_LEN: usize = 8;

/// Type ids of the reference implementation's `SerializationConstants`.
mod type_id {
    pub(super) const NULL: i32 = 0;
    pub(super) const INTEGER: i32 = -7;
    pub(super) const LONG: i32 = -8;
    pub(super) const STRING: i32 = -11;
    pub(super) const BYTE_ARRAY: i32 = -12;
    pub(super) const JSON: i32 = -130;
}

/// A serialized key or value, as the cluster stores and compares it.
///
/// Two are equal where all their bytes are. A clone shares the bytes. One that was received shares the memory that its message was
/// read into, 64 KiB or the whole message where that is larger, and keeps it alive: who keeps few of many copies them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Data(Bytes);

/// What a [`Data`] holds, for the types that this client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Null.
    Null,
    /// A Java String.
    String(&'a str),
    /// A `HazelcastJsonValue`: JSON text, not parsed.
    Json(&'a str),
    /// A Java `byte[]`.
    Bytes(&'a [u8]),
    /// A Java Integer.
    Integer(i32),
    /// A Java Long.
    Long(i64),
    /// A type that this client does not read, or a payload that its type does not allow.
    Other {
        /// The type id.
        type_id: i32,
    },
}

/// Text to be stored as a `HazelcastJsonValue`, which queries of the cluster can look into. It is not checked to be JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// What can be a key or a value in the cluster.
pub trait ToData {
    /// Serializes this; a text or byte array beyond 2 GiB gives a [`Data`] that every request refuses as too large.
    fn to_data(&self) -> Data;
}

impl Data {
    /// Takes all bytes of a serialized value, as [`Data::into_bytes`] gives them. Nothing is copied.
    ///
    /// # Errors
    /// [`Kind::Protocol`](super::Kind::Protocol) where they are too few for the header.
    pub fn from_bytes(bytes: Bytes) -> Result<Self> {
        if bytes.len() >= HEADER_LEN {
            Ok(Self(bytes))
        } else {
            Err(Error::protocol(format!(
                "a serialized value has {} bytes, fewer than its header",
                bytes.len()
            )))
        }
    }

    fn new(type_id: i32, payload: &[u8]) -> Self {
        let mut bytes = Self::header(type_id, payload.len());
        bytes.put_slice(payload);
        Self(bytes.freeze())
    }

    /// A payload with its length before it: text and byte arrays.
    fn with_length(type_id: i32, content: &[u8]) -> Self {
        let mut bytes = Self::header(type_id, content.len().saturating_add(size_of::<i32>()));
        bytes.put_i32(i32::try_from(content.len()).unwrap_or(i32::MAX));
        bytes.put_slice(content);
        Self(bytes.freeze())
    }

    fn header(type_id: i32, payload_len: usize) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(payload_len.saturating_add(HEADER_LEN));
        bytes.put_i32(0);
        bytes.put_i32(type_id);
        bytes
    }

    /// The id of the serialized type, negative for those of Hazelcast itself.
    pub fn type_id(&self) -> i32 {
        self.0
            .get(4..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |bytes| i32::from_be_bytes(*bytes))
    }

    /// The text, where this is a String.
    pub fn as_str(&self) -> Option<&str> {
        match self.value() {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The JSON text, where this is a `HazelcastJsonValue`.
    pub fn as_json(&self) -> Option<&str> {
        match self.value() {
            Value::Json(text) => Some(text),
            _ => None,
        }
    }

    /// What this holds.
    pub fn value(&self) -> Value<'_> {
        let payload = self.payload();
        let type_id = self.type_id();
        match type_id {
            type_id::NULL if payload.is_empty() => Some(Value::Null),
            type_id::INTEGER => exactly(payload).map(|bytes| Value::Integer(i32::from_be_bytes(bytes))),
            type_id::LONG => exactly(payload).map(|bytes| Value::Long(i64::from_be_bytes(bytes))),
            type_id::STRING => text(payload).map(Value::String),
            type_id::JSON => text(payload).map(Value::Json),
            type_id::BYTE_ARRAY => content(payload).map(Value::Bytes),
            _ => None,
        }
        .unwrap_or(Value::Other { type_id })
    }

    /// All bytes: hash, type, payload.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// All bytes: hash, type, payload. Nothing is copied.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The hash that decides on a key's partition: the one that travels with it, else that of the payload.
    pub(crate) fn partition_hash(&self) -> i32 {
        match self.0.first_chunk().map_or(0, |bytes| i32::from_be_bytes(*bytes)) {
            0 => partition::partition_hash(self.payload()),
            hash => hash,
        }
    }

    /// What follows the hash and the type.
    pub(super) fn payload(&self) -> &[u8] {
        self.0.get(HEADER_LEN..).unwrap_or_default()
    }
}

fn exactly<const N: usize>(payload: &[u8]) -> Option<[u8; N]> {
    payload.try_into().ok()
}

/// What follows a length that says as much.
fn content(payload: &[u8]) -> Option<&[u8]> {
    let (length, content) = payload.split_first_chunk()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    (length == content.len()).then_some(content)
}

fn text(payload: &[u8]) -> Option<&str> {
    str::from_utf8(content(payload)?).ok()
}

/// Type and length, not the content: that is the user's.
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Data")
            .field("type_id", &self.type_id())
            .field("len", &self.0.len())
            .finish()
    }
}

impl ToData for Data {
    fn to_data(&self) -> Data {
        self.clone()
    }
}

impl ToData for str {
    fn to_data(&self) -> Data {
        Data::with_length(type_id::STRING, self.as_bytes())
    }
}

impl ToData for String {
    fn to_data(&self) -> Data {
        self.as_str().to_data()
    }
}

impl ToData for [u8] {
    fn to_data(&self) -> Data {
        Data::with_length(type_id::BYTE_ARRAY, self)
    }
}

impl ToData for Vec<u8> {
    fn to_data(&self) -> Data {
        self.as_slice().to_data()
    }
}

impl ToData for i32 {
    fn to_data(&self) -> Data {
        Data::new(type_id::INTEGER, &self.to_be_bytes())
    }
}

impl ToData for i64 {
    fn to_data(&self) -> Data {
        Data::new(type_id::LONG, &self.to_be_bytes())
    }
}

impl<T: AsRef<str>> ToData for Json<T> {
    fn to_data(&self) -> Data {
        Data::with_length(type_id::JSON, self.0.as_ref().as_bytes())
    }
}

impl<T: ToData + ?Sized> ToData for &T {
    fn to_data(&self) -> Data {
        (**self).to_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(type_id: i32, payload: &[u8]) -> Data {
        Data::new(type_id, payload)
    }

    #[test]
    fn text_of_every_plane_comes_back() {
        let mut texts: Vec<String> = (0..=16_u32)
            .map(|plane| {
                let first = plane << 16;
                (first..first + 0x1_0000)
                    .step_by(0x101)
                    .filter_map(char::from_u32)
                    .collect()
            })
            .collect();
        texts.extend([String::new(), "\0".into(), "\u{10FFFF}".into(), "x".repeat(1 << 20)]);
        for text in texts {
            assert_eq!(text.to_data().as_str(), Some(text.as_str()));
            assert_eq!(text.to_data().as_json(), None);
            assert_eq!(Json(&text).to_data().as_json(), Some(text.as_str()));
            assert_eq!(Json(&text).to_data().as_str(), None);
        }
    }

    #[test]
    fn every_type_is_read_as_what_was_written() {
        assert_eq!("a".to_data().value(), Value::String("a"));
        assert_eq!(Json("{}").to_data().value(), Value::Json("{}"));
        assert_eq!(vec![0_u8, 255].to_data().value(), Value::Bytes(&[0, 255]));
        assert_eq!([].as_slice().to_data().value(), Value::Bytes(&[]));
        for number in [i32::MIN, -1, 0, 42, i32::MAX] {
            assert_eq!(number.to_data().value(), Value::Integer(number));
            assert_eq!(i64::from(number).to_data().value(), Value::Long(number.into()));
        }
        assert_eq!(i64::MIN.to_data().value(), Value::Long(i64::MIN));
        assert_eq!(raw(0, &[]).value(), Value::Null);
        assert_eq!(raw(-2, &[1]).value(), Value::Other { type_id: -2 });
    }

    #[test]
    fn the_bytes_are_hash_type_length_and_content_big_endian() {
        assert_eq!(
            "k1".to_data().as_bytes(),
            [0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xF5, 0, 0, 0, 2, b'k', b'1']
        );
        assert_eq!(
            42.to_data().as_bytes(),
            [0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xF9, 0, 0, 0, 42]
        );
    }

    #[test]
    fn a_malformed_payload_of_a_known_type_is_other() {
        for type_id in [0, -7, -8, -11, -12, -130] {
            for payload in [
                b"\0".as_slice(),
                b"\0\0\0\x05abc",
                b"\0\0\0\x01abc",
                b"\xFF\xFF\xFF\xFF",
                b"\x7F\xFF\xFF\xFF12345",
            ] {
                if type_id == -7 && payload.len() == 4 {
                    continue;
                }
                assert_eq!(raw(type_id, payload).value(), Value::Other { type_id }, "{payload:?}");
            }
        }
        for type_id in [-11, -130] {
            assert_eq!(raw(type_id, b"\0\0\0\x02\xC3\x28").value(), Value::Other { type_id });
        }
    }

    #[test]
    fn a_hash_that_travels_with_a_key_is_used() {
        let mut bytes = "k1".to_data().as_bytes().to_vec();
        bytes[..4].copy_from_slice(&7_i32.to_be_bytes());
        let data = Data::from_bytes(bytes.into()).unwrap();
        assert_eq!(data.partition_hash(), 7);
        assert_eq!(data.as_str(), Some("k1"));
    }

    #[test]
    fn a_blob_shorter_than_its_header_is_refused() {
        for len in 0..8 {
            assert!(Data::from_bytes(Bytes::from(vec![0; len])).is_err(), "{len}");
        }
        assert!(Data::from_bytes(Bytes::from(vec![0; 8])).is_ok());
    }

    #[test]
    fn debug_does_not_show_the_content() {
        let shown = format!("{:?}", "secret".to_data());
        assert_eq!(shown, "Data { type_id: -11, len: 18 }");
    }

    #[test]
    fn a_clone_and_a_reference_are_the_same_data() {
        let data = "a".to_data();
        assert_eq!(data.to_data(), data);
        assert_eq!((&&"a").to_data(), data);
        assert_eq!(data.clone().into_bytes().as_ptr(), data.as_bytes().as_ptr());
    }
}
