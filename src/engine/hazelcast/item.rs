//! What the mailbox keeps on the cluster: items of the queue, entries of the delivered and of the rejected map, mostly as JSON.
//!
//! Anybody may write there, so all of it is read as what a stranger wrote.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use crate::engine::batch_json::{self, Delivered};
use crate::engine::{Batch, MAX_BATCH_BYTES};
use crate::hazelcast::{Data, Value};

/// Reads an item of the queue: a batch, or a single message, which is a batch of one under its identifier.
///
/// # Errors
/// Why it cannot be read, in a few words.
pub(super) fn read(item: &Data) -> Result<Batch, String> {
    batch_json::check_size(item.as_bytes().len())?;
    let text = text(item).map_err(|kind| format!("it is {kind}, not JSON"))?;
    batch_json::read(text)
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

/// Reads a value of the delivered map. `None` where it is anything else.
pub(super) fn read_delivered(value: &Data) -> Option<Delivered<'_>> {
    batch_json::read_delivered(value.as_json()?)
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
    Ok((batch_json::rejected_key(bytes), value))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value as Tree, json};

    use super::*;
    use crate::hazelcast::{Json, ToData};
    use crate::message::Message;

    const SINGLE: &str = r#"{"text":"t","identifier":"k"}"#;

    fn reason(item: &Data) -> String {
        read(item).unwrap_err()
    }

    #[test]
    fn an_item_is_a_json_value_or_a_plain_string_that_holds_one() {
        let message = Message {
            identifier: "k".to_owned(),
            text: "t".to_owned(),
        };
        let expected = Batch {
            id: "k".to_owned(),
            messages: vec![message],
        };
        assert_eq!(read(&Json(SINGLE).to_data()), Ok(expected.clone()));
        assert_eq!(read(&SINGLE.to_data()), Ok(expected));
        assert!(reason(&"hello".to_data()).starts_with("it is no batch and no message"));
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
    fn what_is_too_large_is_not_even_parsed() {
        let whole = Json(format!("{SINGLE}{}", " ".repeat(MAX_BATCH_BYTES))).to_data();
        assert!(reason(&whole).contains("more than 16777216"), "{}", reason(&whole));
    }

    #[test]
    fn a_delivered_entry_is_a_json_value_and_nothing_else() {
        let written = batch_json::of_delivered(&[], "me").unwrap();
        assert!(read_delivered(&Json(&written).to_data()).unwrap().has_just(&[]));
        for other in [1.to_data(), written.to_data()] {
            assert!(read_delivered(&other).is_none(), "{other:?}");
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
