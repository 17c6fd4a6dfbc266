//! [`Keeper`]: the task that sees when something may be lost, and compares when it is its turn.

use std::convert::Infallible;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info};

use super::comparison::{Comparison, Pages, Side};
use super::other::NoInstance;
use super::status::Status;
use crate::engine::{Engine, Standing};
use crate::roles::deadline::within;
use crate::roles::followed::Named;

/// How often it is looked at who holds the data, which asks nobody.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One instance compares. The next one begins so much later where that one did not come to an end.
const TURN: Duration = Duration::from_secs(45);

/// Where holders went away, others may follow or come back: nothing is compared before nobody came or went for so long.
const SETTLED_FOR: Duration = Duration::from_secs(10);

/// Shortest time between two comparisons for holders that went away: one that goes alone takes nothing with it.
const NOT_BEFORE: Duration = Duration::from_secs(60);

/// First and longest pause after a try that failed; it doubles, with jitter.
const FAILED_MIN: Duration = Duration::from_millis(500);
const FAILED_MAX: Duration = Duration::from_secs(15);

/// Begins to read the other list.
pub(super) type Other = Box<dyn Fn() -> Pages + Send + Sync>;

/// Tells how many instances come before this one.
pub(super) type Before = Box<dyn Fn() -> BoxFuture<'static, u32> + Send + Sync>;

/// Keeps the list of one side whole.
pub(super) struct Keeper<S> {
    side: S,
    other: Other,
    before: Before,
    status: Arc<Status>,
    doubt: Option<Doubt>,
    /// When this instance came to the end of a comparison.
    compared_at: Option<Instant>,
}

/// Something may be lost.
struct Doubt {
    /// Who holds the data, as was seen last.
    holders: String,
    /// When it is this instance's turn.
    due: Instant,
    /// Whether it was tried to compare.
    was_tried: bool,
}

impl<S: Side> Keeper<S> {
    pub(super) fn new(side: S, other: Other, before: Before, status: Arc<Status>) -> Self {
        Self {
            side,
            other,
            before,
            status,
            doubt: None,
            compared_at: None,
        }
    }

    /// Keeps the list of whichever engine is named whole.
    pub(super) async fn run(mut self, mut named: watch::Receiver<Named<S::Engine>>) {
        let mut former: Option<Option<String>> = None;
        loop {
            let engine = named.borrow_and_update().current.clone();
            // What the settings name anew is another list, which lost nothing: it stays as it is.
            let is_other = former.is_some_and(|former| former != engine.identity());
            tokio::select! {
                never = self.keep(&*engine, is_other) => match never {},
                () = another(&mut named, &engine) => {}
            }
            former = Some(engine.identity());
        }
    }

    async fn keep(&mut self, engine: &S::Engine, mut is_other: bool) -> Infallible {
        if engine.keeps_all() {
            self.status.not_needed();
            return pending().await;
        }
        self.doubt = None;
        let mut pauses = pauses();
        loop {
            let step = AssertUnwindSafe(self.step(engine, is_other)).catch_unwind().await;
            match step {
                Ok(Ok(Some(holders))) => {
                    is_other = false;
                    pauses = self::pauses();
                    self.status.complete();
                    while engine.holders().as_deref() == Some(&holders) {
                        sleep(LOOK_EVERY).await;
                    }
                }
                Ok(Ok(None)) => sleep(LOOK_EVERY).await,
                Ok(Err(error)) => {
                    let reason = format!("{error:#}");
                    if error.is::<NoInstance>() {
                        self.status.waiting(reason);
                    } else {
                        self.status.failed(reason);
                    }
                    sleep(pauses.next().unwrap_or(FAILED_MAX)).await;
                }
                Err(_) => {
                    error!("a comparison of the lists met a fault in this program");
                    self.status
                        .failed("a fault in this program; its log says more".to_owned());
                    sleep(FAILED_MAX).await;
                }
            }
        }
    }

    /// Sees whether something may be lost, and puts it back where it is this instance's turn. Returns who held the data when
    /// it was known to be whole, and `None` where that is not known yet.
    async fn step(&mut self, engine: &S::Engine, is_other: bool) -> anyhow::Result<Option<String>> {
        let Some(holders) = engine.holders() else {
            let away = engine.check().err();
            self.status
                .waiting(away.map_or_else(|| format!("for {}", engine.describe()), |away| away.to_string()));
            return Ok(None);
        };
        match within(engine, engine.standing()).await?? {
            Standing::Whole => {}
            Standing::Unknown if is_other => within(engine, engine.vouch(&holders)).await??,
            standing => {
                if !self.is_due(standing, &holders).await {
                    return Ok(None);
                }
                self.compare(engine, standing).await?;
                within(engine, engine.vouch(&holders)).await??;
            }
        }
        self.doubt = None;
        Ok(Some(holders))
    }

    /// Whether it is this instance's turn to compare.
    async fn is_due(&mut self, standing: Standing, holders: &str) -> bool {
        let is_settling = standing == Standing::InDoubt;
        let now = Instant::now();
        let due = match &mut self.doubt {
            Some(doubt) => {
                if doubt.holders != holders {
                    holders.clone_into(&mut doubt.holders);
                    if is_settling {
                        doubt.due = doubt.due.max(now + SETTLED_FOR);
                    }
                }
                doubt.due
            }
            None => {
                let turn = now + TURN.saturating_mul((self.before)().await);
                let due = if is_settling {
                    let not_before = self.compared_at.map_or(now, |at| at + NOT_BEFORE);
                    not_before.max(turn + SETTLED_FOR)
                } else {
                    turn
                };
                let holders = holders.to_owned();
                self.doubt = Some(Doubt {
                    holders,
                    due,
                    was_tried: false,
                });
                due
            }
        };
        if now < due {
            let reason = "something may be lost; another instance comes first, or the members have to settle";
            self.status.waiting(reason.to_owned());
        }
        now >= due
    }

    async fn compare(&mut self, engine: &S::Engine, standing: Standing) -> anyhow::Result<()> {
        let reason = match standing {
            Standing::Unknown => "nobody vouches for this one: it is new, or came back without its data",
            Standing::InDoubt | Standing::Whole => "members that held this one went away",
        };
        let tried = self.doubt.as_mut().map(|doubt| &mut doubt.was_tried);
        let again = tried.is_some_and(|tried| std::mem::replace(tried, true));
        self.status.comparing(reason, again);
        let (begun, before) = (Instant::now(), self.status.all_put_back());
        let mut comparison = Comparison::new();
        while let Some(due) = comparison
            .pass(&mut self.side, engine, (self.other)(), &self.status)
            .await?
        {
            sleep_until(due).await;
        }
        self.compared_at = Some(Instant::now());
        let put_back = self.status.all_put_back().saturating_sub(before);
        let took = format!("{:.1}s", begun.elapsed().as_secs_f64());
        info!(
            list = S::LIST,
            put_back, took, "compared the two lists: nothing is missing now"
        );
        Ok(())
    }
}

/// Waits until another engine than this one is named.
async fn another<E: ?Sized>(named: &mut watch::Receiver<Named<E>>, engine: &Arc<E>) {
    while named.changed().await.is_ok() {
        if !Arc::ptr_eq(&named.borrow_and_update().current, engine) {
            return;
        }
    }
    // There will be no other.
    pending::<()>().await;
}

fn pauses() -> ExponentialBackoff {
    let growing = ExponentialBuilder::new()
        .with_min_delay(FAILED_MIN)
        .with_max_delay(FAILED_MAX);
    growing.with_jitter().without_max_times().build()
}
