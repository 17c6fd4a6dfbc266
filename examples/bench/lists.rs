//! The lists, filled and emptied without a role, and the queue.

use std::time::Duration;

use anyhow::ensure;
use futures_util::stream::{self, TryStreamExt};
use svc::config;
use svc::engine::consul::ConsulOptions;
use svc::engine::{Appended, Batch, EngineOptions, Engines, IfPresent, LogStore, Mailbox};
use svc::hazelcast::Client;
use svc::message::Message;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How many bytes a text has.
const TEXT_BYTES: usize = 100;

/// Messages in a batch, and batches on their way at a time.
const BATCH: usize = 64;
const FLIGHTS: usize = 8;

/// How often the queue is looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// Who delivered what is filled in.
const BY: &str = "bench";

/// Adds so many messages to both lists, as the roles would: through the same ports.
pub(crate) async fn fill(logging: &[String], mq: &[String], messages: usize) -> anyhow::Result<()> {
    // Nothing is asked of Consul: the names are those that it is told where nobody names others.
    let engines = Engines::at(EngineOptions::Servers(ConsulOptions {
        address: String::new(),
        token: None,
        ca_cert: None,
        client_cert: None,
        client_key: None,
    }))?;
    let cluster = config::HZ_LOGGING_CLUSTER_NAME.default;
    let log = engines
        .log(cluster, config::LOGGING_MAPPING_NAME.default, logging)
        .await?;
    let cluster = config::HZ_MQ_CLUSTER_NAME.default;
    let mailbox = engines.mailbox(cluster, config::MQ_NAME.default, mq, BY).await?;
    let (log, mailbox) = (&*log, &*mailbox);
    log.ready().await?;
    mailbox.ready().await?;
    let batches = (0..messages)
        .step_by(BATCH)
        .map(|first| first..messages.min(first + BATCH));
    stream::iter(batches.map(Ok))
        .try_for_each_concurrent(FLIGHTS, |numbers| add(log, mailbox, numbers.map(message).collect()))
        .await
}

fn message(number: usize) -> Message {
    Message {
        identifier: Uuid::now_v7().to_string(),
        text: format!("{:x<TEXT_BYTES$}", format!("fill-{number}-")),
    }
}

async fn add(log: &dyn LogStore, mailbox: &dyn Mailbox, messages: Vec<Message>) -> anyhow::Result<()> {
    for appended in log.append(&messages, IfPresent::Replace).await {
        ensure!(appended? == Appended::Stored, "a message was not logged");
    }
    let batch = Batch {
        id: Uuid::now_v7().to_string(),
        messages,
    };
    Ok(mailbox.store(&batch, BY).await?)
}

/// Empties both lists and the queue, and what was set aside.
pub(crate) async fn clear(logging: &Client, mq: &Client) -> anyhow::Result<()> {
    let queue = config::MQ_NAME.default;
    mq.queue(queue).clear().await?;
    mq.map(format!("{queue}_delivered")).clear().await?;
    mq.map(format!("{queue}_rejected")).clear().await?;
    logging.map(config::LOGGING_MAPPING_NAME.default).clear().await?;
    Ok(())
}

/// Waits until nothing is left in the queue.
pub(crate) async fn drained(mq: &Client, within: Duration) -> anyhow::Result<()> {
    let queue = mq.queue(config::MQ_NAME.default);
    let began = Instant::now();
    loop {
        let size = queue.size().await?;
        if size == 0 {
            return Ok(());
        }
        ensure!(
            began.elapsed() < within,
            "{size} batches are left in the queue after {within:?}"
        );
        sleep(PAUSE).await;
    }
}
