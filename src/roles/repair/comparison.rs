//! [`Comparison`]: what is in the other list and missing from this one is put back.
//!
//! A message is in one list a moment before it is in the other, so not all that seems to be missing is. What is in the
//! other list, was posted 30 s before anybody looked at this one, and is not there, is missing: a post takes 5 s at most.
//! What was posted later is looked at again when it is that old. What was posted after the comparison had begun went to
//! engines that had lost already what they had to lose.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::time::Instant;
use tracing::warn;

use super::identifiers::{Identifiers, posted_at};
use super::status::Status;
use crate::engine::Engine;
use crate::message::{MAX_IDENTIFIER_BYTES, MAX_TEXT_BYTES, Message};

/// How old a message has to be to be missed: many times what a post takes, so that clocks may differ.
pub(super) const AGE: Duration = Duration::from_secs(30);

/// Passes of one comparison, the last of which should find nothing. One that always finds something meets a fault.
const MOST_PASSES: u32 = 6;

/// The list that is rebuilt.
pub(in crate::roles) trait Side: Send + 'static {
    /// What keeps it.
    type Engine: Engine + ?Sized + 'static;

    /// What it is, for people: `the log`.
    const LIST: &'static str;

    /// All that is there, or on its way there.
    ///
    /// # Errors
    /// Where that is not known as a whole.
    fn known<'a>(&'a mut self, engine: &'a Self::Engine) -> BoxFuture<'a, anyhow::Result<Identifiers>>;

    /// Puts these back, where nobody else did, but for those that are not to come back. Returns how many it put back.
    ///
    /// # Errors
    /// Where that is not done for all of them.
    fn put_back<'a>(
        &'a mut self,
        engine: &'a Self::Engine,
        missing: Vec<Message>,
    ) -> BoxFuture<'a, anyhow::Result<u64>>;
}

/// The other list, read anew: page by page, to its end.
pub(super) type Pages = BoxStream<'static, anyhow::Result<Vec<Message>>>;

/// One comparison, of some passes. The first one finds nearly everything; the next ones what was too young.
pub(super) struct Comparison {
    clock: Clock,
    /// When the first pass was begun, since 1970.
    begun: Duration,
    passes: u32,
    /// What the first pass missed that does not say when it was posted, and when it had seen all of that.
    timeless: Option<(Identifiers, Duration)>,
}

/// What becomes of a message that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    PutBack,
    /// It is too young to be missed.
    Later,
    /// The same, and nothing tells how old it is: it has to be remembered.
    Remember,
    /// It was posted since the comparison was begun.
    Leave,
}

impl Comparison {
    pub(super) fn new() -> Self {
        let clock = Clock::new();
        Self {
            begun: clock.now(),
            clock,
            passes: 0,
            timeless: None,
        }
    }

    /// Compares once. Returns when the next pass is due; `None` where nothing is missing.
    ///
    /// # Errors
    /// Where one of the lists cannot be read or written. Begin a new comparison then: what was put back is there.
    pub(super) async fn pass<S: Side>(
        &mut self,
        side: &mut S,
        engine: &S::Engine,
        mut other: Pages,
        status: &Status,
    ) -> anyhow::Result<Option<Instant>> {
        // Before anything is read: the age of a message counts from here.
        let looked_at = self.clock.now();
        if self.passes == 0 {
            self.begun = looked_at;
        }
        // This list before the other: a message that comes into both meanwhile is younger than this look.
        let known = side
            .known(engine)
            .await
            .with_context(|| format!("reading {}", S::LIST))?;
        let (mut put_back, mut is_later, mut timeless) = (0_u64, false, Identifiers::default());
        while let Some(page) = other.next().await.transpose()? {
            let mut missing = Vec::new();
            for message in page {
                let is_there = known.contains(&message.identifier);
                // What no instance takes, another client put there.
                if is_there || !is_message(&message) {
                    continue;
                }
                match self.verdict(&message.identifier, looked_at) {
                    Verdict::PutBack => missing.push(message),
                    Verdict::Later => is_later = true,
                    Verdict::Remember => timeless.insert(&message.identifier),
                    Verdict::Leave => {}
                }
            }
            if !missing.is_empty() {
                let put = side.put_back(engine, missing).await;
                let put = put.with_context(|| format!("putting back into {}", S::LIST))?;
                status.put_back(put);
                put_back = put_back.saturating_add(put);
            }
        }
        Ok(self.next(looked_at, put_back, is_later, timeless, S::LIST))
    }

    fn verdict(&self, identifier: &str, looked_at: Duration) -> Verdict {
        let is_old = |at: Duration| at.saturating_add(AGE) <= looked_at;
        match (posted_at(identifier), &self.timeless) {
            (Some(at), _) if is_old(at) => Verdict::PutBack,
            (Some(at), _) if at <= self.begun => Verdict::Later,
            (Some(at), _) if at <= self.clock.now() => Verdict::Leave,
            // Without a time, or by a clock that is ahead: old is what was there in the first pass.
            (_, None) => Verdict::Remember,
            (_, Some((seen, by))) if seen.contains(identifier) && is_old(*by) => Verdict::PutBack,
            (_, Some(_)) => Verdict::Leave,
        }
    }

    /// When the next pass is due. There are two at least: what was handed over before the first one may be on its way still.
    fn next(
        &mut self,
        looked_at: Duration,
        put_back: u64,
        is_later: bool,
        timeless: Identifiers,
        list: &str,
    ) -> Option<Instant> {
        let is_first = self.passes == 0;
        self.passes = self.passes.saturating_add(1);
        let ended = self.clock.now();
        let has_timeless = !timeless.is_empty();
        if is_first {
            self.timeless = Some((timeless, ended));
        } else if put_back == 0 && !is_later {
            return None;
        }
        if self.passes >= MOST_PASSES {
            warn!(
                list,
                put_back,
                passes = self.passes,
                "the comparison finds something missing each time; it is given up"
            );
            return None;
        }
        let since = if is_first && !has_timeless { looked_at } else { ended };
        Some(self.clock.at(since.saturating_add(AGE)))
    }
}

/// Whether an instance would take it.
fn is_message(message: &Message) -> bool {
    (1..=MAX_IDENTIFIER_BYTES).contains(&message.identifier.len()) && message.text.len() <= MAX_TEXT_BYTES
}

/// The time of day when it was made, and from then on the time that passes: no step of the system's clock is in between.
struct Clock {
    made: Duration,
    at: Instant,
}

impl Clock {
    fn new() -> Self {
        let made = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            made: made.unwrap_or_default(),
            at: Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.made.saturating_add(self.at.elapsed())
    }

    fn at(&self, time: Duration) -> Instant {
        self.at + time.saturating_sub(self.made)
    }
}
