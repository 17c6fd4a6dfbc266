//! The ports: what a role needs of the engines, a trait each, and the adapters that implement them.
//!
//! A role sees these traits and cannot tell which engine is behind them.

use std::fmt;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::message::Message;

/// An engine did not do what it was asked for: away, too slow, or refusing.
///
/// The one error of the ports: whatever the cause, the caller can only answer "not now" and say why.
#[derive(Debug)]
pub struct Unavailable {
    /// Which engine, and where: `Consul at http://127.0.0.1:8500`.
    pub engine: String,
    /// What it answered, or what answered instead.
    pub cause: anyhow::Error,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#}", self.engine, self.cause)
    }
}

impl std::error::Error for Unavailable {}

/// What an engine answers.
pub type Result<T> = std::result::Result<T, Unavailable>;

/// Settings shared by all instances: keys and values, both texts.
pub trait Settings: Send + Sync {
    /// Which engine this is, and where, for people: `Consul at http://127.0.0.1:8500`.
    fn describe(&self) -> String;

    /// Whether the engine can take reads and writes now; the error says what answered instead.
    fn ready(&self) -> BoxFuture<'_, Result<()>>;

    /// The value of `key`, or `None` where there is no such key.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<String>>>;

    /// Writes `value` where `key` has none yet. Returns the value that stands already, or `None` where this one was written.
    fn put_if_absent<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, Result<Option<String>>>;

    /// Writes `value`, whatever stood there.
    fn put<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// What [`LogStore::append`] does where an identifier is known already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfPresent {
    /// The new text replaces the old one.
    Replace,
    /// The first text stays; another one is a [`Appended::Conflict`].
    Keep,
}

/// What became of one message that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It stands, on the engine's owner and on its backups.
    Stored,
    /// Another text stands under this identifier, and stays.
    Conflict,
}

/// One part of all entries, as [`LogStore::all`] hands them out.
#[derive(Debug, Default)]
pub struct Page {
    /// The messages of this part, in no promised order.
    pub messages: Vec<Message>,
    /// Entries that are no message (another client wrote something else there) and were left out.
    pub skipped: u64,
}

/// The log: messages by identifier.
pub trait LogStore: Send + Sync {
    /// Which engine this is, and where, for people: `Hazelcast cluster "logging" at 127.0.0.1:5701`.
    fn describe(&self) -> String;

    /// Whether the engine can be reached now; the error says why not.
    fn ready(&self) -> Result<()>;

    /// Stores the messages. The answer has one outcome for each message, in their order: one that fails, fails alone.
    fn append<'a>(&'a self, messages: &'a [Message], if_present: IfPresent) -> BoxFuture<'a, Vec<Result<Appended>>>;

    /// All entries, part by part, in bounded memory. After an error the stream ends.
    fn all(&self) -> BoxStream<'_, Result<Page>>;

    /// Removes all entries.
    fn clear(&self) -> BoxFuture<'_, Result<()>>;
}
