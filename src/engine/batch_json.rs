//! What a mailbox keeps, as JSON: batches that wait, and what was delivered.
//!
//! Anybody may write there, so all of it is read as what a stranger wrote.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use uuid::Uuid;

use super::page::Lowest;
use super::{Batch, DeliveredMessage, MAX_BATCH_BYTES};
use crate::message::{MAX_IDENTIFIER_BYTES, MAX_TEXT_BYTES, Message};

/// Longest id of an instance in a delivered entry that is on a page, in bytes: a host name has at most 253.
const MAX_BY_BYTES: usize = 512;

/// Longest reason, in characters: a parser's own may quote what it met.
const MAX_REASON_CHARS: usize = 300;

/// Name space of the keys of what is rejected, so that the same bytes always have the same key.
const REJECTED: Uuid = Uuid::from_u128(0x6b1d_9f0c_52e4_4d0a_9a47_2c8e_77f1_305b);

/// A batch that waits: `{"batch":…,"messages":[…]}`.
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

/// Reads what waits: a batch, or a single message, which is a batch of one under its identifier.
///
/// # Errors
/// Why it cannot be read, in at most [`MAX_REASON_CHARS`].
pub(super) fn read(item: &str) -> Result<Batch, String> {
    read_whole(item).map_err(|reason| reason.chars().take(MAX_REASON_CHARS).collect())
}

fn read_whole(item: &str) -> Result<Batch, String> {
    check_size(item.len())?;
    let Object(fields) = serde_json::from_str::<Object<ItemFields>>(item)
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

/// Checks how many bytes an item has.
///
/// # Errors
/// Where they are too many to read it.
pub(super) fn check_size(size: usize) -> Result<(), String> {
    if size > MAX_BATCH_BYTES {
        return Err(format!("it has {size} bytes, more than {MAX_BATCH_BYTES}"));
    }
    Ok(())
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

/// What was delivered: `{"by":…,"messages":[…]}`.
pub(super) fn of_delivered(messages: &[Message], by: &str) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Entry<'a> {
        by: &'a str,
        messages: &'a [Message],
    }
    serde_json::to_string(&Entry { by, messages })
}

/// What was delivered, and by whom. What is written without escapes is borrowed: a list is read in the time that it takes to
/// look at it, and only what is kept of it is copied.
#[derive(DeriveDeserialize)]
pub(super) struct Delivered<'a> {
    /// Id of the instance that delivered.
    #[serde(borrow)]
    by: Cow<'a, str>,
    #[serde(borrow)]
    messages: Vec<Object<DeliveredText<'a>>>,
}

/// A message that was delivered.
#[derive(PartialEq, Eq, DeriveDeserialize)]
pub(super) struct DeliveredText<'a> {
    #[serde(borrow)]
    pub(super) identifier: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) text: Cow<'a, str>,
}

impl<'a> Delivered<'a> {
    pub(super) fn messages(&self) -> impl Iterator<Item = &DeliveredText<'a>> {
        self.messages.iter().map(|Object(message)| message)
    }

    /// Whether it has just these messages.
    pub(super) fn has_just(&self, messages: &[Message]) -> bool {
        let pairs = messages.iter().map(|message| (&*message.identifier, &*message.text));
        self.messages()
            .map(|message| (&*message.identifier, &*message.text))
            .eq(pairs)
    }

    /// Whether it has the same messages as another one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.messages == other.messages
    }

    /// This message of it, copied.
    pub(super) fn copied(&self, message: &DeliveredText<'_>) -> DeliveredMessage {
        DeliveredMessage {
            message: Message {
                identifier: message.identifier.to_string(),
                text: message.text.to_string(),
            },
            by: self.by.to_string(),
        }
    }

    /// All messages of it, copied.
    pub(super) fn all_copied(&self) -> impl Iterator<Item = DeliveredMessage> {
        self.messages().map(|message| self.copied(message))
    }

    /// Puts its messages on the page, as those of the batch of this id. What is longer than anything of ours can be is left out:
    /// a page is kept whole.
    pub(super) fn put_on(&self, page: &mut Lowest<DeliveredMessage>, batch: &str) {
        if batch.len() > MAX_IDENTIFIER_BYTES || self.by.len() > MAX_BY_BYTES {
            return;
        }
        for message in self.messages() {
            if page.takes(&message.identifier) && message.text.len() <= MAX_TEXT_BYTES {
                page.put(&message.identifier, message.text.len(), batch, self.copied(message));
            }
        }
    }
}

