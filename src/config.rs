//! What roles read from the shared settings: the table of keys, and the typed values behind them.

use std::net::Ipv6Addr;

use anyhow::{Context, anyhow, bail, ensure};

use crate::engine::Settings;
use crate::wait::{NotYet, Wait};

/// One setting that all instances share.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key in the store.
    pub name: &'static str,
    /// The option of `svc populate-kv` that gives its value, without the dashes.
    pub option: &'static str,
    /// The environment variable that gives its value.
    pub env: &'static str,
    /// The value where none is given.
    pub default: &'static str,
    /// What it means, for people.
    pub meaning: &'static str,
    /// What its value may be.
    pub kind: Kind,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name: see [`parse_name`].
    Name,
    /// A list of members: see [`parse_members`].
    Members,
}

/// Name of the cluster that keeps the logs.
pub const HZ_LOGGING_CLUSTER_NAME: Key = Key {
    name: "hz_logging_cluster_name",
    option: "hz-logging-cluster-name",
    env: "HZ_LOGGING_CLUSTER_NAME",
    default: "logging",
    meaning: "Name of the Hazelcast cluster that keeps the logs",
    kind: Kind::Name,
};

/// Name of the map that the logs are in.
pub const LOGGING_MAPPING_NAME: Key = Key {
    name: "logging_mapping_name",
    option: "hz-logging-mapping-name",
    env: "HZ_LOGGING_MAPPING_NAME",
    default: "messages",
    meaning: "Name of the map there that the logs are in",
    kind: Kind::Name,
};

/// Name of the cluster that has the queue.
pub const HZ_MQ_CLUSTER_NAME: Key = Key {
    name: "hz_mq_cluster_name",
    option: "hz-mq-cluster-name",
    env: "HZ_MQ_CLUSTER_NAME",
    default: "mq",
    meaning: "Name of the Hazelcast cluster that has the queue",
    kind: Kind::Name,
};

/// Name of the queue.
pub const MQ_NAME: Key = Key {
    name: "mq_name",
    option: "hz-mq-queue-name",
    env: "HZ_MQ_QUEUE_NAME",
    default: "messaging_queue",
    meaning: "Name of the queue there",
    kind: Kind::Name,
};

/// Members of the cluster that keeps the logs.
pub const HZ_LOGGING_MEMBERS: Key = Key {
    name: "hz_logging_members",
    option: "hz-logging-members",
    env: "HZ_LOGGING_MEMBERS",
    default: "127.0.0.1:5701",
    meaning: "Members of the cluster that keeps the logs: comma list of host:port",
    kind: Kind::Members,
};

/// Members of the cluster that has the queue.
pub const HZ_MQ_MEMBERS: Key = Key {
    name: "hz_mq_members",
    option: "hz-mq-members",
    env: "HZ_MQ_MEMBERS",
    default: "127.0.0.1:5711",
    meaning: "Members of the cluster that has the queue: comma list of host:port",
    kind: Kind::Members,
};

/// All keys, in the order in which they are written. The ready key comes after them.
pub const KEYS: [Key; 6] = [
    HZ_LOGGING_CLUSTER_NAME,
    LOGGING_MAPPING_NAME,
    HZ_MQ_CLUSTER_NAME,
    MQ_NAME,
    HZ_LOGGING_MEMBERS,
    HZ_MQ_MEMBERS,
];

/// The key that says that all others are there. Written last; roles wait for it.
pub const READY_KEY: &str = "essential_keys_populated";

/// The environment variable that names another [`READY_KEY`].
pub const READY_KEY_ENV: &str = "CONSUL_ESSENTIAL_KEY";

/// The value of the ready key.
pub const READY_VALUE: &str = "TRUE";

/// Whether a ready key with this value says that the other keys are there: `TRUE` in any case, space around it ignored.
pub fn is_ready_value(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case(READY_VALUE)
}

impl Key {
    /// Checks that `value` can be this key's.
    ///
    /// # Errors
    /// Says what is wrong with the value, and what is allowed.
    pub fn check(&self, value: &str) -> anyhow::Result<()> {
        match self.kind {
            Kind::Name => parse_name(value).map(drop),
            Kind::Members => parse_members(value).map(drop),
        }
    }
}

/// Reads a name: not empty, no control characters. Space around it is not part of it.
///
/// # Errors
/// Where it is empty or has control characters.
pub fn parse_name(value: &str) -> anyhow::Result<String> {
    let name = value.trim();
    ensure!(!name.is_empty(), "a name is needed, but it is empty");
    ensure!(
        !name.contains(char::is_control),
        "a name is needed, but it has control characters"
    );
    Ok(name.to_owned())
}

