//! Instances that start before the clusters are there.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::{block_in_place, spawn_blocking};
use uuid::Uuid;

use crate::members;
use crate::support::agent::Agent;
use crate::support::engines::{Engines, Options};
use crate::support::fleet::{Fleet, SOON, ask, eventually};
use crate::support::process::Svc;

/// From a member's start to that of what waits for it, whose pauses have grown.
const SERVES: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_start_before_the_clusters_wait_each_for_its_own_and_then_serve() {
    let options = Options {
        logging: 1,
        mq: 1,
        consul: false,
    };
    let _turn = members::TURN.lock().await;
    let engines = spawn_blocking(move || Engines::start(&options)).await.unwrap();
    let [logging, messages, facade] = block_in_place(|| {
        let agent = Agent::start();
        let name = format!("test-{}", Uuid::new_v4());
        let populated = Fleet::start_populating(&agent.address, &engines, &name);
        assert!(populated.wait_exit(SOON).success(), "{}", populated.output());
        for cluster in [&engines.logging, &engines.mq] {
            cluster.members[0].kill();
        }

        let start = |role| Svc::start(&[role, "--port", "0", "--consul", &agent.address, "--wait", "10m"], &[]);
        let [logging, messages, facade] = ["logging", "messages", "facade"].map(start);
        let waits = |svc: &Svc, name: &str, at: &str| {
            let reason = format!("Hazelcast cluster \"{name}\" at {at}: ");
            svc.wait_waiting(&reason, SOON);
            let said = svc.wait_for_line(&format!("waiting for Hazelcast cluster \"{name}\" at {at}"), SOON);
            assert!(said.contains("Connection refused"), "{said}");
        };
        let [of_logging, of_mq] = [&engines.logging, &engines.mq].map(|cluster| cluster.addresses());
        waits(&logging, "logging", &of_logging);
        waits(&messages, "mq", &of_mq);
        waits(&facade, "mq", &of_mq);
        assert_eq!(
            agent.get("agent/services"),
            json!({}),
            "who cannot serve does not register"
        );

        engines.logging.members[0].start();
        logging.wait_healthy(SERVES);
        waits(&messages, "mq", &of_mq);
        waits(&facade, "mq", &of_mq);

        engines.mq.members[0].start();
        messages.wait_healthy(SERVES);
        facade.wait_healthy(SERVES);
        // Consul shows an instance a moment after it has registered.
        facade.wait_for_line("service=\"messages-service\" instances=\"messages-service@", SOON);
        facade.wait_for_line("service=\"logging-service\" instances=\"logging-service@", SOON);
        // The instances go on with what they know of Consul, which ends here.
        for service in ["logging-service", "messages-service"] {
            assert_eq!(agent.passing(service).len(), 1);
        }
        [logging, messages, facade]
    });
    assert_eq!(ask(&facade, "POST", "/message?text=late", "", "").await.status, 201);
    eventually("what was posted is in both lists", async || {
        let listed = ask(&facade, "GET", "/messages", "", "").await;
        listed.status == 200 && listed.json() == json!([["late"], ["late"]])
    })
    .await;
    for svc in [&logging, &messages, &facade] {
        let health: Value = ask(svc, "GET", "/health", "", "").await.json();
        assert_eq!(health["status"], "ready");
    }
}
