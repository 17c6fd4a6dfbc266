//! [`Budget`]: how often the requests to one service may be tried again, all together.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Retries that each second allows.
const PER_SECOND: f64 = 10.0;

/// Retries that each request allows.
const PER_REQUEST: f64 = 0.1;

/// Retries that are kept for later, at most: one for each request that a server has in work at a time. An instance that
/// dies takes all that is in flight there with it at once.
const MOST: f64 = 512.0;

/// The retry budget of the calls to one service: a tenth of the requests and ten a second, so that an outage does not
/// multiply the load. It begins full. See "Retry budgets" in the documentation of Finagle, which has the same rule.
#[derive(Debug)]
pub(super) struct Budget(Mutex<Balance>);

#[derive(Debug)]
struct Balance {
    retries: f64,
    /// When it was that.
    at: Instant,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Balance {
            retries: MOST,
            at: Instant::now(),
        }))
    }

    /// One more request begins.
    pub(super) fn request(&self) {
        let mut balance = self.balance();
        balance.retries = (balance.retries + PER_REQUEST).min(MOST);
    }

    /// Whether a request may be tried again.
    pub(super) fn retry(&self) -> bool {
        let mut balance = self.balance();
        let may = balance.retries >= 1.0;
        if may {
            balance.retries -= 1.0;
        }
        may
    }

    /// The balance of now.
    fn balance(&self) -> MutexGuard<'_, Balance> {
        let mut balance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.saturating_duration_since(balance.at).as_secs_f64() * PER_SECOND;
        balance.retries = (balance.retries + earned).min(MOST);
        balance.at = now;
        balance
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    impl Budget {
        /// Uses all of it up; how many retries that were.
        pub(in super::super) fn empty(&self) -> usize {
            (0..).take_while(|_| self.retry()).count()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_tenth_of_the_requests_and_ten_a_second() {
        let budget = Budget::new();
        budget.empty();
        let mut retries = 0;
        for _ in 0..10_000 {
            advance(Duration::from_millis(1)).await;
            budget.request();
            // Each request fails, and would be tried again more than once.
            retries += budget.empty();
        }
        // 10 s, in which there were 10,000 requests.
        assert!((1095..=1100).contains(&retries), "{retries}");
    }

    #[tokio::test(start_paused = true)]
    async fn ten_a_second_are_allowed_however_few_requests_there_are() {
        let budget = Budget::new();
        budget.empty();
        assert!(!budget.retry());
        advance(Duration::from_millis(110)).await;
        assert!(budget.retry() && !budget.retry());
        advance(Duration::from_secs(1)).await;
        assert_eq!(budget.empty(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn it_begins_with_one_for_each_request_in_work_and_never_holds_more() {
        let budget = Budget::new();
        assert_eq!(budget.empty(), 512);
        advance(Duration::from_secs(3600)).await;
        for _ in 0..10_000 {
            budget.request();
        }
        assert_eq!(budget.empty(), 512);
    }
}
