//! The ports: what a role needs of the engines, a trait each, and the adapters that implement them.
//!
//! A role sees these traits and cannot tell which engine is behind them.

mod batch_json;
pub mod consul;
mod engines;
mod hazelcast;
mod identifiers;
mod local;
mod mailbox;
mod page;
mod registry;

use std::fmt;

use futures_util::future::{BoxFuture, FutureExt, ready};
use futures_util::stream::BoxStream;

use crate::message::Message;

pub use engines::{EngineOptions, Engines};
pub use identifiers::Identifiers;
pub use mailbox::{Batch, DeliveredMessage, DeliveredPage, Item, Looked, MAX_BATCH_BYTES, Mailbox, Offered};
#[cfg(test)]
pub(crate) use page::of_parts;
pub use page::{ListPage, MAX_PAGE_MESSAGES, PAGE_TEXT_BYTES, PageRange};
pub use registry::{Condition, Instance, Listed, Registration, Registry, rfc3339};

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

/// Checks that `key` can name a setting: 1 or more of `A-Z a-z 0-9 . - _`, parts divided by `/`.
///
/// Not empty, no empty part, and no part `.` or `..`: those and all other characters reach an engine changed, or not at all.
///
/// # Errors
/// Says what is wrong, and what is allowed.
pub fn check_key(key: &str) -> anyhow::Result<()> {
    let part_is_good = |part: &str| {
        let characters_are_good = part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        characters_are_good && !matches!(part, "" | "." | "..")
    };
    anyhow::ensure!(
        key.split('/').all(part_is_good),
        "{key:?} cannot be a key: allowed are letters, digits and . - _ in parts divided by single slashes"
    );
    Ok(())
}

/// Settings shared by all instances: keys and values, both texts. [`check_key`] says which keys there can be.
pub trait Settings: Send + Sync {
    /// Which engine this is, and where, for people: `Consul at http://127.0.0.1:8500`.
    fn describe(&self) -> String;

    /// What a person can do where it is not there: `start one …, or point elsewhere with …`.
    fn advice(&self) -> String;

    /// Whether the engine can take reads and writes now; the error says what answered instead.
    fn ready(&self) -> BoxFuture<'_, Result<()>>;

    /// What `key` holds.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Held>>;

    /// Writes `value` where `key` has none yet. Returns the value that stands already, or `None` where this one was written.
    fn put_if_absent<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, Result<Option<String>>>;

    /// Writes `value`, whatever stood there.
    fn put<'a>(&'a self, key: &'a str, value: &'a str) -> BoxFuture<'a, Result<()>>;

    /// What `key` holds: at once, then whenever it changes, and every few seconds as it is, which tells that it is known.
    /// An error is one failed attempt to learn of it, and says nothing of the key; the stream goes on, paced by the
    /// adapter, and never ends.
    fn watch<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Held>>;
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Its value.
    Value(String),
    /// There is no such key.
    Missing,
    /// It has a value that is no text; why not.
    Unreadable(String),
}

/// What an engine can tell of whether all that was stored in it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is, as far as can be known.
    Whole,
    /// Holders of it went away since somebody last [vouched](Engine::vouch) for it: what no other one had is gone.
    InDoubt,
    /// Nobody ever vouched for it: it is new, or came back without its data.
    Unknown,
}

/// What an engine that keeps messages tells of itself.
pub trait Engine: Send + Sync {
    /// Which engine this is, and where, for people: `Hazelcast cluster "logging" at 127.0.0.1:5701`.
    fn describe(&self) -> String;

    /// Name of what is used there: of the map with the logs, or of the queue.
    fn object_name(&self) -> &str;

    /// What it has in common with everything that leads to the same data; `None` before it was reached. Whoever holds two
    /// of the same identity holds one.
    fn identity(&self) -> Option<String>;

    /// What a person can do where it is not there: `start one …, or point elsewhere with …`.
    fn advice(&self) -> String;

    /// Waits until the engine can be reached, at most for about 1.5 s; the error says why it cannot.
    fn ready(&self) -> BoxFuture<'_, Result<()>>;

    /// Whether the engine can be reached now, as far as is known; the error says why not. Asks nobody.
    fn check(&self) -> Result<()>;

    /// What a person should put right although the engine can be used; `None` where there is nothing. Asks nobody.
    fn warning(&self) -> Option<String> {
        None
    }

    /// The same, for who only reads: an engine that can take nothing more may still show what it has.
    fn check_readable(&self) -> Result<()> {
        self.check()
    }

    /// Whether what it acknowledged outlives all of its processes. One that does not is to be compared, from time to time,
    /// with whoever knows what should be there: see [`Engine::standing`].
    fn keeps_all(&self) -> bool {
        true
    }

    /// Who holds its data now, as far as is known, where they could take it with them. It changes when one comes or goes.
    /// Asks nobody.
    fn holders(&self) -> Option<String> {
        None
    }

    /// Whether all that was stored is still there, as far as can be known.
    fn standing(&self) -> BoxFuture<'_, Result<Standing>> {
        ready(Ok(Standing::Whole)).boxed()
    }

    /// Notes beside the data, so that it is gone with the data, that nothing was missing while these [holders](Engine::holders)
    /// had it. As long as all of them are there, it is [`Standing::Whole`].
    fn vouch<'a>(&'a self, _holders: &'a str) -> BoxFuture<'a, Result<()>> {
        ready(Ok(())).boxed()
    }
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
pub trait LogStore: Engine {
    /// Stores the messages. The answer has one outcome for each message, in their order: one that fails, fails alone.
    fn append<'a>(&'a self, messages: &'a [Message], if_present: IfPresent) -> BoxFuture<'a, Vec<Result<Appended>>>;

    /// All entries, part by part, in bounded memory. After an error the stream ends.
    fn all(&self) -> BoxStream<'_, Result<Page>>;

    /// A page of the log, in bounded memory, however large the log is. What is appended before it is asked for is on the page
    /// that its identifier belongs to.
    fn page<'a>(&'a self, range: &'a PageRange) -> BoxFuture<'a, Result<ListPage<Message>>>;

    /// Removes the entries of these identifiers, where there are any.
    fn remove<'a>(&'a self, identifiers: &'a [String]) -> BoxFuture<'a, Result<()>>;

    /// Removes all entries.
    fn clear(&self) -> BoxFuture<'_, Result<()>>;
}

#[cfg(test)]
mod tests {
    use super::check_key;

    #[test]
    fn a_key_has_an_alphabet_that_reaches_the_engine_unchanged() {
        for good in ["mq_name", "a", "A-b.c_9", "svc/logging/map", "...", "a..b"] {
            assert!(check_key(good).is_ok(), "{good:?}");
        }
        for bad in [
            "", " ", "a b", "a%20b", "a?b", "a#b", "ä", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb",
        ] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
    }
}
