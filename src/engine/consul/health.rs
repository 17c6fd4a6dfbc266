//! Who is live, by blocking queries. <https://developer.hashicorp.com/consul/api-docs/features/blocking>

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::agent::VERSION_META;
use super::{CALL_DEADLINE, Consul};
use crate::engine::{Instance, Result};

/// How long the agent may keep a query while nothing changes. It adds up to a sixteenth. Much shorter than Consul's
/// default of 5 min, since an agent that hangs is noticed only when an answer is overdue.
const WAIT: Duration = Duration::from_secs(10);

/// How long a blocking query may take, the agent's sixteenth included.
const BLOCKING_DEADLINE: Duration = Duration::from_millis(625)
    .saturating_add(WAIT)
    .saturating_add(CALL_DEADLINE);

/// Least time between two queries: agents have been seen to answer at once though nothing had changed.
const FLOOR: Duration = Duration::from_millis(200);

/// First pause after a failed query; up to twice that, since all pauses are jittered.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Where pauses stop growing; with jitter they are up to 2 s. Whoever waits here holds on to what was known last.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Consul {
    /// The passing instances of a service: see [`Registry::watch`](crate::engine::Registry::watch).
    pub(super) fn watch_passing<'a>(&'a self, service: &'a str) -> BoxStream<'a, Result<Vec<Instance>>> {
        let answers = async_stream::stream! {
            let mut cursor = Cursor::new();
            loop {
                sleep_until(cursor.next_query).await;
                let asked_at = Instant::now();
                match self.passing(service, cursor.index).await {
                    Ok(answer) => {
                        cursor.answered(answer.index, asked_at);
                        yield Ok(answer.instances);
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

    /// One query. An `index` of 0 is answered at once, another one when something is newer.
    async fn passing(&self, service: &str, index: u64) -> anyhow::Result<Answer> {
        let what = || format!("the live instances of {service}");
        let deadline = if index == 0 { CALL_DEADLINE } else { BLOCKING_DEADLINE };
        let sent = self.send(Passing { service, index }, deadline).await;
        let answer = sent.map_err(anyhow::Error::from).with_context(what)?;
        let index = index_of(
            answer
                .response
                .headers()
                .get("X-Consul-Index")
                .map(|value| value.as_bytes()),
        );
        let entries = answer
            .parse()
            .map_err(super::Failure::from)
            .map_err(anyhow::Error::from);
        Ok(Answer {
            index: index.with_context(what)?,
            instances: instances(service, entries.with_context(what)?),
        })
    }
}

/// What a query came to.
struct Answer {
    index: u64,
    /// In the order of their ids.
    instances: Vec<Instance>,
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

    fn answered(&mut self, index: u64, asked_at: Instant) {
        // An index that goes back is that of another history: the agent lost its state, or another server answered.
        // To wait for something newer than the old one might take for ever.
        self.index = if index < self.index { 0 } else { index };
        self.next_query = asked_at + FLOOR;
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

/// Reads `X-Consul-Index`, which is 1 at least.
fn index_of(header: Option<&[u8]>) -> anyhow::Result<u64> {
    let header =
        header.ok_or_else(|| anyhow!("its answer has no X-Consul-Index: is this the HTTP port of a Consul agent?"))?;
    let index = std::str::from_utf8(header).ok().and_then(|text| text.parse().ok());
    let index: u64 = index.ok_or_else(|| anyhow!("its answer has an X-Consul-Index that is no number"))?;
    ensure!(index > 0, "its answer has an X-Consul-Index of 0");
    Ok(index)
}

/// The instances that can be called, in the order of their ids.
fn instances(service: &str, entries: Vec<Entry>) -> Vec<Instance> {
    let mut instances: Vec<Instance> = entries
        .into_iter()
        .filter_map(|entry| entry.instance(service))
        .collect();
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.dedup_by(|a, b| a.id == b.id);
    instances
}

/// `GET /v1/health/service/<name>?passing`, which `consulrs` does not have.
struct Passing<'a> {
    service: &'a str,
    index: u64,
}

impl Endpoint for Passing<'_> {
    type Response = Vec<Entry>;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("health/service/{}", self.service)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }

    fn query(&self) -> std::result::Result<Option<String>, ClientError> {
        Ok(Some(match self.index {
            0 => "passing=true".to_owned(),
            index => format!("passing=true&index={index}&wait={}s", WAIT.as_secs()),
        }))
    }
}

/// One instance in Consul's answer, as far as it is of use here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Node {
    pub(super) address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Service {
    #[serde(rename = "ID")]
    pub(super) id: String,
    /// Empty where it is that of the node.
    pub(super) address: String,
    /// Left out where it is 0: whoever registers without a port.
    #[serde(default)]
    pub(super) port: i64,
    pub(super) meta: Option<HashMap<String, String>>,
}

impl Entry {
    /// `None` where it has no address or port that could be called.
    fn instance(self, service: &str) -> Option<Instance> {
        let Service {
            id,
            address,
            port,
            meta,
        } = self.service;
        let host = if address.is_empty() { self.node.address } else { address };
        match u16::try_from(port) {
            Ok(port) if port > 0 && !host.is_empty() => Some(Instance {
                id,
                host,
                port,
                version: meta.and_then(|mut meta| meta.remove(VERSION_META)),
            }),
            _ => {
                debug!(
                    service,
                    id, host, port, "passed over an instance that has no address to call"
                );
                None
            }
        }
    }
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
            cursor.answered(index, Instant::now());
            assert_eq!(cursor.index, index);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_index_that_goes_back_is_reset() {
        let mut cursor = Cursor::new();
        cursor.answered(9, Instant::now());
        cursor.answered(8, Instant::now());
        assert_eq!(cursor.index, 0);
        cursor.answered(8, Instant::now());
        assert_eq!(cursor.index, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_resets_the_index() {
        let mut cursor = Cursor::new();
        cursor.answered(9, Instant::now());
        cursor.failed();
        assert_eq!(cursor.index, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn between_two_queries_there_is_a_floor_that_a_blocking_query_has_behind_it() {
        let mut cursor = Cursor::new();
        assert_eq!(waits(&cursor), Duration::ZERO);
        cursor.answered(9, Instant::now());
        assert_eq!(waits(&cursor), FLOOR);
        let asked_at = Instant::now();
        tokio::time::advance(WAIT).await;
        cursor.answered(9, asked_at);
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
        cursor.answered(1, Instant::now());
        assert!((FIRST_PAUSE..=2 * FIRST_PAUSE).contains(&pause(&mut cursor)));
    }

    #[test]
    fn a_deadline_is_longer_than_what_the_agent_may_wait() {
        assert!(BLOCKING_DEADLINE > WAIT + WAIT / 16 + Duration::from_secs(1));
    }

    #[test]
    fn an_index_is_a_number_from_1() {
        assert_eq!(index_of(Some(b"1")).ok(), Some(1));
        assert_eq!(index_of(Some(b"18446744073709551615")).ok(), Some(u64::MAX));
        for bad in [None, Some(&b""[..]), Some(b"0"), Some(b"-1"), Some(b"x"), Some(b"\xff")] {
            assert!(index_of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn instances_are_in_order_and_those_that_cannot_be_called_are_left_out() {
        let entry = |id: &str, address: &str, port: i64, meta: Option<&str>| Entry {
            node: Node {
                address: "10.0.0.9".to_owned(),
            },
            service: Service {
                id: id.to_owned(),
                address: address.to_owned(),
                port,
                meta: meta.map(|version| HashMap::from([("svc".to_owned(), version.to_owned())])),
            },
        };
        let found = instances(
            "s",
            vec![
                entry("c", "", 1, None),
                entry("b", "::1", 65535, Some("1.2.3")),
                entry("a", "host", 2, None),
                entry("a", "other", 2, None),
                entry("no port", "host", 0, None),
                entry("bad port", "host", 65536, None),
                entry("negative", "host", -1, None),
            ],
        );
        let instance = |id: &str, host: &str, port, version: Option<&str>| Instance {
            id: id.to_owned(),
            host: host.to_owned(),
            port,
            version: version.map(str::to_owned),
        };
        let expected = [
            instance("a", "host", 2, None),
            instance("b", "::1", 65535, Some("1.2.3")),
            instance("c", "10.0.0.9", 1, None),
        ];
        assert_eq!(found, expected);
    }
}
