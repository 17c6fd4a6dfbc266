//! [`Message`]: the word that all parts share.

use serde::{Deserialize, Serialize};

/// Longest text of a message, in bytes of UTF-8: 1 MiB.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// Longest identifier, in bytes of UTF-8. The shortest has one byte.
pub const MAX_IDENTIFIER_BYTES: usize = 256;

/// A text and the identifier that it is kept under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "an object with identifier and text")]
pub struct Message {
    /// 1 to [`MAX_IDENTIFIER_BYTES`] bytes. Those made here are UUIDv7; those of others may be any string.
    pub identifier: String,
    /// At most [`MAX_TEXT_BYTES`]; an empty text is a text.
    pub text: String,
}
