//! `svc messages` before more than one answer of Hazelcast may hold.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use svc::engine::Batch;
use svc::hazelcast::{Client, Config};
use svc::message::Message;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::{Instant, sleep};

use crate::support::engines::{Engines, Options};
use crate::support::messages::System;
use crate::{PATIENCE, connect, members};

const MIB: usize = 1024 * 1024;

/// More MiB than [`Config::max_message_bytes`] has by default.
const BATCHES: usize = 280;

/// How long it may take to deliver them, in a debug build on a busy machine.
const DELIVERED_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_larger_than_the_largest_answer_is_delivered() {
    let options = Options {
        logging: 1,
        mq: 1,
        consul: false,
    };
    let _turn = members::TURN.lock().await;
    let engines = spawn_blocking(move || Engines::start_with_heap(&options, "1500m"))
        .await
        .unwrap();
    let system = block_in_place(|| System::start_on(&engines.mq));
    let identifier = |n| format!("m{n}");
    let text = "x".repeat(MIB);
    stream::iter(0..BATCHES)
        .for_each_concurrent(8, |n| {
            let (system, identifier, text) = (&system, identifier(n), text.clone());
            async move {
                let id = format!("b{n}");
                let messages = vec![Message { identifier, text }];
                system.offer(&Batch { id, messages }).await;
            }
        })
        .await;

    let client: Client = connect(Config::new(engines.mq.name, [system.members.clone()])).await;
    let waiting = client.queue(&system.place.name).with_timeout(PATIENCE);
    let bytes = usize::try_from(waiting.size().await.unwrap()).unwrap() * MIB;
    let longest_answer = Config::new("", [""]).max_message_bytes;
    assert!(bytes > longest_answer, "{bytes} bytes fit into one answer");

    let _svc = system.instance().await;
    let end = Instant::now() + DELIVERED_WITHIN;
    loop {
        let left = waiting.size().await.unwrap();
        if left == 0 {
            break;
        }
        assert!(Instant::now() < end, "after {DELIVERED_WITHIN:?} {left} wait");
        sleep(Duration::from_millis(50)).await;
    }
    let delivered: BTreeSet<String> = system
        .mailbox
        .all()
        .try_fold(BTreeSet::new(), async |mut known, page| {
            known.extend(page.messages.into_iter().map(|delivered| delivered.message.identifier));
            Ok(known)
        })
        .await
        .unwrap();
    assert_eq!(delivered, (0..BATCHES).map(identifier).collect());
}
