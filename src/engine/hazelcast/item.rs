//! What the mailbox keeps on the cluster, as JSON: items of the queue, entries of the delivered and of the rejected map.
//!
//! Anybody may write there, so all of it is read as what a stranger wrote.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use uuid::Uuid;

use crate::engine::{Batch, MAX_BATCH_BYTES};
use crate::hazelcast::{Data, Value};
use crate::message::{MAX_IDENTIFIER_BYTES, MAX_TEXT_BYTES, Message};

/// Longest reason, in characters: a parser's own may quote what it met.
const MAX_REASON_CHARS: usize = 300;

/// Name space of the rejected map's keys, so that the same bytes always have the same key.
const REJECTED: Uuid = Uuid::from_u128(0x6b1d_9f0c_52e4_4d0a_9a47_2c8e_77f1_305b);

/// The queue's item of a batch: `{"batch":…,"messages":[…]}`.
pub(super) fn of_batch(batch: &Batch) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Item<'a> {
        batch: &'a str,
        messages: &'a [Message],
    }
    serde_json::to_string(&Item {
        batch: &batch.id,
        messages: &batch.messages,
    })
}

/// Reads an item of the queue: a batch, or a single message, which is a batch of one under its identifier.
///
/// # Errors
/// Why it cannot be read, in at most [`MAX_REASON_CHARS`].
pub(super) fn read(item: &Data) -> Result<Batch, String> {
    read_whole(item).map_err(|reason| reason.chars().take(MAX_REASON_CHARS).collect())
}

fn read_whole(item: &Data) -> Result<Batch, String> {
    let size = item.as_bytes().len();
    if size > MAX_BATCH_BYTES {
        return Err(format!("it has {size} bytes, more than {MAX_BATCH_BYTES}"));
    }
    let text = text(item).map_err(|kind| format!("it is {kind}, not JSON"))?;
    let Object(fields) = serde_json::from_str::<Object<ItemFields>>(text)
        .map_err(|cause| format!("it is no batch and no message: {cause}"))?;
    let batch = fields.into_batch()?;
    if batch.messages.is_empty() {
        return Err("it has no messages".to_owned());
    }
    // A single message's id is its identifier, and called that.
    batch.messages.iter().try_for_each(check_message)?;
    check_identifier("batch", &batch.id)?;
    Ok(batch)
}

/// The text of a JSON value or of a String, or what it is instead.
fn text(data: &Data) -> Result<&str, String> {
    match data.value() {
        Value::Json(text) | Value::String(text) => Ok(text),
        Value::Null => Err("null".to_owned()),
        Value::Bytes(_) => Err("a byte array".to_owned()),
        Value::Integer(_) => Err("an Integer".to_owned()),
        Value::Long(_) => Err("a Long".to_owned()),
        Value::Other { type_id } => Err(format!("an object of the serialized type {type_id}")),
    }
}

/// All that an item may have. Fields that nobody knows are ignored.
#[derive(DeriveDeserialize)]
struct ItemFields {
    batch: Option<String>,
    messages: Option<Vec<Object<Message>>>,
    identifier: Option<String>,
    text: Option<String>,
}

impl ItemFields {
    fn into_batch(self) -> Result<Batch, String> {
        match self {
            Self {
                batch: Some(id),
                messages: Some(messages),
                identifier: None,
                text: None,
            } => Ok(Batch {
                id,
                messages: messages.into_iter().map(|Object(message)| message).collect(),
            }),
            Self {
                batch: None,
                messages: None,
                identifier: Some(identifier),
                text: Some(text),
            } => Ok(Batch {
                id: identifier.clone(),
                messages: vec![Message { identifier, text }],
            }),
            _ => Err("it has neither exactly batch and messages nor exactly identifier and text".to_owned()),
        }
    }
}

fn check_message(message: &Message) -> Result<(), String> {
    check_identifier("identifier", &message.identifier)?;
    if message.text.len() > MAX_TEXT_BYTES {
        return Err(format!("a text has more than {MAX_TEXT_BYTES} bytes"));
    }
    Ok(())
}

fn check_identifier(field: &str, identifier: &str) -> Result<(), String> {
    if (1..=MAX_IDENTIFIER_BYTES).contains(&identifier.len()) {
        return Ok(());
    }
    Err(format!("{field} does not have 1 to {MAX_IDENTIFIER_BYTES} bytes"))
}

