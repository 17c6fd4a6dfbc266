//! [`Whole`]: whether a queue is asked for as a whole.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether a queue is asked for as a whole, which comes in one answer. Nobody tells how many bytes that is, so it is learnt
/// from what did not come; and an answer that is too large costs connections, so it is not asked for again and again.
#[derive(Debug, Default)]
pub(super) struct Whole(Mutex<State>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// However much waits.
    #[default]
    Always,
    /// It did not come: it may be too much, or the cluster was away. Nothing large is asked for until the cluster answers.
    Doubt,
    /// The cluster answers again, and that many items waited then: once more.
    Again { size: i32 },
    /// It did not come again: where no more than `most` wait. When it was last asked, `size` did.
    Bounded { most: i32, size: i32 },
}

impl Whole {
    /// Whether the queue's size is to be asked first, for [`is_asked_for`](Self::is_asked_for).
    pub(super) fn is_in_doubt(&self) -> bool {
        matches!(*self.state(), State::Doubt | State::Bounded { .. })
    }

    /// Whether the whole is asked for, where the cluster answers and `size` items wait.
    pub(super) fn is_asked_for(&self, size: i32) -> bool {
        let mut state = self.state();
        match *state {
            State::Always | State::Again { .. } => true,
            State::Doubt => {
                *state = State::Again { size };
                false
            }
            State::Bounded { most, .. } => {
                *state = State::Bounded { most, size };
                size <= most
            }
        }
    }

    /// It came: nothing is remembered.
    pub(super) fn came(&self) {
        *self.state() = State::Always;
    }

    /// It did not come. Returns the most that is asked for from now on, where that was learnt.
    pub(super) fn did_not_come(&self) -> Option<i32> {
        let mut state = self.state();
        match *state {
            State::Always | State::Doubt => {
                *state = State::Doubt;
                None
            }
            State::Again { size } | State::Bounded { size, .. } => {
                let most = (size / 2).max(1);
                *state = State::Bounded { most, size };
                Some(most)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that did not come twice, the second time when this many items waited.
    fn bounded(size: i32) -> Whole {
        let whole = Whole::default();
        assert_eq!(whole.did_not_come(), None);
        assert!(whole.is_in_doubt() && !whole.is_asked_for(size));
        assert!(!whole.is_in_doubt());
        assert_eq!(whole.did_not_come(), Some((size / 2).max(1)));
        whole
    }

    #[test]
    fn a_queue_is_asked_for_as_a_whole_without_asking_its_size() {
        assert!(!Whole::default().is_in_doubt());
    }

    #[test]
    fn after_it_did_not_come_once_nothing_large_is_asked_for_until_the_cluster_answers_and_then_once_more() {
        let whole = Whole::default();
        whole.did_not_come();
        assert!(whole.is_in_doubt() && !whole.is_asked_for(1));
        assert!(!whole.is_in_doubt());
        whole.came();
        assert_eq!(whole.did_not_come(), None, "the cluster was away, and it is again");
    }

    #[test]
    fn after_it_did_not_come_twice_it_is_asked_for_when_no_more_than_half_are_left() {
        let whole = bounded(301);
        for (size, is_asked_for) in [(301, false), (1000, false), (151, false), (150, true), (0, true)] {
            assert!(whole.is_in_doubt());
            assert_eq!(whole.is_asked_for(size), is_asked_for, "{size}");
        }
    }

    #[test]
    fn where_half_of_it_does_not_come_either_the_bound_is_half_of_that_and_one_at_least() {
        let whole = bounded(300);
        for (size, most) in [(150, 75), (3, 1), (1, 1), (0, 1)] {
            whole.is_asked_for(size);
            assert_eq!(whole.did_not_come(), Some(most));
            assert!(whole.is_asked_for(most) && !whole.is_asked_for(most + 1));
        }
    }

    #[test]
    fn once_it_came_nothing_is_remembered() {
        let whole = bounded(300);
        assert!(whole.is_asked_for(150));
        whole.came();
        assert!(!whole.is_in_doubt());
        assert_eq!(whole.did_not_come(), None);
    }
}
