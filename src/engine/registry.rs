//! [`Registry`]: who is there.

use std::fmt::Write;
use std::net::Ipv6Addr;
use std::time::SystemTime;

use anyhow::ensure;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::Result;

/// What an instance says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The service it is an instance of: `logging-service`.
    pub service: String,
    /// Host name or address that others call it by: letters, digits and `. - _ :`, an IPv6 address without brackets.
    pub host: String,
    /// Its HTTP port.
    pub port: u16,
    /// The version of this executable: what tells our instances from those of another origin.
    pub version: String,
    /// When this process began to serve; the registry keeps whole seconds. A registration that is repeated keeps it.
    pub since: SystemTime,
}

impl Registration {
    /// The instance's id, the same at each of its starts: `<service>@<host>:<port>`.
    pub fn id(&self) -> String {
        format!("{}@{}:{}", self.service, self.host, self.port)
    }
}

/// A live instance, as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Unique in the registry.
    pub id: String,
    /// Host name or address to call, an IPv6 address without brackets.
    pub host: String,
    /// HTTP port to call.
    pub port: u16,
    /// The version of `svc` that it runs; `None` where it is of another origin, and may know less than ours.
    pub version: Option<String>,
    /// When its process began to serve; `None` where it does not say so. What tells a process from the one before it.
    pub since: Option<SystemTime>,
}

/// How an instance does by the registry's checks: as its worst check has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It can be called.
    Passing,
    /// It is not called; a check warns.
    Warning,
    /// It is not called; a check fails.
    Critical,
}

impl Condition {
    /// The registry's own word for it: `passing`, `warning` or `critical`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// An instance that is registered, whether or not anybody would call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id; any text, where it is of another origin.
    pub id: String,
    /// `host:port`, an IPv6 address in brackets; `None` where it registered nothing that could be called.
    pub address: Option<String>,
    /// The version of `svc` that it runs; `None` where it is of another origin.
    pub version: Option<String>,
    /// How it does.
    pub condition: Condition,
    /// What the check says that makes it so, on one line; `None` where it passes.
    pub reason: Option<String>,
    /// When its process began to serve; `None` where it does not say so.
    pub since: Option<SystemTime>,
}

/// A time in RFC 3339, UTC, whole seconds: `2026-11-25T01:41:57Z`. `None` outside the years 1970 to 9999, which have no
/// such text.
pub fn rfc3339(at: SystemTime) -> Option<String> {
    at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let mut text = String::new();
    // A year past 9999 is an error, which `to_string` would panic at.
    write!(text, "{}", humantime::format_rfc3339_seconds(at)).ok()?;
    Some(text)
}

/// The time that [`rfc3339`] wrote; `None` where it is another text.
pub(super) fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// Checks that `id` can be that of an instance: it reaches any registry unchanged.
///
/// # Errors
/// Says what is allowed.
pub(super) fn check_id(id: &str) -> anyhow::Result<()> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b".-_@:".contains(&b);
    ensure!(
        !id.is_empty() && id.bytes().all(is_good),
        "{id:?} cannot be the id of an instance: allowed are letters, digits and . - _ @ :"
    );
    Ok(())
}

/// A host as URLs have it.
pub(super) fn url_host(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// The registry that all instances share. Every call has a deadline of its own, a few seconds.
pub trait Registry: Send + Sync {
    /// Which engine this is, and where, for people: `Consul at http://127.0.0.1:8500`.
    fn describe(&self) -> String;

    /// What a person can do where it is not there: `start one …, or point elsewhere with …`.
    fn advice(&self) -> String;

    /// Why it may look empty to somebody though it is not; what to do.
    fn why_empty(&self) -> Option<&'static str> {
        None
    }

    /// Registers an instance as one that can take requests now, in the place of whatever stood under its id.
    fn register<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<()>>;

    /// Whether the instance stands in the registry as [`Registry::register`] puts it there, its check included, or a process
    /// that began later stands there under its id. How the check goes does not matter.
    fn is_registered<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<bool>>;

    /// Takes an instance out. It is no error if there is none of this id.
    fn deregister<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;

    /// All instances of a service as they stand now, in the order of their ids: also those that nobody would call.
    fn all<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Listed>>>;

    /// The live instances of a service, in the order of their ids: at once, then whenever they change, and every few
    /// seconds as they are, which tells that they are known. An error is one failed attempt to learn of them, and says
    /// nothing of the instances; the stream goes on, paced by the adapter, and never ends.
    fn watch<'a>(&'a self, service: &'a str) -> BoxStream<'a, Result<Vec<Instance>>>;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_id_that_would_reach_a_registry_changed_is_refused() {
        for good in ["logging-service@127.0.0.1:8100", "a@host_1.local:1", "a@::1:8100"] {
            assert!(check_id(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a b", "a|b", "a/b", "a@[::1]:1", "a%20b", "ä", "a?b", "a\nb"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_time_without_a_text_is_none_and_no_panic() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(rfc3339(at(0)).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(rfc3339(at(253_402_300_799)).as_deref(), Some("9999-12-31T23:59:59Z"));
        assert_eq!(rfc3339(at(253_402_300_800)), None);
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_nanos(1)), None);
    }
}
