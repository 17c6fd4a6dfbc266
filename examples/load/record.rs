//! What the clients did: what became of each post, in which window, and why some failed.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::connection::Failure;
use crate::texts::Texts;

/// All that was posted in a run.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) texts: Texts,
    /// By client.
    pub(crate) records: Vec<Record>,
}

/// How many reasons are told apart.
const MOST_REASONS: usize = 5;

/// What one client did.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The number of its facade.
    pub(crate) facade: usize,
    /// By the counter of the text: how many microseconds it took until 201, none where that did not come. 4 bytes each.
    pub(crate) posts: Vec<Option<NonZeroU32>>,
    /// By window; shorter where nothing ended in the last ones.
    pub(crate) windows: Vec<Counts>,
    pub(crate) reasons: Reasons,
}

/// How many posts came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    /// The longest of all of them; none where there were none.
    pub(crate) longest: Option<Duration>,
}

impl Counts {
    fn posted(&self) -> usize {
        usize::try_from(self.acknowledged + self.failed).unwrap_or(usize::MAX)
    }

    /// These and those.
    pub(crate) fn and(self, other: Counts) -> Counts {
        Counts {
            acknowledged: self.acknowledged + other.acknowledged,
            failed: self.failed + other.failed,
            longest: self.longest.max(other.longest),
        }
    }
}

/// Why posts failed: the first reasons that differ, and how many had others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reasons {
    pub(crate) told_apart: Vec<(String, u64)>,
    pub(crate) others: u64,
}

impl Reasons {
    fn add(&mut self, reason: &str, count: u64) {
        if let Some((_, counted)) = self.told_apart.iter_mut().find(|(known, _)| known == reason) {
            *counted += count;
        } else if self.told_apart.len() < MOST_REASONS {
            self.told_apart.push((reason.to_owned(), count));
        } else {
            self.others += count;
        }
    }

    /// Adds all of those.
    pub(crate) fn merge(&mut self, other: &Reasons) {
        for (reason, count) in &other.told_apart {
            self.add(reason, *count);
        }
        self.others += other.others;
    }
}

impl Record {
    /// A post has ended in this window.
    pub(crate) fn add(&mut self, window: usize, took: Duration, failure: Option<&Failure>) {
        if self.windows.len() <= window {
            self.windows.resize(window + 1, Counts::default());
        }
        let this = Counts {
            acknowledged: u64::from(failure.is_none()),
            failed: u64::from(failure.is_some()),
            longest: Some(took),
        };
        if let Some(counts) = self.windows.get_mut(window) {
            *counts = counts.and(this);
        }
        // The deadline is far below what it holds, and what took less than 1 µs took 1.
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let micros = NonZeroU32::new(micros).unwrap_or(NonZeroU32::MIN);
        self.posts.push(failure.is_none().then_some(micros));
        if let Some(failure) = failure {
            self.reasons.add(&failure.reason, 1);
        }
    }

    /// Those of [`Record::posts`] that ended in this window: windows come one after the other, and so do posts.
    pub(crate) fn posts_in(&self, window: usize) -> &[Option<NonZeroU32>] {
        let before = self.windows.iter().take(window).map(Counts::posted).sum();
        let posts = self.posts.get(before..).unwrap_or_default();
        let count = self.windows.get(window).map_or(0, Counts::posted);
        posts.get(..count).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: &str) -> Failure {
        Failure {
            reason: reason.to_owned(),
            answered: true,
        }
    }

    #[test]
    fn a_post_counts_in_the_window_in_which_it_ended() {
        let mut record = Record::default();
        let ms = Duration::from_millis;
        record.add(0, ms(5), None);
        record.add(2, ms(7), Some(&failure("status 503")));
        record.add(2, ms(3), None);
        let counts = |acknowledged, failed, longest| Counts {
            acknowledged,
            failed,
            longest,
        };
        let expected = [counts(1, 0, Some(ms(5))), counts(0, 0, None), counts(1, 1, Some(ms(7)))];
        assert_eq!(record.windows, expected);
        let posts = [NonZeroU32::new(5000), None, NonZeroU32::new(3000)];
        assert_eq!(record.posts, posts);
        let (first, last) = posts.split_at(1);
        let windows = [0, 1, 2, 3].map(|window| record.posts_in(window));
        assert_eq!(windows, [first, &[], last, &[]]);
    }

    #[test]
    fn an_acknowledged_post_is_told_from_a_failed_one_however_fast_it_was() {
        let mut record = Record::default();
        record.add(0, Duration::ZERO, None);
        record.add(0, Duration::from_secs(99_999), None);
        record.add(0, Duration::ZERO, Some(&failure("refused")));
        assert_eq!(record.posts.iter().flatten().count(), 2);
    }

    #[test]
    fn the_first_five_reasons_are_told_apart_and_the_others_counted() {
        let mut reasons = Reasons::default();
        for reason in ["a", "b", "a", "c", "d", "e", "f", "g", "f", "b"] {
            reasons.add(reason, 1);
        }
        let told: Vec<(&str, u64)> = reasons.told_apart.iter().map(|(r, n)| (r.as_str(), *n)).collect();
        assert_eq!(told, [("a", 2), ("b", 2), ("c", 1), ("d", 1), ("e", 1)]);
        assert_eq!(reasons.others, 3);

        let mut other = Reasons::default();
        other.add("f", 4);
        other.add("a", 1);
        other.others = 1;
        reasons.merge(&other);
        assert_eq!(reasons.told_apart.first(), Some(&("a".to_owned(), 3)));
        assert_eq!(reasons.others, 8);
    }
}
