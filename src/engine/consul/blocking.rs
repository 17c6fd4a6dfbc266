//! Watches by blocking queries. <https://developer.hashicorp.com/consul/api-docs/features/blocking>

use std::time::Duration;

use anyhow::{anyhow, ensure};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rustify::endpoint::EndpointResult;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};

use super::{CALL_DEADLINE, Consul};
use crate::engine::Result;

/// How long the agent may keep a query while nothing changes. It adds up to a sixteenth. Much shorter than Consul's
/// default of 5 min, since an agent that hangs is noticed only when an answer is overdue.
const WAIT: Duration = Duration::from_secs(10);

/// How long a blocking query may take, the agent's sixteenth included.
const BLOCKING_DEADLINE: Duration = Duration::from_millis(625)
    .saturating_add(WAIT)
    .saturating_add(CALL_DEADLINE);

/// Least time between two queries: agents have been seen to answer at once though nothing had changed.
const FLOOR: Duration = Duration::from_millis(200);

/// Time between two queries where an answer has no index to wait on.
const POLL: Duration = Duration::from_secs(1);

/// First pause after a failed query; up to twice that, since all pauses are jittered.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Where pauses stop growing; with jitter they are up to 2 s. Whoever waits here holds on to what was known last.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a query came to.
pub(super) struct Answer<T> {
    /// What the next query waits on; `None` where this is not known, so that it is made soon.
    pub(super) index: Option<u64>,
    pub(super) content: T,
}

/// How long the query of this index may take.
pub(super) fn deadline(index: u64) -> Duration {
    if index == 0 { CALL_DEADLINE } else { BLOCKING_DEADLINE }
}

/// The parameters of the query of this index: `others`, and unless it is 0, which is answered at once, the wait for
/// something newer.
pub(super) fn query(others: Option<&str>, index: u64) -> Option<String> {
    let waiting = (index > 0).then(|| format!("index={index}&wait={}s", WAIT.as_secs()));
    let parameters: Vec<&str> = others.into_iter().chain(waiting.as_deref()).collect();
    (!parameters.is_empty()).then(|| parameters.join("&"))
}

impl Consul {
    /// What `ask` is answered, query after query: each is given the index to wait on.
    pub(super) fn watch_by<'a, T, F>(&'a self, ask: impl Fn(u64) -> F + Send + 'a) -> BoxStream<'a, Result<T>>
    where
        T: Send + 'a,
        F: Future<Output = anyhow::Result<Answer<T>>> + Send + 'a,
    {
        let answers = async_stream::stream! {
            let mut cursor = Cursor::new();
            loop {
                sleep_until(cursor.next_query).await;
                let asked_at = Instant::now();
                match ask(cursor.index).await {
                    Ok(answer) => {
                        cursor.answered(answer.index, asked_at);
                        yield Ok(answer.content);
                    }
                    Err(error) => {
                        cursor.failed();
                        yield Err(self.unavailable(error));
                    }
                }
            }
        };
        answers.boxed()
    }
}

/// Where a watch stands between two queries.
struct Cursor {
    /// What was seen last; 0 asks for an answer at once.
    index: u64,
    /// When the next query may be made.
    next_query: Instant,
    pauses: ExponentialBackoff,
}

impl Cursor {
    fn new() -> Self {
        Self {
            index: 0,
            next_query: Instant::now(),
            pauses: pauses(),
        }
    }

    fn answered(&mut self, index: Option<u64>, asked_at: Instant) {
        // An index that goes back is that of another history: the agent lost its state, or another server answered.
        // To wait for something newer than the old one might take for ever.
        self.index = index.filter(|index| *index >= self.index).unwrap_or(0);
        self.next_query = asked_at + if index.is_some() { FLOOR } else { POLL };
        self.pauses = pauses();
    }

    fn failed(&mut self) {
        // Whoever answers next may have another history.
        self.index = 0;
        self.next_query = Instant::now() + self.pauses.next().unwrap_or(LONGEST_PAUSE);
    }
}

fn pauses() -> ExponentialBackoff {
    let pauses = ExponentialBuilder::new()
        .with_jitter()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE);
    pauses.without_max_times().build()
}

