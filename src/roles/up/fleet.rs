//! [`Fleet`]: all instances, each supervised by a task of its own; stopped together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::child::{Child, End};
use super::guide;
use super::health;
use super::launch::Launch;
use super::output::Output;
use super::plan::{Instance, Plan};

/// Pause before an instance is started again; it doubles while it keeps ending.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After so much time in health, an instance that ends has the first pause again.
const GOOD_TIME: Duration = Duration::from_secs(10);

/// How many events wait to be told. An instance that has more to tell waits.
const MOST_EVENTS: usize = 64;

/// How long it takes at most until killed instances are gone.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// What happened to an instance, by its place in the plan.
pub(super) enum Event {
    /// It takes requests.
    Healthy { index: usize, pid: u32 },
    /// Its process ended, and not because it was stopped. `pause` is the time until it is started again, if it is.
    Ended {
        index: usize,
        end: End,
        pause: Option<Duration>,
    },
    /// The system did not start it, or does not tell about it. It stays dead.
    Failed { index: usize, cause: anyhow::Error },
}

impl Event {
    pub(super) fn index(&self) -> usize {
        match self {
            Self::Healthy { index, .. } | Self::Ended { index, .. } | Self::Failed { index, .. } => *index,
        }
    }
}

/// All instances.
pub(super) struct Fleet {
    common: Arc<Common>,
    tasks: JoinSet<Option<String>>,
    stop: watch::Sender<bool>,
    events: Option<mpsc::Receiver<Event>>,
}

/// What the tasks share.
struct Common {
    launch: Launch,
    restart: bool,
    output: Output,
}

impl Fleet {
    /// A fleet without instances yet.
    pub(super) fn new(launch: Launch, restart: bool, output: Output) -> Self {
        Self {
            common: Arc::new(Common {
                launch,
                restart,
                output,
            }),
            tasks: JoinSet::new(),
            stop: watch::Sender::new(false),
            events: None,
        }
    }

    pub(super) fn launch(&self) -> &Launch {
        &self.common.launch
    }

    /// Starts all of the plan, at once.
    pub(super) fn start(&mut self, plan: &Plan) {
        let (tell, events) = mpsc::channel(MOST_EVENTS);
        for (index, instance) in plan.instances.iter().enumerate() {
            let supervisor = Supervisor {
                index,
                instance: instance.clone(),
                common: self.common.clone(),
                tell: tell.clone(),
            };
            self.tasks.spawn(supervisor.run(self.stop.subscribe()));
        }
        self.events = Some(events);
    }

    /// What happens next. `None` where no instance is left, and none will be started again.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.events.as_mut()?.recv().await
    }

    /// How many are not dead for good.
    pub(super) fn running(&mut self) -> usize {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.len()
    }

    /// Asks all of them to stop, at once, and waits until they have ended.
    ///
    /// # Errors
    /// Names those that did not end well, or had to be killed.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        // Nobody listens to what they tell any more.
        self.events = None;
        let mut failures = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            failures.extend(ended.context("a supervisor panicked")?);
        }
        if failures.is_empty() {
            return Ok(());
        }
        let advice = "what to do: nothing that was acknowledged is lost; their last log lines above say more";
        Err(anyhow!(advice).context(format!("not stopped cleanly: {}", failures.join(", "))))
    }

    /// Kills all of them.
    pub(super) async fn kill(&mut self) {
        // A task that is dropped drops its child, which kills it. One that does not end is not waited for: its child sees
        // the end of this process.
        let _ = timeout(KILL_LIMIT, self.tasks.shutdown()).await;
    }
}

/// The task of one instance.
struct Supervisor {
    index: usize,
    instance: Instance,
    common: Arc<Common>,
    tell: mpsc::Sender<Event>,
}

impl Supervisor {
    /// Runs the instance, and starts it again where that is asked for, until it is to stop. What went wrong at the stop.
    async fn run(self, mut stop: watch::Receiver<bool>) -> Option<String> {
        let mut pauses = Pauses::new();
        loop {
            let mut child = match self.start() {
                Ok(child) => child,
                Err(cause) => return self.failed(cause).await,
            };
            let mut healthy_at = None;
            let ended = tokio::select! {
                ended = self.live(&mut child, &mut healthy_at) => ended,
                () = asked(&mut stop) => return self.stop(child).await,
            };
            let status = match ended {
                Ok(status) => status,
                Err(cause) => return self.failed(cause).await,
            };
            let good_time = healthy_at.map(|at: Instant| at.elapsed());
            let pause = self.common.restart.then(|| pauses.next(good_time));
            let event = Event::Ended {
                index: self.index,
                end: child.end(status),
                pause,
            };
            // Nobody listens where all are being stopped.
            let _ = self.tell.send(event).await;
            tokio::select! {
                () = sleep(pause?) => {}
                () = asked(&mut stop) => return None,
            }
        }
    }

    fn start(&self) -> anyhow::Result<Child> {
        let Common { launch, output, .. } = &*self.common;
        Child::start(launch.instance(&self.instance), &self.instance.name, output)
    }

    /// Tells when it is healthy; returns when it has ended.
    async fn live(
        &self,
        child: &mut Child,
        healthy_at: &mut Option<Instant>,
    ) -> anyhow::Result<std::process::ExitStatus> {
        let pid = child.pid();
        tokio::select! {
            ended = child.run() => return ended,
            () = health::until_healthy(&self.instance, &self.common.launch) => {}
        }
        *healthy_at = Some(Instant::now());
        let index = self.index;
        let _ = self.tell.send(Event::Healthy { index, pid }).await;
        child.run().await
    }

    async fn failed(&self, cause: anyhow::Error) -> Option<String> {
        let index = self.index;
        let _ = self.tell.send(Event::Failed { index, cause }).await;
        None
    }

    async fn stop(&self, mut child: Child) -> Option<String> {
        let name = &self.instance.name;
        match child.stop().await {
            Ok((_, true)) => Some(format!(
                "{name} (pid {}) did not stop in time and was killed",
                child.pid()
            )),
            Ok((status, false)) if !status.success() => {
                Some(format!("{name} (pid {}) {}", child.pid(), guide::how(status)))
            }
            Ok(_) => None,
            Err(cause) => Some(format!("{name} (pid {}): {cause:#}", child.pid())),
        }
    }
}

/// Waits until all are to stop.
async fn asked(stop: &mut watch::Receiver<bool>) {
    // The sender is gone only with the task itself.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The pauses before an instance is started again.
struct Pauses(ExponentialBackoff);

impl Pauses {
    fn new() -> Self {
        let growing = ExponentialBuilder::new()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .without_max_times();
        Self(growing.build())
    }

    /// The next one, for an instance that ended after so much time in health, if it ever was.
    fn next(&mut self, good_time: Option<Duration>) -> Duration {
        if good_time.is_some_and(|time| time >= GOOD_TIME) {
            *self = Self::new();
        }
        self.0.next().unwrap_or(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_begin_anew_after_a_good_time() {
        let mut pauses = Pauses::new();
        let short = Some(GOOD_TIME - Duration::from_millis(1));
        let first: Vec<u128> = [None, short, None].map(|time| pauses.next(time).as_millis()).into();
        assert_eq!(first, [250, 500, 1000]);
        for _ in 0..20 {
            pauses.next(None);
        }
        assert_eq!(pauses.next(None), LONGEST_PAUSE);
        assert_eq!(pauses.next(Some(GOOD_TIME)), FIRST_PAUSE);
    }
}
