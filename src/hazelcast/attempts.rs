//! When to try to connect, and when again.

use std::collections::HashMap;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;
use uuid::Uuid;

use super::config::Config;

/// Where an attempt to connect is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// Whoever answers: the first connection, or the first after all were lost.
    Anyone,
    Member(Uuid),
}

/// The attempts at each target.
///
/// A connection that ends as soon as it stands counts as one more attempt that failed, or a member that admits clients
/// only to drop them would be asked without a pause.
pub(super) struct Schedule {
    min: Duration,
    max: Duration,
    attempts: HashMap<Target, Attempts>,
}

struct Attempts {
    state: State,
    waits: ExponentialBackoff,
    failed: bool,
}

enum State {
    /// Tried again then.
    Due(Instant),
    UnderWay,
    /// Connected, since then.
    Succeeded(Instant),
}

impl Schedule {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            min: config.reconnect_min,
            max: config.reconnect_max,
            attempts: HashMap::new(),
        }
    }

    /// Begins to try for a target, unless that is under way: at once, or after a wait if its last connection did not
    /// outlive the longest wait.
    pub(super) fn aim(&mut self, target: Target, now: Instant) {
        let max = self.max;
        let is_short = |state: &State| matches!(state, State::Succeeded(since) if now.duration_since(*since) < max);
        match self.attempts.get_mut(&target) {
            Some(Attempts {
                state: State::Due(_) | State::UnderWay,
                ..
            }) => {}
            Some(attempts) if is_short(&attempts.state) => attempts.wait(now, max),
            _ => {
                let attempts = Attempts {
                    state: State::Due(now),
                    waits: self.waits(),
                    failed: false,
                };
                self.attempts.insert(target, attempts);
            }
        }
    }

    /// The targets to try now; they are under way from then on.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Target> {
        let is_due = |attempts: &Attempts| matches!(attempts.state, State::Due(then) if then <= now);
        let due = self.attempts.iter_mut().filter(|(_, attempts)| is_due(attempts));
        due.map(|(target, attempts)| {
            attempts.state = State::UnderWay;
            *target
        })
        .collect()
    }

    pub(super) fn succeeded(&mut self, target: Target, now: Instant) {
        if let Some(attempts) = self.attempts.get_mut(&target) {
            attempts.state = State::Succeeded(now);
        }
    }

    /// The attempt failed and is made again later. Returns whether this is the first that failed since one succeeded.
    pub(super) fn failed(&mut self, target: Target, now: Instant) -> bool {
        let Some(attempts) = self.attempts.get_mut(&target) else {
            return false;
        };
        attempts.wait(now, self.max);
        !std::mem::replace(&mut attempts.failed, true)
    }

    /// Gives up on members that `is_member` does not know.
    pub(super) fn keep_members(&mut self, is_member: impl Fn(Uuid) -> bool) {
        self.attempts.retain(|target, _| match target {
            Target::Anyone => true,
            Target::Member(uuid) => is_member(*uuid),
        });
    }

    fn waits(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(self.min)
            .with_max_delay(self.max)
            .with_jitter()
            .without_max_times()
            .build()
    }
}

impl Attempts {
    fn wait(&mut self, now: Instant, max: Duration) {
        self.state = State::Due(now + self.waits.next().unwrap_or(max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(2);

    fn schedule() -> Schedule {
        let mut config = Config::new("dev", ["127.0.0.1:5701"]);
        config.reconnect_min = MIN;
        config.reconnect_max = MAX;
        Schedule::new(&config)
    }

    #[test]
    fn the_first_attempt_is_made_at_once_and_only_once_at_a_time() {
        let (mut schedule, now) = (schedule(), Instant::now());
        schedule.aim(Target::Anyone, now);
        schedule.aim(Target::Anyone, now);
        assert_eq!(schedule.take_due(now), [Target::Anyone]);
        schedule.aim(Target::Anyone, now);
        assert!(schedule.take_due(now + MAX).is_empty());
    }

    #[test]
    fn a_failed_attempt_is_made_again_after_a_wait() {
        let (mut schedule, now) = (schedule(), Instant::now());
        schedule.aim(Target::Anyone, now);
        schedule.take_due(now);
        assert!(schedule.failed(Target::Anyone, now));
        assert!(schedule.take_due(now + MIN / 2).is_empty());
        assert_eq!(schedule.take_due(now + MAX), [Target::Anyone]);
        assert!(!schedule.failed(Target::Anyone, now), "said once");
    }

    #[test]
    fn a_connection_that_did_not_last_counts_as_a_failed_attempt() {
        let (mut schedule, mut now) = (schedule(), Instant::now());
        schedule.aim(Target::Anyone, now);
        let mut waited = Duration::ZERO;
        for _ in 0..6 {
            while schedule.take_due(now).is_empty() {
                now += Duration::from_millis(1);
                waited += Duration::from_millis(1);
            }
            schedule.succeeded(Target::Anyone, now);
            schedule.aim(Target::Anyone, now);
        }
        // 50, 100, 200, 400 and 800 ms at least.
        assert!(waited >= 31 * MIN, "{waited:?}");
    }

    #[test]
    fn after_a_connection_that_lasted_the_next_attempt_is_made_at_once() {
        let (mut schedule, now) = (schedule(), Instant::now());
        schedule.aim(Target::Anyone, now);
        schedule.take_due(now);
        schedule.succeeded(Target::Anyone, now);
        schedule.aim(Target::Anyone, now + MAX);
        assert_eq!(schedule.take_due(now + MAX), [Target::Anyone]);
    }

    #[test]
    fn members_that_left_are_given_up() {
        let (mut schedule, now) = (schedule(), Instant::now());
        let (left, stays) = (Uuid::from_u128(1), Uuid::from_u128(2));
        schedule.aim(Target::Member(left), now);
        schedule.aim(Target::Member(stays), now);
        schedule.keep_members(|uuid| uuid == stays);
        assert_eq!(schedule.take_due(now), [Target::Member(stays)]);
        assert!(!schedule.failed(Target::Member(left), now));
    }
}