/// The value of the delivered map: `{"by":…,"messages":[…]}`.
pub(super) fn of_delivered(messages: &[Message], by: &str) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Entry<'a> {
        by: &'a str,
        messages: &'a [Message],
    }
    serde_json::to_string(&Entry { by, messages })
}

/// A value of the delivered map.
pub(super) struct Delivered {
    /// Id of the instance that delivered.
    pub(super) by: String,
    /// What it delivered.
    pub(super) messages: Vec<Message>,
}

/// Reads a value of the delivered map. `None` where it is anything else.
pub(super) fn read_delivered(value: &Data) -> Option<Delivered> {
    let Object(fields) = serde_json::from_str::<Object<DeliveredFields>>(value.as_json()?).ok()?;
    Some(Delivered {
        by: fields.by,
        messages: fields.messages.into_iter().map(|Object(message)| message).collect(),
    })
}

#[derive(DeriveDeserialize)]
struct DeliveredFields {
    by: String,
    messages: Vec<Object<Message>>,
}

/// Key and value of the rejected map for these bytes: the same for the same, so that to set them aside twice changes nothing.
///
/// The value is `{"reason":…,"type":…,"bytes":…,"text":…}` with the type id and the number of bytes of the serialized
/// item, and its text where it is a String or a JSON value; otherwise `"base64"` in the place of `"text"` has its bytes.
/// Of an item over [`MAX_BATCH_BYTES`] only so many bytes are kept, in base64: `bytes` tells that some are missing.
pub(super) fn of_rejected(item: &Data, reason: &str) -> serde_json::Result<(String, String)> {
    #[derive(Serialize)]
    struct Entry<'a> {
        reason: &'a str,
        r#type: i32,
        bytes: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
    }
    let bytes = item.as_bytes();
    let kept = bytes.get(..MAX_BATCH_BYTES).unwrap_or(bytes);
    let text = text(item).ok().filter(|_| kept.len() == bytes.len());
    let value = serde_json::to_string(&Entry {
        reason,
        r#type: item.type_id(),
        bytes: bytes.len(),
        text,
        base64: text.is_none().then(|| BASE64.encode(kept)),
    })?;
    Ok((Uuid::new_v5(&REJECTED, bytes).to_string(), value))
}

