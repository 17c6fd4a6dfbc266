//! `svc up`: the whole system on this machine, one child process per instance.
//!
//! | part | does |
//! |---|---|
//! | `plan` | which instances there are to be, and their ports |
//! | `lock` | one `up` per folder |
//! | `ports` | are they free, and if not, who has them |
//! | `launch` | the command of a child: what it is told, and what is kept from it |
//! | `child` | one process, from its start to its end |
//! | `fleet` | all of them: supervised, restarted, stopped together |
//! | `lines`, `output` | the log of a child line by line, and one writer for all that is shown |
//! | `guide` | what a person is told |

mod child;
mod fleet;
mod guide;
mod health;
mod launch;
mod lines;
mod lock;
mod output;
mod plan;
mod ports;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::time::timeout;

use self::child::Child;
use self::fleet::{Event, Fleet};
use self::launch::Launch;
use self::lock::Lock;
use self::output::Output;
use self::plan::Plan;
use crate::cli::{UpEngines, UpOptions};
use crate::shutdown::{self, Asks};

/// How long a start may take beyond the time that each instance waits for its engines before it gives up by itself.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long it takes at most until each facade has heard of the others. It goes on without.
const KNOWN_LIMIT: Duration = Duration::from_secs(5);

/// Runs the system until it is asked to stop; the instances log by the filter `log`. A second ask kills them, and ends the
/// process.
///
/// # Errors
/// Where the options cannot work, another `up` has the folder, a port is taken, an instance does not start, all of them have
/// ended, or one had to be killed at the stop.
pub async fn run(options: UpOptions, log: &str) -> anyhow::Result<()> {
    let mut asks = Asks::listen(options.life.with_parent)?;
    let plan = Plan::of(&options.sizes, &options.ports)?;
    let engines = options.engines()?;
    let (engines, lock) = take_folder(engines).await?;
    let output = Output::start(plan.names());
    let launch = Launch::new(&options, engines, log, output.is_coloured())?;
    let mut fleet = Fleet::new(launch, options.restart, output.clone());

    let outcome = tokio::select! {
        outcome = live(&options, plan, &mut fleet, &output) => outcome,
        ask = asks.next() => {
            output.say(&guide::stopping(ask, fleet.running()));
            Ok(())
        }
    };
    let stopped = tokio::select! {
        stopped = fleet.stop() => stopped,
        ask = asks.next() => {
            fleet.kill().await;
            output.say(&format!("ended at once, asked a second time by {ask}"));
            output.end().await;
            // Not by the log: whoever reads standard error may stand still.
            std::process::exit(shutdown::EXIT_INTERRUPTED);
        }
    };
    output.end().await;
    // Until here: the next one starts when the instances of this one have ended.
    drop(lock);
    outcome.and(stopped)
}

/// From the start to the end of the last instance, which is a failure.
async fn live(options: &UpOptions, mut plan: Plan, fleet: &mut Fleet, output: &Output) -> anyhow::Result<()> {
    let reserved = ports::reserve(&options.host, &mut plan, output).await?;
    write_settings(fleet.launch(), output).await?;
    drop(reserved);
    fleet.start(&plan);
    let pids = until_healthy(&plan, fleet, options.start.wait.saturating_add(START_LIMIT)).await?;
    let unknown = timeout(KNOWN_LIMIT, health::until_known(&plan, fleet.launch())).await;
    if unknown.is_err() {
        output.say(
            "the facades have not heard of all other instances yet: until they have, they use those that they know",
        );
    }
    output.show(guide::ready(&plan, &pids, fleet.launch()));
    watch(&plan, fleet, output).await
}

/// Takes the folder of embedded engines, which is made where it is missing. Its name is absolute then: it is told to people
/// who are somewhere else.
async fn take_folder(engines: UpEngines) -> anyhow::Result<(UpEngines, Option<Lock>)> {
    let UpEngines::Folder(folder) = engines else {
        return Ok((engines, None));
    };
    let unusable = |what: &str, folder: &Path| format!("the folder {} cannot be {what}", folder.display());
    let advice = "what to do: name a folder that you may write to, with --local";
    // For its owner alone: it holds what people wrote.
    let make = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    let made = make.and_then(|()| folder.canonicalize());
    let folder = made
        .map_err(|cause| anyhow!(advice).context(cause))
        .with_context(|| unusable("made", &folder))?;
    let lock = Lock::take(&folder).await?;
    Ok((UpEngines::Folder(folder), Some(lock)))
}

/// Writes the settings, as `svc populate-kv` does; what is there is kept.
async fn write_settings(launch: &Launch, output: &Output) -> anyhow::Result<()> {
    let mut child = Child::start(launch.settings(), "settings", output)?;
    let status = child.run().await?;
    if status.success() {
        return Ok(());
    }
    Err(guide::with_words(
        child.words(),
        &format!("the settings cannot be written: populate-kv {}", guide::how(status)),
    ))
}

/// Waits until all are healthy; their pids, in the order of the plan.
async fn until_healthy(plan: &Plan, fleet: &mut Fleet, limit: Duration) -> anyhow::Result<Vec<u32>> {
    let mut pids = vec![None; plan.instances.len()];
    let collect = async {
        while pids.iter().any(Option::is_none) {
            match fleet.next().await {
                Some(Event::Healthy { index, pid }) => {
                    if let Some(known) = pids.get_mut(index) {
                        *known = Some(pid);
                    }
                }
                Some(Event::Ended { index, end, .. }) => {
                    let name = plan.name(index);
                    let how = guide::how(end.status);
                    return Err(guide::with_words(
                        &end.words,
                        &format!("{name} {how} before it was healthy"),
                    ));
                }
                Some(Event::Failed { index, cause }) => {
                    return Err(cause.context(format!("{} cannot be started", plan.name(index))));
                }
                None => return Err(anyhow!("all instances have ended")),
            }
        }
        Ok(())
    };
    if let Ok(outcome) = timeout(limit, collect).await {
        outcome?;
        return Ok(pids.into_iter().flatten().collect());
    }
    let late = plan.instances.iter().zip(&pids).filter(|(_, pid)| pid.is_none());
    let late: Vec<&str> = late.map(|(instance, _)| instance.name.as_str()).collect();
    let advice = "what to do: their log lines above say what they wait for; --wait gives them more time";
    Err(anyhow!(advice).context(format!("not healthy within {limit:?}: {}", late.join(", "))))
}

/// Tells what happens to the instances, until all of them have ended.
async fn watch(plan: &Plan, fleet: &mut Fleet, output: &Output) -> anyhow::Result<()> {
    while let Some(event) = fleet.next().await {
        let Some(instance) = plan.instances.get(event.index()) else {
            continue;
        };
        output.say(&match event {
            Event::Healthy { pid, .. } => guide::back(instance, pid, fleet.launch()),
            Event::Ended { end, pause, .. } => guide::ended(instance, &end, pause, fleet.launch()),
            Event::Failed { cause, .. } => format!("{} cannot be started again: {cause:#}", instance.name),
        });
    }
    let advice = "what to do: start it again with `svc up`; --restart brings back what ends";
    Err(anyhow!(advice).context("all instances have ended"))
}
