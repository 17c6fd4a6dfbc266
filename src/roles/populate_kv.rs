//! `svc populate-kv`: writes the settings that all instances share. An init job, safe to run again at any time.

use std::future::Future;

use anyhow::{anyhow, bail};
use tracing::{info, warn};

use crate::cli::{Misuse, PopulateKvOptions};
use crate::config::{self, READY_VALUE};
use crate::engine::{Engines, Held, Result, Settings};
use crate::wait::Wait;

/// Waits for the engine, writes the keys, the ready key last. Ends early when `stop` resolves.
///
/// # Errors
/// Where the options cannot work, the engine does not come or does not take a write in time, or `stop` came first.
pub async fn run(options: PopulateKvOptions, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let values = with_ready_key(&options)?;
    let settings = Engines::at(options.engines.options()?)?.settings()?;
    let wait = Wait::up_to(options.start.wait);
    tokio::select! {
        outcome = populate(&*settings, &values, options.overwrite, &wait) => outcome,
        () = stop => Err(anyhow!("run it again: it goes on where it was").context("stopped before all keys were written")),
    }
}

/// Keys and values in the order in which they are written.
fn with_ready_key(options: &PopulateKvOptions) -> anyhow::Result<Vec<(&str, &str)>> {
    let ready_key = options.start.ready_key.as_str();
    let mut values: Vec<_> = options.values.iter().map(|(key, value)| (key.name, value)).collect();
    let is_taken = values.iter().any(|(key, _)| *key == ready_key);
    if is_taken {
        bail!(Misuse::new(format!(
            "the key {ready_key} has a meaning already: name another one by --ready-key"
        )));
    }
    values.push((ready_key, READY_VALUE));
    Ok(values)
}

async fn populate(
    settings: &dyn Settings,
    values: &[(&str, &str)],
    overwrite: bool,
    wait: &Wait<'_>,
) -> anyhow::Result<()> {
    let place = settings.describe();
    config::wait_for_engine(settings, wait).await?;
    let mut counts = Counts::default();
    for (key, asked) in values {
        let outcome = wait.until(|| async {
            let written = write(settings, key, asked, overwrite).await;
            written.map_err(|error| config::key_not_usable(settings, key, &error.cause))
        });
        counts.add(key, asked, outcome.await?);
    }
    let Counts {
        written,
        replaced,
        kept,
        differing,
    } = counts;
    info!(written, replaced, kept, differing, "all keys are in {place}");
    Ok(())
}

/// What became of one key.
enum Outcome {
    /// It was not there.
    Written,
    /// It had another value, or one that cannot be read.
    Replaced(Option<String>),
    /// It had this value, and still has.
    Kept(String),
}

async fn write(settings: &dyn Settings, key: &str, asked: &str, overwrite: bool) -> Result<Outcome> {
    if !overwrite {
        let standing = settings.put_if_absent(key, asked).await?;
        return Ok(standing.map_or(Outcome::Written, Outcome::Kept));
    }
    let standing = settings.get(key).await;
    match &standing {
        Ok(Held::Value(standing)) if standing == asked => return Ok(Outcome::Kept(standing.clone())),
        _ => settings.put(key, asked).await?,
    }
    Ok(match standing {
        Ok(Held::Missing) => Outcome::Written,
        Ok(Held::Value(standing)) => Outcome::Replaced(Some(standing)),
        // What cannot be read is no reason not to replace it.
        Ok(Held::Unreadable(_)) | Err(_) => Outcome::Replaced(None),
    })
}

/// How many keys had which outcome.
#[derive(Default)]
struct Counts {
    written: usize,
    replaced: usize,
    kept: usize,
    differing: usize,
}

impl Counts {
    /// Counts one outcome, and says it.
    fn add(&mut self, key: &str, asked: &str, outcome: Outcome) {
        match outcome {
            Outcome::Written => {
                self.written += 1;
                info!(key, value = asked, "written");
            }
            Outcome::Replaced(old) => {
                self.replaced += 1;
                info!(
                    key,
                    value = asked,
                    old = old.as_deref().unwrap_or("(unreadable)"),
                    "replaced"
                );
            }
            Outcome::Kept(standing) if standing == asked => {
                self.kept += 1;
                info!(key, value = asked, "kept: it is what was asked for");
            }
            Outcome::Kept(standing) => {
                self.kept += 1;
                self.differing += 1;
                warn!(
                    key,
                    value = standing,
                    asked,
                    "kept: it differs from what was asked for; --overwrite replaces it"
                );
            }
        }
    }
}