/// A `T` that is written as a JSON object: what serde derives would take an array of the fields' values too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value as Tree, json};

    use super::*;
    use crate::hazelcast::{Json, ToData};

    fn message(identifier: &str, text: &str) -> Message {
        Message {
            identifier: identifier.to_owned(),
            text: text.to_owned(),
        }
    }

    fn reason(item: &Data) -> String {
        read(item).unwrap_err()
    }

    fn reason_of(json: &str) -> String {
        reason(&Json(json).to_data())
    }

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        let batch = Batch {
            id: "b".to_owned(),
            messages: vec![message("1", ""), message("2", "\"\\\u{0}\u{1D11E}\u{2028}")],
        };
        let written = of_batch(&batch).unwrap();
        assert!(
            written.starts_with(r#"{"batch":"b","messages":[{"identifier":"1","text":""},"#),
            "{written}"
        );
        assert_eq!(read(&Json(&written).to_data()), Ok(batch));
    }

    #[test]
    fn a_single_message_is_a_batch_of_one_under_its_identifier() {
        let expected = Batch {
            id: "k".to_owned(),
            messages: vec![message("k", "t")],
        };
        let text = r#" {"text":"t","who":{"a":[1]},"identifier":"k"}"#;
        assert_eq!(read(&Json(text).to_data()), Ok(expected.clone()));
        assert_eq!(read(&text.to_data()), Ok(expected), "a plain String that holds it");
    }

    #[test]
    fn what_is_no_text_cannot_be_read() {
        let pickled = Bytes::from_static(b"\0\0\0\0\xFF\xFF\xFF\x9C\x80\x04K*.");
        for (item, kind) in [
            (5_i32.to_data(), "an Integer"),
            (5_i64.to_data(), "a Long"),
            (b"{}"[..].to_data(), "a byte array"),
            (Data::from_bytes(Bytes::from_static(&[0; 8])).unwrap(), "null"),
            (
                Data::from_bytes(pickled).unwrap(),
                "an object of the serialized type -100",
            ),
        ] {
            assert_eq!(reason(&item), format!("it is {kind}, not JSON"));
        }
    }

    #[test]
    fn what_is_neither_a_batch_nor_a_message_cannot_be_read() {
        for json in [
            "",
            "hello",
            "null",
            "[]",
            r#"["b",[{"identifier":"1","text":"t"}]]"#,
            "{}",
            r#"{"text":"t"}"#,
            r#"{"identifier":"1"}"#,
            r#"{"identifier":null,"text":"t"}"#,
            r#"{"identifier":1,"text":"t"}"#,
            r#"{"identifier":"1","identifier":"1","text":"t"}"#,
            r#"{"identifier":"1","text":"t"}}"#,
            r#"{"identifier":"1","text":"\ud800"}"#,
            r#"{"identifier":"","text":"t"}"#,
            r#"{"messages":[{"identifier":"1","text":"t"}]}"#,
            r#"{"batch":"b"}"#,
            r#"{"batch":"b","messages":[]}"#,
            r#"{"batch":"","messages":[{"identifier":"1","text":"t"}]}"#,
            r#"{"batch":"b","messages":{"identifier":"1","text":"t"}}"#,
            r#"{"batch":"b","messages":[["1","t"]]}"#,
            r#"{"batch":"b","messages":[{"identifier":"1","text":"t"},{"identifier":"2"}]}"#,
            r#"{"batch":"b","messages":[{"identifier":"1","text":"t"}],"identifier":"1","text":"t"}"#,
        ] {
            let reason = reason_of(json);
            assert!(
                reason.starts_with("it ") || reason.contains("1 to 256"),
                "{json}: {reason}"
            );
        }
    }

    #[test]
    fn what_is_over_a_limit_cannot_be_read_and_what_is_at_it_can() {
        let single = |identifier: usize, text: usize| {
            Json(json!({"identifier": "i".repeat(identifier), "text": "t".repeat(text)}).to_string()).to_data()
        };
        assert!(read(&single(256, 1024 * 1024)).is_ok());
        assert!(reason(&single(257, 1)).contains("identifier does not have 1 to 256 bytes"));
        assert!(reason(&single(1, 1024 * 1024 + 1)).contains("more than 1048576 bytes"));
        let whole = format!(r#"{{"identifier":"1","text":"t"{}}}"#, " ".repeat(MAX_BATCH_BYTES));
        assert!(
            reason_of(&whole).contains("more than 16777216"),
            "{}",
            reason_of(&whole)
        );
    }

    #[test]
    fn a_reason_is_short_whatever_it_quotes() {
        let long = format!(r#"{{"batch":"b","messages":"{}"}}"#, "ä".repeat(100_000));
        assert_eq!(reason_of(&long).chars().count(), MAX_REASON_CHARS);
    }

    #[test]
    fn a_delivered_entry_is_read_as_it_was_written_and_others_are_not() {
        let messages = [message("1", "a"), message("2", "b")];
        let written = of_delivered(&messages, "me").unwrap();
        let read = read_delivered(&Json(&written).to_data()).unwrap();
        assert_eq!((read.by.as_str(), &read.messages[..]), ("me", &messages[..]));
        let arrays = [r#"["me",[]]"#, r#"{"by":"me","messages":[["1","t"]]}"#].map(|json| Json(json).to_data());
        for other in [Json("{}").to_data(), 1.to_data(), written.to_data()]
            .iter()
            .chain(&arrays)
        {
            assert!(read_delivered(other).is_none(), "{other:?}");
        }
    }

    fn rejected(item: &Data) -> (String, Tree) {
        let (key, value) = of_rejected(item, "why").unwrap();
        (key, serde_json::from_str(&value).unwrap())
    }

    #[test]
    fn what_is_rejected_keeps_its_text_or_its_bytes_under_a_key_of_its_own() {
        let (first, value) = rejected(&"no json\0".to_data());
        assert_eq!(
            value,
            json!({"reason": "why", "type": -11, "bytes": 20, "text": "no json\0"})
        );
        assert_eq!(rejected(&"no json\0".to_data()).0, first);
        let (second, value) = rejected(&42.to_data());
        assert_eq!(
            value,
            json!({"reason": "why", "type": -7, "bytes": 12, "base64": "AAAAAP////kAAAAq"})
        );
        assert_ne!(first, second);
    }

    #[test]
    fn what_is_rejected_for_its_size_is_kept_up_to_the_limit() {
        let item = "x".repeat(MAX_BATCH_BYTES + 1).to_data();
        let (_, value) = rejected(&item);
        assert_eq!(value["bytes"], MAX_BATCH_BYTES + 13);
        let kept = BASE64.decode(value["base64"].as_str().unwrap()).unwrap();
        assert_eq!(kept, item.as_bytes()[..MAX_BATCH_BYTES]);
    }
}