/// Reads what was delivered. `None` where it is anything else.
pub(super) fn read_delivered(entry: &str) -> Option<Delivered<'_>> {
    let Object(delivered) = serde_json::from_str(entry).ok()?;
    Some(delivered)
}

/// The key under which these bytes are set aside where they cannot be read.
pub(super) fn rejected_key(bytes: &[u8]) -> String {
    Uuid::new_v5(&REJECTED, bytes).to_string()
}

/// A `T` that is written as a JSON object: what serde derives would take an array of the fields' values too.
#[derive(PartialEq, Eq)]
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
    use serde_json::json;

    use super::*;

    fn message(identifier: &str, text: &str) -> Message {
        Message {
            identifier: identifier.to_owned(),
            text: text.to_owned(),
        }
    }

    fn reason(item: &str) -> String {
        read(item).unwrap_err()
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
        assert_eq!(read(&written), Ok(batch));
    }

    #[test]
    fn a_single_message_is_a_batch_of_one_under_its_identifier() {
        let expected = Batch {
            id: "k".to_owned(),
            messages: vec![message("k", "t")],
        };
        let text = r#" {"text":"t","who":{"a":[1]},"identifier":"k"}"#;
        assert_eq!(read(text), Ok(expected));
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
            let reason = reason(json);
            assert!(
                reason.starts_with("it ") || reason.contains("1 to 256"),
                "{json}: {reason}"
            );
        }
    }

    #[test]
    fn what_is_over_a_limit_cannot_be_read_and_what_is_at_it_can() {
        let single = |identifier: usize, text: usize| {
            json!({"identifier": "i".repeat(identifier), "text": "t".repeat(text)}).to_string()
        };
        assert!(read(&single(256, 1024 * 1024)).is_ok());
        assert!(reason(&single(257, 1)).contains("identifier does not have 1 to 256 bytes"));
        assert!(reason(&single(1, 1024 * 1024 + 1)).contains("more than 1048576 bytes"));
        let whole = format!(r#"{{"identifier":"1","text":"t"{}}}"#, " ".repeat(MAX_BATCH_BYTES));
        assert!(reason(&whole).contains("more than 16777216"), "{}", reason(&whole));
    }

    #[test]
    fn a_reason_is_short_whatever_it_quotes() {
        let long = format!(r#"{{"batch":"b","messages":"{}"}}"#, "ä".repeat(100_000));
        assert_eq!(reason(&long).chars().count(), MAX_REASON_CHARS);
    }

    #[test]
    fn a_delivered_entry_is_read_as_it_was_written_and_others_are_not() {
        let messages = [message("1", "a"), message("2", "b")];
        let written = of_delivered(&messages, "me").unwrap();
        let read = read_delivered(&written).unwrap();
        assert!(read.has_just(&messages) && !read.has_just(&messages[1..]));
        let expected = messages.map(|message| DeliveredMessage {
            message,
            by: "me".to_owned(),
        });
        assert_eq!(read.all_copied().collect::<Vec<_>>(), expected);
        for other in ["{}", r#"["me",[]]"#, r#"{"by":"me","messages":[["1","t"]]}"#] {
            assert!(read_delivered(other).is_none(), "{other}");
        }
    }

    #[test]
    fn what_is_written_without_escapes_is_not_copied_where_it_is_looked_at() {
        let written = of_delivered(&[message("1", "plain \u{1D11E}"), message("2", "a \"quote\"")], "me").unwrap();
        let read = read_delivered(&written).unwrap();
        let is_borrowed: Vec<bool> = read
            .messages()
            .map(|message| matches!(message.text, Cow::Borrowed(_)))
            .collect();
        assert_eq!(is_borrowed, [true, false]);
    }

    #[test]
    fn the_same_bytes_have_the_same_key_and_others_another() {
        assert_eq!(rejected_key(b"a"), rejected_key(b"a"));
        assert_ne!(rejected_key(b"a"), rejected_key(b"b"));
    }
}