/// The `X-Consul-Index` of an answer, which is 1 at least.
pub(super) fn index_of<T: DeserializeOwned + Send + Sync>(answer: &EndpointResult<T>) -> anyhow::Result<u64> {
    let header = answer.response.headers().get("X-Consul-Index");
    parse_index(header.map(|value| value.as_bytes()))
}

fn parse_index(header: Option<&[u8]>) -> anyhow::Result<u64> {
    let header =
        header.ok_or_else(|| anyhow!("its answer has no X-Consul-Index: is this the HTTP port of a Consul agent?"))?;
    let index = std::str::from_utf8(header).ok().and_then(|text| text.parse().ok());
    let index: u64 = index.ok_or_else(|| anyhow!("its answer has an X-Consul-Index that is no number"))?;
    ensure!(index > 0, "its answer has an X-Consul-Index of 0");
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(cursor: &Cursor) -> Duration {
        cursor.next_query.saturating_duration_since(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn an_index_that_grows_or_stays_is_waited_on() {
        let mut cursor = Cursor::new();
        assert_eq!(cursor.index, 0, "the first query is answered at once");
        for index in [7, 7, 9] {
            cursor.answered(Some(index), Instant::now());
            assert_eq!(cursor.index, index);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_index_that_goes_back_is_reset() {
        let mut cursor = Cursor::new();
        cursor.answered(Some(9), Instant::now());
        cursor.answered(Some(8), Instant::now());
        assert_eq!(cursor.index, 0);
        cursor.answered(Some(8), Instant::now());
        assert_eq!(cursor.index, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_resets_the_index() {
        let mut cursor = Cursor::new();
        cursor.answered(Some(9), Instant::now());
        cursor.failed();
        assert_eq!(cursor.index, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn between_two_queries_there_is_a_floor_that_a_blocking_query_has_behind_it() {
        let mut cursor = Cursor::new();
        assert_eq!(waits(&cursor), Duration::ZERO);
        cursor.answered(Some(9), Instant::now());
        assert_eq!(waits(&cursor), FLOOR);
        let asked_at = Instant::now();
        tokio::time::advance(WAIT).await;
        cursor.answered(Some(9), asked_at);
        assert_eq!(waits(&cursor), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_after_errors_grow_to_a_limit_and_any_answer_resets_them() {
        let mut cursor = Cursor::new();
        let pause = |cursor: &mut Cursor| {
            cursor.failed();
            waits(cursor)
        };
        assert!((FIRST_PAUSE..=2 * FIRST_PAUSE).contains(&pause(&mut cursor)));
        for _ in 0..1000 {
            let pause = pause(&mut cursor);
            assert!(pause > FIRST_PAUSE && pause <= 2 * LONGEST_PAUSE, "{pause:?}");
        }
        cursor.answered(Some(1), Instant::now());
        assert!((FIRST_PAUSE..=2 * FIRST_PAUSE).contains(&pause(&mut cursor)));
    }

    #[test]
    fn a_deadline_is_longer_than_what_the_agent_may_wait() {
        assert!(BLOCKING_DEADLINE > WAIT + WAIT / 16 + Duration::from_secs(1));
    }

    #[test]
    fn an_index_is_a_number_from_1() {
        assert_eq!(parse_index(Some(b"1")).ok(), Some(1));
        assert_eq!(parse_index(Some(b"18446744073709551615")).ok(), Some(u64::MAX));
        for bad in [None, Some(&b""[..]), Some(b"0"), Some(b"-1"), Some(b"x"), Some(b"\xff")] {
            assert!(parse_index(bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_index_it_is_asked_again_soon() {
        let mut cursor = Cursor::new();
        cursor.answered(Some(9), Instant::now());
        cursor.answered(None, Instant::now());
        assert_eq!((cursor.index, waits(&cursor)), (0, POLL));
    }

    #[test]
    fn a_query_waits_where_it_has_an_index() {
        assert_eq!(query(None, 0), None);
        assert_eq!(query(Some("passing=true"), 0).as_deref(), Some("passing=true"));
        assert_eq!(query(None, 7).as_deref(), Some("index=7&wait=10s"));
        assert_eq!(
            query(Some("passing=true"), 7).as_deref(),
            Some("passing=true&index=7&wait=10s")
        );
    }
}
