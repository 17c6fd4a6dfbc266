//! Operations of the client, measured from many tasks. Keys, texts and what counts are those of benches/floor/Floor.java.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use futures_util::future::try_join_all;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use svc::hazelcast::{Client, Map, Queue};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::say;

const TEXT_BYTES: usize = 100;

/// How many keys `get` asks for.
const KEPT_KEYS: usize = 10_000;

/// How many items are taken from the queue at a time, and for how long the first one is waited for.
const DRAINED_AT_A_TIME: usize = 1_000;
const DRAIN_WAIT: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    Pair,
    Set,
    Get,
    Offer,
}

/// What came of one operation.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    operation: Operation,
    threads: u32,
    operations: usize,
    refused: u64,
    seconds: f64,
    per_second: f64,
    p50_us: u32,
    p99_us: u32,
    max_us: u32,
    cpu_seconds: f64,
}

/// Measures the operations, one after the other, and prints what came of each. `times`: the one that does not count, and the
/// one that does.
pub(crate) async fn measure(
    logging: &Client,
    mq: &Client,
    operations: &[Operation],
    tasks: u32,
    times: [Duration; 2],
    print: fn(&Measured) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let name = format!("client-{}", Uuid::new_v4());
    let (map, queue) = (logging.map(&name), mq.queue(&name));
    // Taken out as it is put in, until the set is dropped.
    let mut drain = JoinSet::new();
    drain.spawn(drain_all(queue.clone()));
    let mut work = Work {
        map,
        queue,
        keys: Arc::default(),
    };
    for &operation in operations {
        if operation == Operation::Get {
            work.keep_keys().await?;
        }
        let [warm_up, duration] = times;
        work.run(operation, tasks, warm_up).await?;
        let what = format!(
            "{} {tasks}",
            serde_json::to_value(operation)?.as_str().unwrap_or_default()
        );
        say(&format!("measuring {what}"));
        let (began, cpu_before) = (Instant::now(), cpu_seconds());
        let Done { mut micros, refused } = work.run(operation, tasks, duration).await?;
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
        say(&format!("measured {what}"));
        micros.sort_unstable();
        print(&Measured {
            operation,
            threads: tasks,
            operations: micros.len(),
            refused,
            seconds: rounded(seconds),
            per_second: rounded(micros.len() as f64 / seconds),
            p50_us: share(&micros, 50),
            p99_us: share(&micros, 99),
            max_us: share(&micros, 100),
            cpu_seconds: rounded(cpu),
        })?;
    }
    work.map.clear().await?;
    Ok(())
}

/// How many microseconds that many of a hundred took at most.
fn share(sorted: &[u32], percent: usize) -> u32 {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1)
        .and_then(|rank| sorted.get(rank))
        .copied()
        .unwrap_or_default()
}

/// With three decimals.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// Of this process, user and system.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn drain_all(queue: Queue) -> svc::hazelcast::Result<()> {
    loop {
        if queue.drain_to(DRAINED_AT_A_TIME).await?.is_empty() {
            queue.poll(DRAIN_WAIT).await?;
        }
    }
}

/// What some tasks did.
#[derive(Debug, Default)]
struct Done {
    /// How many microseconds each operation took that was done.
    micros: Vec<u32>,
    refused: u64,
}

#[derive(Clone, Debug)]
struct Work {
    map: Map,
    queue: Queue,
    /// Those that `get` asks for.
    keys: Arc<[String]>,
}

impl Work {
    async fn keep_keys(&mut self) -> anyhow::Result<()> {
        self.keys = (0..KEPT_KEYS).map(|_| key()).collect();
        let text = text(0, 0);
        for keys in self.keys.chunks(100) {
            try_join_all(keys.iter().map(|key| self.map.set(key, &text))).await?;
        }
        Ok(())
    }

    /// For so long, from all tasks.
    async fn run(&self, operation: Operation, tasks: u32, duration: Duration) -> anyhow::Result<Done> {
        let end = Instant::now() + duration;
        let mut running = JoinSet::new();
        for task in 0..tasks {
            running.spawn(self.clone().repeat(operation, task, end));
        }
        let mut all = Done::default();
        while let Some(done) = running.join_next().await {
            let done = done.context("a task broke down")??;
            all.micros.extend(done.micros);
            all.refused += done.refused;
        }
        Ok(all)
    }

    async fn repeat(self, operation: Operation, task: u32, end: Instant) -> svc::hazelcast::Result<Done> {
        let mut done = Done::default();
        let mut began = Instant::now();
        for number in 0_u64.. {
            if began >= end {
                break;
            }
            let is_done = self.once(operation, task, number).await?;
            let now = Instant::now();
            if is_done {
                let micros = (now - began).as_micros();
                done.micros.push(u32::try_from(micros).unwrap_or(u32::MAX));
            } else {
                done.refused += 1;
            }
            began = now;
        }
        Ok(done)
    }

    /// Says whether it was done.
    async fn once(&self, operation: Operation, task: u32, number: u64) -> svc::hazelcast::Result<bool> {
        match operation {
            Operation::Pair => {
                let text = text(task, number);
                self.map.set(&key(), &text).await?;
                self.queue.offer(&text).await
            }
            Operation::Set => self.map.set(&key(), &text(task, number)).await.map(|()| true),
            Operation::Get => {
                let Some(key) = fastrand::choice(self.keys.iter()) else {
                    return Ok(false);
                };
                self.map.get(key).await.map(|value| value.is_some())
            }
            Operation::Offer => self.queue.offer(&text(task, number)).await,
        }
    }
}

/// As the identifiers of messages are.
fn key() -> String {
    Uuid::now_v7().to_string()
}

fn text(task: u32, number: u64) -> String {
    format!("{:x<TEXT_BYTES$}", format!("floor-{task}-{number}-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_another_one_of_100_bytes() {
        for (task, number) in [(0, 0), (63, u64::from(u32::MAX))] {
            assert_eq!(text(task, number).len(), TEXT_BYTES);
        }
        assert_ne!(text(1, 11), text(11, 1));
    }

    #[test]
    fn all_but_a_hundredth_took_at_most_p99() {
        let micros: Vec<u32> = (1..=200).collect();
        assert_eq!([50, 99, 100].map(|percent| share(&micros, percent)), [100, 198, 200]);
        assert_eq!(share(&[], 50), 0);
    }
}
