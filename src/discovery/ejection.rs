//! [`Ejection`]: for how long an instance that does not answer is left out. The whole rule is here.

use std::time::Duration;

use tokio::time::Instant;

/// How long the first ejection lasts, and one by [`Outcome::Unable`]. Each further one in a row lasts twice as long.
const SHORTEST: Duration = Duration::from_millis(500);

/// Where ejections stop growing.
const LONGEST: Duration = Duration::from_secs(30);

/// The least part of its length that an ejection lasts: not all processes are to try an instance at the same moment.
const LEAST_PART: f64 = 0.75;

/// What a call told of the instance that was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Answered,
    /// It answered that it cannot do it now. It is there, and another one may do better.
    Unable,
    /// It refused, broke off, or was silent for too long.
    Failed,
}

/// How an instance stands in the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is called as any other.
    Good,
    /// Its ejection is over; one request may try whether it answers again.
    Due,
    /// It is ejected, or on trial.
    Out,
}

/// The ejections of one instance.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    /// Ejections in a row for which it has not answered in between.
    failures: u32,
    /// When the last one ends.
    ends: Option<Instant>,
    /// Whether a request is under way that tries it after the last one.
    on_trial: bool,
}

impl Ejection {
    pub(super) fn standing(&self, now: Instant) -> Standing {
        match self.ends {
            Some(ends) if now < ends => Standing::Out,
            _ if self.failures == 0 => Standing::Good,
            _ if self.on_trial => Standing::Out,
            _ => Standing::Due,
        }
    }

    /// Ejections in a row; 0 where it answered last.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Begins the trial of one that is [`Standing::Due`]. Whether it is this caller's.
    pub(super) fn begin_trial(&mut self, now: Instant) -> bool {
        let begins = self.standing(now) == Standing::Due;
        self.on_trial |= begins;
        begins
    }

    /// The trial's request has ended, whether or not it told anything.
    pub(super) fn end_trial(&mut self) {
        self.on_trial = false;
    }

    /// A call that was begun at `begun` came to this. Returns for how long the instance is ejected from `now` on, where
    /// this ejects it.
    pub(super) fn report(&mut self, outcome: Outcome, begun: Instant, now: Instant) -> Option<Duration> {
        match outcome {
            Outcome::Answered => {
                *self = Self::default();
                return None;
            }
            Outcome::Unable => self.failures = 0,
            // It was under way when the last ejection began, or had no other choice meanwhile: that is known already.
            Outcome::Failed if self.ends.is_some_and(|ends| begun < ends) => return None,
            Outcome::Failed => self.failures = self.failures.saturating_add(1),
        }
        self.on_trial = false;
        let length = length(self.failures).mul_f64(LEAST_PART + (1.0 - LEAST_PART) * fastrand::f64());
        self.ends = Some(now + length);
        Some(length)
    }
}

/// How long an ejection lasts at most that makes so many in a row.
fn length(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    SHORTEST.saturating_mul(1 << doublings).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    /// An instance, and the time.
    struct Ejected {
        ejection: Ejection,
        now: Instant,
    }

    impl Ejected {
        fn new() -> Self {
            Self {
                ejection: Ejection::default(),
                now: Instant::now(),
            }
        }

        /// A call that begins and ends now.
        fn report(&mut self, outcome: Outcome) -> Option<Duration> {
            self.ejection.report(outcome, self.now, self.now)
        }

        /// One that fails; when the ejection is over.
        fn fail(&mut self) -> Duration {
            let length = self.report(Outcome::Failed).unwrap();
            self.now += length;
            length
        }

        fn standing(&self) -> Standing {
            self.ejection.standing(self.now)
        }
    }

    #[test]
    fn an_instance_is_ejected_for_a_time_that_grows_from_half_a_second_to_thirty_with_jitter() {
        let mut lengths: Vec<Duration> = Vec::new();
        for _ in 0..100 {
            let mut ejected = Ejected::new();
            for most in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
                let length = ejected.fail();
                let most = Duration::from_millis(most);
                assert!(most.mul_f64(0.75) <= length && length <= most, "{length:?} of {most:?}");
                lengths.push(length);
            }
        }
        lengths.sort();
        lengths.dedup();
        assert!(lengths.len() > 100, "there is no jitter");
        let mut ejected = Ejected::new();
        for _ in 0..1000 {
            assert!(ejected.fail() <= LONGEST);
        }
    }

    #[test]
    fn it_is_out_until_then_and_due_for_one_trial_after_it() {
        let mut ejected = Ejected::new();
        assert_eq!(ejected.standing(), Standing::Good);
        ejected.fail();
        assert_eq!(ejected.ejection.standing(ejected.now - MOMENT), Standing::Out);
        assert_eq!(ejected.standing(), Standing::Due);
        assert!(ejected.ejection.begin_trial(ejected.now));
        assert!(!ejected.ejection.begin_trial(ejected.now), "one at a time");
        assert_eq!(ejected.standing(), Standing::Out);
        ejected.ejection.end_trial();
        assert_eq!(ejected.standing(), Standing::Due, "a trial that told nothing");
        assert!(ejected.ejection.begin_trial(ejected.now));
        ejected.fail();
        assert_eq!(ejected.standing(), Standing::Due, "a trial that failed is over");
    }

    #[test]
    fn an_answer_ends_the_ejection_and_the_next_one_is_short_again() {
        let mut ejected = Ejected::new();
        for _ in 0..5 {
            ejected.fail();
        }
        assert_eq!(ejected.report(Outcome::Answered), None);
        assert_eq!((ejected.standing(), ejected.ejection.failures()), (Standing::Good, 0));
        assert!(ejected.fail() <= SHORTEST);
    }

    #[test]
    fn what_was_under_way_when_it_was_ejected_makes_the_ejection_no_longer() {
        let mut ejected = Ejected::new();
        let begun = ejected.now;
        ejected.fail();
        let late = ejected.ejection.report(Outcome::Failed, begun, ejected.now + MOMENT);
        assert_eq!((late, ejected.ejection.failures()), (None, 1));
        assert_eq!(ejected.standing(), Standing::Due);
        ejected.fail();
        assert_eq!(ejected.ejection.failures(), 2);
    }

    #[test]
    fn one_that_answers_that_it_cannot_is_left_out_for_half_a_second_and_needs_no_trial() {
        let mut ejected = Ejected::new();
        for _ in 0..5 {
            let length = ejected.report(Outcome::Unable).unwrap();
            assert!(length <= SHORTEST, "{length:?}");
            assert_eq!(ejected.standing(), Standing::Out);
            ejected.now += length;
            assert_eq!(ejected.standing(), Standing::Good);
        }
        ejected.fail();
        ejected.report(Outcome::Unable);
        assert_eq!(ejected.ejection.failures(), 0, "it is there");
    }
}