/// Reads a comma list of members. Each is `host:port`; see [`parse_member`].
///
/// # Errors
/// Names the member that is malformed. An empty list, and nothing between two commas, are malformed too.
pub fn parse_members(value: &str) -> anyhow::Result<Vec<String>> {
    value.split(',').map(parse_member).collect()
}

/// Reads one member: `host:port`, an IPv6 address in brackets, a port from 1 to 65535. Space around it is ignored.
///
/// # Errors
/// Says what is wrong with it, and what is allowed.
pub fn parse_member(value: &str) -> anyhow::Result<String> {
    let member = value.trim();
    let expected = || anyhow!("{member:?} is no member: expected host:port, with an IPv6 address in brackets");
    let (host, port) = member.rsplit_once(':').ok_or_else(expected)?;
    let host_is_good = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)),
    };
    ensure!(host_is_good, expected());
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(format!("{host}:{port}")),
        _ => bail!("{member:?} is no member: the port has to be 1 to 65535"),
    }
}

/// Waits until the engine that keeps the settings can take reads and writes.
///
/// # Errors
/// When the time is up: what was tried, what answered, what to do.
pub async fn wait_for_engine(settings: &dyn Settings, wait: &Wait<'_>) -> anyhow::Result<()> {
    wait.until(|| async {
        settings
            .ready()
            .await
            .map_err(|error| not_there(settings, &error.cause))
    })
    .await
}

fn not_there(settings: &dyn Settings, cause: &anyhow::Error) -> NotYet {
    NotYet {
        subject: settings.describe(),
        answer: format!("{cause:#}"),
        advice: settings.advice(),
    }
}

/// Why a key cannot be read or written, though the engine is there, or was a moment ago.
pub(crate) fn key_not_usable(settings: &dyn Settings, key: &str, cause: &anyhow::Error) -> NotYet {
    NotYet {
        subject: format!("the key {key} in {}", settings.describe()),
        answer: format!("{cause:#}"),
        advice: "put that right, then run the same again".to_owned(),
    }
}

/// What a logging instance reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggingSettings {
    /// Name of the cluster that keeps the logs.
    pub cluster_name: String,
    /// Name of the map that they are in.
    pub map_name: String,
    /// Its members, each `host:port`; one at least.
    pub members: Vec<String>,
}

impl LoggingSettings {
    /// Waits until the settings are populated, and reads them.
    ///
    /// # Errors
    /// When the time is up: what was tried, what answered, what to do. At once where a value is malformed or missing, by
    /// its key; missing members are those of the default.
    pub async fn wait_for(settings: &dyn Settings, ready_key: &str, wait: &Wait<'_>) -> anyhow::Result<Self> {
        let keys = [HZ_LOGGING_CLUSTER_NAME, LOGGING_MAPPING_NAME, HZ_LOGGING_MEMBERS];
        let [cluster_name, map_name, members] = wait.until(|| read_populated(settings, ready_key, &keys)).await?;
        let place = settings.describe();
        Ok(Self {
            cluster_name: name(&place, &HZ_LOGGING_CLUSTER_NAME, cluster_name)?,
            map_name: name(&place, &LOGGING_MAPPING_NAME, map_name)?,
            members: members_or_default(&place, &HZ_LOGGING_MEMBERS, members)?,
        })
    }
}

/// What a facade and a messages instance read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxSettings {
    /// Name of the cluster that has the queue.
    pub cluster_name: String,
    /// Name of the queue.
    pub queue_name: String,
    /// The cluster's members, each `host:port`; one at least.
    pub members: Vec<String>,
}

impl MailboxSettings {
    /// Waits until the settings are populated, and reads them.
    ///
    /// # Errors
    /// Those of [`LoggingSettings::wait_for`].
    pub async fn wait_for(settings: &dyn Settings, ready_key: &str, wait: &Wait<'_>) -> anyhow::Result<Self> {
        let keys = [HZ_MQ_CLUSTER_NAME, MQ_NAME, HZ_MQ_MEMBERS];
        let [cluster_name, queue_name, members] = wait.until(|| read_populated(settings, ready_key, &keys)).await?;
        let place = settings.describe();
        Ok(Self {
            cluster_name: name(&place, &HZ_MQ_CLUSTER_NAME, cluster_name)?,
            queue_name: name(&place, &MQ_NAME, queue_name)?,
            members: members_or_default(&place, &HZ_MQ_MEMBERS, members)?,
        })
    }
}

