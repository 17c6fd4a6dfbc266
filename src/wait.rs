//! [`Wait`]: what a role does while an engine is not there yet.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use backon::{BackoffBuilder, ExponentialBuilder};
use tracing::{info, warn};

/// First pause between two tries; up to twice that, since all pauses are jittered.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Where pauses stop growing; with jitter they are up to 2 s.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long nothing is said after the first word; each further silence is twice as long.
const FIRST_SILENCE: Duration = Duration::from_secs(2);

/// The time that a start may take: one limit for all that it has to wait for.
pub struct Wait<'a> {
    started: Instant,
    limit: Option<Duration>,
    tell: Box<dyn Fn(&NotYet) + Send + Sync + 'a>,
}

/// Why something that is waited for is not there yet.
#[derive(Debug)]
pub struct NotYet {
    /// What is waited for: `Consul at http://127.0.0.1:8500`.
    pub subject: String,
    /// What answered instead.
    pub answer: String,
    /// What a person can do about it.
    pub advice: String,
}

impl<'a> Wait<'a> {
    /// A wait that begins now and ends after `limit`; with a limit of 0 there is one try.
    pub fn up_to(limit: Duration) -> Self {
        Self {
            started: Instant::now(),
            limit: Some(limit),
            tell: Box::new(|_| {}),
        }
    }

    /// A wait that begins now and ends when it has succeeded.
    pub fn without_limit() -> Self {
        Self {
            started: Instant::now(),
            limit: None,
            tell: Box::new(|_| {}),
        }
    }

    /// Tells each failed try as well, for those who ask meanwhile.
    pub fn telling(mut self, tell: impl Fn(&NotYet) + Send + Sync + 'a) -> Self {
        self.tell = Box::new(tell);
        self
    }

    /// Tries until it succeeds or the time is up. Says so at the first failure, then at growing intervals.
    ///
    /// The first try is made whatever the time and not cut short, so it has to have a deadline of its own.
    ///
    /// # Errors
    /// When the time is up: what was waited for, the last answer, and what to do, one below the other.
    pub async fn until<T, F>(&self, mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, NotYet>>,
    {
        let mut last = match attempt().await {
            Ok(value) => return Ok(value),
            Err(not_yet) => not_yet,
        };
        let mut tries: u64 = 1;
        let pauses = ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .without_max_times();
        let mut silence = Silence::new();
        for pause in pauses.build() {
            (self.tell)(&last);
            if self.left().is_zero() {
                break;
            }
            if silence.is_over(&last.subject) {
                let limit = self.limit.map(|limit| format!("{limit:?}"));
                warn!(
                    answer = last.answer,
                    limit,
                    waited = self.waited(),
                    "waiting for {}",
                    last.subject
                );
            }
            tokio::time::sleep(pause.min(self.left())).await;
            match tokio::time::timeout(self.left(), attempt()).await {
                Ok(Ok(value)) => {
                    info!(waited = self.waited(), "the wait for {} is over", last.subject);
                    return Ok(value);
                }
                Ok(Err(not_yet)) => {
                    tries += 1;
                    last = not_yet;
                }
                // The time is up: what the last whole try met is the better answer.
                Err(_) => break,
            }
        }
        Err(last.give_up(&self.waited(), tries))
    }

    fn left(&self) -> Duration {
        let limit = self.limit.unwrap_or(Duration::MAX);
        limit.saturating_sub(self.started.elapsed())
    }

    fn waited(&self) -> String {
        format!("{:.1}s", self.started.elapsed().as_secs_f64())
    }
}

impl NotYet {
    fn give_up(self, waited: &str, tries: u64) -> anyhow::Error {
        let tries = if tries == 1 {
            "1 try".to_owned()
        } else {
            format!("{tries} tries")
        };
        anyhow!("what to do: {}", self.advice)
            .context(format!("last answer: {}", self.answer))
            .context(format!(
                "gave up waiting for {} after {waited} and {tries}",
                self.subject
            ))
    }
}

/// When to say again what is waited for: at once, then after silences that double. Another subject begins anew.
struct Silence {
    subject: String,
    since: Instant,
    length: Duration,
}

impl Silence {
    fn new() -> Self {
        Self {
            subject: String::new(),
            since: Instant::now(),
            length: FIRST_SILENCE,
        }
    }

    fn is_over(&mut self, subject: &str) -> bool {
        if self.subject != subject {
            self.subject = subject.to_owned();
            self.length = FIRST_SILENCE;
        } else if self.since.elapsed() < self.length {
            return false;
        } else {
            self.length = self.length.saturating_mul(2);
        }
        self.since = Instant::now();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_yet(answer: &str) -> NotYet {
        NotYet {
            subject: "the moon".to_owned(),
            answer: answer.to_owned(),
            advice: "look up".to_owned(),
        }
    }

    #[tokio::test]
    async fn without_a_limit_there_is_exactly_one_try() {
        let mut tries = 0;
        let outcome: anyhow::Result<()> = Wait::up_to(Duration::ZERO)
            .until(|| {
                tries += 1;
                async { Err(not_yet("cloudy")) }
            })
            .await;
        assert_eq!(tries, 1);
        let chain: Vec<String> = outcome.unwrap_err().chain().map(ToString::to_string).collect();
        assert_eq!(
            chain,
            [
                "gave up waiting for the moon after 0.0s and 1 try",
                "last answer: cloudy",
                "what to do: look up"
            ]
        );
    }

    #[tokio::test]
    async fn what_comes_in_time_is_returned() {
        let mut tries = 0;
        let outcome = Wait::up_to(Duration::from_secs(60))
            .until(|| {
                tries += 1;
                let now = tries;
                async move { if now < 3 { Err(not_yet("cloudy")) } else { Ok(now) } }
            })
            .await;
        assert_eq!(outcome.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_try_that_hangs_is_cut_at_the_limit_and_the_last_answer_named() {
        let mut tries = 0;
        let outcome: anyhow::Result<()> = Wait::up_to(Duration::from_millis(700))
            .until(|| {
                tries += 1;
                let first = tries == 1;
                async move {
                    if first {
                        Err(not_yet("cloudy"))
                    } else {
                        std::future::pending().await
                    }
                }
            })
            .await;
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(error.contains("1 try") && error.contains("cloudy"), "{error}");
    }
}
