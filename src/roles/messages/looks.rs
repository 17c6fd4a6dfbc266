//! [`Looks`]: when to look into a mailbox again.

use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::time::{Instant, sleep_until};

use crate::engine::Mailbox;

/// Longest time between two looks: hints that something was put in may be lost.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Shortest time between two looks that are woken by something put in: each costs the cluster as much as all that waits there.
/// The first one after a pause is at once.
const LOOK_GAP: Duration = Duration::from_millis(20);

/// So many looks in a row that something put in asked for too soon: it would ask for the next ones, too.
const BUSY_AFTER: u32 = 10;

/// Nothing is busy any more after so long without anything to deliver.
const QUIET_AFTER: Duration = LOOK_EVERY;

/// The time of each look. As long as little is put in, each is told of, and looked for at once. Under load that would cost
/// the cluster much, and say what is known: then nobody is told, and looks are [`LOOK_GAP`] apart.
pub(super) struct Looks<'a> {
    mailbox: &'a dyn Mailbox,
    /// Hints that something was put in. `None` under load.
    news: Option<BoxStream<'a, ()>>,
    /// How many looks in a row were asked for too soon.
    early: u32,
    /// When the last look was that showed something to deliver.
    found_at: Instant,
}

impl<'a> Looks<'a> {
    pub(super) fn into(mailbox: &'a dyn Mailbox) -> Self {
        Self {
            mailbox,
            news: Some(mailbox.news()),
            early: 0,
            found_at: Instant::now(),
        }
    }

    /// Waits for the time of the next look. The `last` one began then, and `found` something to deliver or nothing; the next
    /// one is to be at most so much later.
    pub(super) async fn next(&mut self, last: Instant, found: bool, at_most: Duration) {
        if found {
            self.found_at = last;
        }
        let soonest = last + LOOK_GAP.min(at_most);
        if self.news.is_none() && last.saturating_duration_since(self.found_at) >= QUIET_AFTER {
            self.news = Some(self.mailbox.news());
        }
        let Some(news) = &mut self.news else {
            sleep_until(soonest).await;
            return;
        };
        // Also where the round itself took longer than the gap: something was put in since its look.
        let was_told = matches!(news.next().now_or_never(), Some(Some(())));
        let is_told = was_told
            || tokio::select! {
                biased;
                Some(()) = news.next() => true,
                () = sleep_until(last + at_most) => false,
            };
        let is_early = was_told || is_told && Instant::now() < soonest;
        self.early = if is_early { self.early.saturating_add(1) } else { 0 };
        if is_told {
            sleep_until(soonest).await;
        }
        // One look is the answer to all of them.
        while let Some(Some(())) = news.next().now_or_never() {}
        if self.early >= BUSY_AFTER {
            self.news = None;
            self.early = 0;
            self.found_at = Instant::now();
        }
    }
}
