//! `svc messages` while a member of its cluster dies.

use tokio::task::{block_in_place, spawn_blocking};

use crate::members;
use crate::support::engines::{Engines, Options};
use crate::support::messages::{SOON, System, batch, texts, until_empty, until_shown};

#[tokio::test(flavor = "multi_thread")]
async fn a_hazelcast_member_is_killed_while_batches_flow_and_all_are_delivered_once() {
    let options = Options {
        logging: 1,
        mq: 2,
        consul: false,
    };
    let _turn = members::TURN.lock().await;
    let engines = spawn_blocking(move || Engines::start(&options)).await.unwrap();
    let system = block_in_place(|| System::start_on(&engines.mq));
    let pair = system.pair().await;
    let mut offered = Vec::new();
    for n in 0..300 {
        let batch = batch(&format!("b{n}"), 2);
        system.offer(&batch).await;
        offered.extend(batch.messages);
        if n == 150 {
            block_in_place(|| engines.mq.members[0].kill());
        }
    }
    for svc in &pair {
        until_shown(svc, &texts(&offered), SOON).await;
    }
    until_empty(&system).await;
}
