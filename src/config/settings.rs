//! [`EngineSettings`]: what a role has to know of its engine, and how it waits for that at its start.

use anyhow::{Context, anyhow};

use super::{
    HZ_LOGGING_CLUSTER_NAME, HZ_LOGGING_MEMBERS, HZ_MQ_CLUSTER_NAME, HZ_MQ_MEMBERS, Key, LOGGING_MAPPING_NAME, MQ_NAME,
    READY_VALUE, is_ready_value, parse_members, parse_name,
};
use crate::engine::{Held, Settings};
use crate::wait::{NotYet, Wait};

/// Where an engine is, and what is used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Name of the cluster.
    pub cluster_name: String,
    /// Name of what is used there: of the map with the logs, or of the queue.
    pub object_name: String,
    /// The cluster's members, each `host:port`; one at least.
    pub members: Vec<String>,
}

/// The keys behind [`EngineSettings`].
#[derive(Clone, Copy, Debug)]
pub struct EngineKeys {
    /// That of [`EngineSettings::cluster_name`].
    pub cluster_name: Key,
    /// That of [`EngineSettings::object_name`].
    pub object_name: Key,
    /// That of [`EngineSettings::members`]. Where it is missing, they are those of its default.
    pub members: Key,
}

/// The log: what a logging instance reads.
pub const LOG: EngineKeys = EngineKeys {
    cluster_name: HZ_LOGGING_CLUSTER_NAME,
    object_name: LOGGING_MAPPING_NAME,
    members: HZ_LOGGING_MEMBERS,
};

/// The mailbox: what a facade and a messages instance read.
pub const MAILBOX: EngineKeys = EngineKeys {
    cluster_name: HZ_MQ_CLUSTER_NAME,
    object_name: MQ_NAME,
    members: HZ_MQ_MEMBERS,
};

impl EngineKeys {
    /// Waits until the settings are populated, and reads them. Where `members` are given, those count and not the key's.
    ///
    /// # Errors
    /// When the time is up: what was tried, what answered, what to do. At once where a value is malformed or missing, by
    /// its key.
    pub async fn wait_for(
        &self,
        settings: &dyn Settings,
        ready_key: &str,
        wait: &Wait<'_>,
        members: Option<&[String]>,
    ) -> anyhow::Result<EngineSettings> {
        let keys = [self.cluster_name, self.object_name, self.members];
        let [cluster_name, object_name, named] = wait.until(|| read_populated(settings, ready_key, &keys)).await?;
        let place = settings.describe();
        Ok(EngineSettings {
            cluster_name: name(&place, &self.cluster_name, cluster_name)?,
            object_name: name(&place, &self.object_name, object_name)?,
            members: match members {
                Some(given) => given.to_vec(),
                None => members_or_default(&place, &self.members, named)?,
            },
        })
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

/// The values of `keys`, once the ready key says that they are there.
async fn read_populated<const N: usize>(
    settings: &dyn Settings,
    ready_key: &str,
    keys: &[Key; N],
) -> Result<[Held; N], NotYet> {
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
    let answer = match get(ready_key).await? {
        Held::Value(value) if is_ready_value(&value) => None,
        Held::Value(value) => Some(format!("it is {value:?}, not {READY_VALUE}")),
        Held::Missing => Some("there is no such key".to_owned()),
        Held::Unreadable(why) => Some(format!("its value is {why}")),
    };
    if let Some(answer) = answer {
        return Err(NotYet {
            subject: format!("the key {ready_key} in {}", settings.describe()),
            answer,
            advice: "run `svc populate-kv` with the same options, which writes all keys".to_owned(),
        });
    }
    let mut values = [const { Held::Missing }; N];
    for (value, key) in values.iter_mut().zip(keys) {
        *value = get(key.name).await?;
    }
    Ok(values)
}

fn name(place: &str, key: &Key, held: Held) -> anyhow::Result<String> {
    let value = text(place, key, held)?.ok_or_else(|| {
        anyhow!("run `svc populate-kv`, which adds the keys that are missing")
            .context(format!("the key {} is missing in {place}", key.name))
    })?;
    parse_name(&value).with_context(|| malformed(place, key, &value))
}

fn members_or_default(place: &str, key: &Key, held: Held) -> anyhow::Result<Vec<String>> {
    let value = text(place, key, held)?.unwrap_or_else(|| key.default.to_owned());
    parse_members(&value).with_context(|| malformed(place, key, &value))
}

fn text(place: &str, key: &Key, held: Held) -> anyhow::Result<Option<String>> {
    match held {
        Held::Value(value) => Ok(Some(value)),
        Held::Missing => Ok(None),
        Held::Unreadable(why) => Err(anyhow!("the value of the key {} in {place} is {why}", key.name)),
    }
}

fn malformed(place: &str, key: &Key, value: &str) -> String {
    format!(
        "the key {} in {place} has a value that cannot be used: {value:?}",
        key.name
    )
}