/// The values of `keys`, once the ready key says that they are there.
async fn read_populated<const N: usize>(
    settings: &dyn Settings,
    ready_key: &str,
    keys: &[Key; N],
) -> Result<[Option<String>; N], NotYet> {
    settings
        .ready()
        .await
        .map_err(|error| not_there(settings, &error.cause))?;
    let get = async |key| {
        settings
            .get(key)
            .await
            .map_err(|error| key_not_usable(settings, key, &error.cause))
    };
    let ready = get(ready_key).await?;
    if !ready.as_deref().is_some_and(is_ready_value) {
        return Err(NotYet {
            subject: format!("the key {ready_key} in {}", settings.describe()),
            answer: match ready {
                Some(value) => format!("it is {value:?}, not {READY_VALUE}"),
                None => "there is no such key".to_owned(),
            },
            advice: "run `svc populate-kv` with the same options, which writes all keys".to_owned(),
        });
    }
    let mut values = [const { None }; N];
    for (value, key) in values.iter_mut().zip(keys) {
        *value = get(key.name).await?;
    }
    Ok(values)
}

fn name(place: &str, key: &Key, value: Option<String>) -> anyhow::Result<String> {
    let value = value.ok_or_else(|| {
        anyhow!("run `svc populate-kv`, which adds the keys that are missing")
            .context(format!("the key {} is missing in {place}", key.name))
    })?;
    parse_name(&value).with_context(|| malformed(place, key, &value))
}

fn members_or_default(place: &str, key: &Key, value: Option<String>) -> anyhow::Result<Vec<String>> {
    let value = value.unwrap_or_else(|| key.default.to_owned());
    parse_members(&value).with_context(|| malformed(place, key, &value))
}

fn malformed(place: &str, key: &Key, value: &str) -> String {
    format!(
        "the key {} in {place} has a value that cannot be used: {value:?}",
        key.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_a_comma_list_of_host_and_port() {
        for (given, read) in [
            ("127.0.0.1:5701", vec!["127.0.0.1:5701"]),
            ("hz-1:5701,hz_2.local:5702", vec!["hz-1:5701", "hz_2.local:5702"]),
            (" a:1 , b:65535\n", vec!["a:1", "b:65535"]),
            ("[::1]:5701", vec!["[::1]:5701"]),
            ("a:05701", vec!["a:5701"]),
        ] {
            assert_eq!(parse_members(given).unwrap(), read, "{given:?}");
        }
    }

    #[test]
    fn a_malformed_member_is_refused_by_its_text() {
        for bad in [
            "",
            " ",
            ",",
            "a:1,",
            ",a:1",
            "a:1,,b:2",
            "a",
            "a:",
            ":5701",
            "a:0",
            "a:65536",
            "a:-1",
            "a:+1",
            "a:x",
            "a:1:2",
            "::1:5701",
            "[::1]",
            "[::g]:1",
            "[127.0.0.1]:1",
            "a b:1",
            "http://a:1",
            "a/b:1",
            "ä:1",
        ] {
            let error = parse_members(bad).map_err(|e| e.to_string());
            assert!(
                error.as_ref().is_err_and(|e| e.contains("no member")),
                "{bad:?}: {error:?}"
            );
        }
        let error = parse_members("a:1,b:0,c:3").unwrap_err().to_string();
        assert_eq!(error, "\"b:0\" is no member: the port has to be 1 to 65535");
    }

    #[test]
    fn a_name_is_not_empty_and_has_no_control_characters() {
        assert_eq!(parse_name(" my map\n").unwrap(), "my map");
        for bad in ["", " \n", "a\nb", "a\u{0}b"] {
            assert!(parse_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_ready_value_counts_in_any_case() {
        for yes in ["TRUE", "true", "True", "TRUE\n"] {
            assert!(is_ready_value(yes), "{yes:?}");
        }
        for no in ["", "FALSE", "1", "yes", "TRUE!"] {
            assert!(!is_ready_value(no), "{no:?}");
        }
    }

    #[test]
    fn every_key_has_a_default_that_it_allows_and_a_name_of_its_own() {
        for (index, key) in KEYS.iter().enumerate() {
            key.check(key.default).unwrap();
            crate::engine::check_key(key.name).unwrap();
            assert_eq!(key.option, key.env.to_lowercase().replace('_', "-"));
            assert!(key.name != READY_KEY);
            assert!(
                KEYS.iter()
                    .skip(index + 1)
                    .all(|other| other.name != key.name && other.env != key.env)
            );
        }
    }
}
