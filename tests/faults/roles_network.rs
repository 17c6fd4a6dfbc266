//! What the network between the roles, and between them and Consul, may do without a client noticing.
//!
//! An instance is called through a proxy that spoils all connections but the checks of Consul: what is shown is that the
//! facade finds its way by itself, not that Consul took the instance out.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::block_in_place;

use crate::members;
use crate::support::fleet::{self, Fleet, Load, SOON, ask, eventually, request};
use crate::support::probe::Probe;
use crate::support::proxy::{Cut, Fault, Flow, Proxy, http};
use crate::support::raw::{LAST_CHUNK, RawClient};
use crate::support::ways::Ways;

/// No answer to a post comes later while one logging instance cannot be reached.
const WITHIN: Duration = Duration::from_secs(2);

/// Where the way breaks: before, in and after a request, and in its answer.
const CUTS: [Fault; 6] = [
    Fault::BeforeRequest(Cut::Rst),
    Fault::InRequest(150, Cut::Fin),
    Fault::BeforeAnswer(Cut::Fin),
    Fault::BeforeAnswer(Cut::Rst),
    Fault::InAnswer(10, Cut::Rst),
    Fault::InAnswer(60, Cut::Fin),
];

/// A fleet of two instances each, a load on it, and the proxies between them.
struct Scene {
    fleet: Fleet,
    ways: Ways,
    load: std::sync::Arc<Load>,
}

impl Scene {
    /// The way to it is the one that is spoilt.
    fn bad(&self) -> &Proxy {
        &self.ways.logging[0]
    }

    fn bad_id(&self) -> String {
        format!("logging-service@{}", self.bad().address())
    }

    async fn discovery(&self) -> Value {
        ask(&self.fleet.facades[0], "GET", "/health", "", "").await.json()["discovery"].clone()
    }

    /// Whether the facade passes over the instance whose way is spoilt.
    async fn is_left_out(&self) -> bool {
        let ejected = &self.discovery().await["logging-service"]["ejected"];
        ejected
            .as_array()
            .unwrap()
            .iter()
            .any(|id| *id == self.bad_id().as_str())
    }

    /// Consul has no part in it: all instances pass.
    fn assert_passing(&self) {
        let passing = |service| block_in_place(|| self.fleet.agent().passing(service)).len();
        assert_eq!([passing("logging-service"), passing("messages-service")], [2, 2]);
    }

    /// Waits until the facade sends to it as before.
    async fn until_used_again(&self) {
        let sent = self.bad().requests(http::POST);
        eventually("it is used again", async || {
            !self.is_left_out().await && self.bad().requests(http::POST) > sent + 5
        })
        .await;
    }

    /// What has come to pass since `begun`, while `what` happened.
    async fn end_of(&self, what: &str, begun: Instant, answers: usize) {
        let (longest, posts) = (
            self.load.longest_until_after(begun).await,
            self.load.answers().await - answers,
        );
        println!("{what}: {posts} posts, the longest {longest:?}");
        assert_eq!(self.load.failed().await, [], "{what}");
        assert!(longest < WITHIN, "{what}: {longest:?}");
        assert!(posts > 0, "{what}: nobody posted");
    }

    /// Lets all that goes there flow like this for so long.
    async fn flow(&self, flow: Flow, time: Duration) {
        let (begun, answers, sent) = (
            Instant::now(),
            self.load.answers().await,
            self.bad().requests(http::POST),
        );
        self.bad().set_flow(flow);
        let hangs = matches!(flow, Flow::Swallow | Flow::Stall);
        if hangs {
            eventually("it is left out", async || self.is_left_out().await).await;
        }
        tokio::time::sleep(time.saturating_sub(begun.elapsed())).await;
        self.assert_passing();
        self.bad().set_flow(Flow::Pass);
        assert!(
            self.bad().requests(http::POST) > sent || flow == Flow::Stall,
            "{flow:?}: nothing was sent there"
        );
        self.until_used_again().await;
        self.end_of(&format!("{flow:?}"), begun, answers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_way_to_one_instance_is_cut_slow_or_dead_no_post_fails_and_no_answer_takes_2_s() {
    let (_turn, members) = members::for_a_fleet().await;
    let (fleet, ways) = Fleet::start_behind(members, 2, 2).await;
    let probe = Probe::start(&fleet);
    let load = Load::named("");
    let clients = fleet::clients(&load, &fleet.facades[0]);
    load.more(200).await;
    let scene = Scene { fleet, ways, load };

    for fault in CUTS {
        let (begun, answers) = (Instant::now(), scene.load.answers().await);
        scene.bad().arm(http::POST, fault);
        eventually("the fault is met", async || scene.bad().armed() == 0).await;
        scene.until_used_again().await;
        scene.end_of(&format!("{fault:?}"), begun, answers).await;
    }
    for cut in [Cut::Rst, Cut::Fin, Cut::Rst, Cut::Fin] {
        let (begun, answers, connections) = (Instant::now(), scene.load.answers().await, scene.bad().connections());
        scene.bad().cut_all(cut);
        eventually("it is called again", async || scene.bad().connections() > connections).await;
        scene.end_of(&format!("all connections: {cut:?}"), begun, answers).await;
    }
    scene.assert_passing();
    scene
        .flow(Flow::Delay(Duration::from_millis(150)), Duration::from_secs(1))
        .await;
    scene.flow(Flow::Dribble, Duration::from_secs(1)).await;
    scene.flow(Flow::Swallow, Duration::from_millis(2500)).await;
    scene.flow(Flow::Stall, Duration::from_millis(2500)).await;

    consul_is_silent(&scene, Duration::from_secs(8)).await;

    let Scene { fleet, load, .. } = scene;
    let posted = fleet::end(&load, clients).await;
    until_exactly_there(&fleet, &posted).await;
    let (asked, longest) = probe.end().await;
    println!(
        "{} posts; GET /health: {asked} answers, the longest {longest:?}",
        posted.len()
    );
}

/// Waits until both lists hold each of these once, and nothing else. A busy machine may need several tries for so many.
async fn until_exactly_there(fleet: &Fleet, posted: &[String]) {
    let mut expected = posted.to_vec();
    expected.sort();
    fleet::eventually_within(fleet::LOADED, "both lists hold what was posted", async || {
        let answer = ask(&fleet.facades[0], "GET", "/messages", "", "").await;
        if answer.status != 200 {
            return false;
        }
        let mut lists: [Vec<String>; 2] = serde_json::from_slice(&answer.body).unwrap();
        lists.iter_mut().for_each(|list| list.sort());
        assert!(
            lists.iter().all(|list| list.len() <= expected.len()),
            "something is there twice"
        );
        lists.iter().all(|list| *list == expected)
    })
    .await;
}

/// All that the roles ask of Consul is swallowed. Its checks go on, so that it passes all of them afterwards.
async fn consul_is_silent(scene: &Scene, time: Duration) {
    let age = async || {
        scene.discovery().await["logging-service"]["age_seconds"]
            .as_f64()
            .unwrap()
    };
    let (begun, answers) = (Instant::now(), scene.load.answers().await);
    scene.ways.consul.set_flow(Flow::Swallow);
    tokio::time::sleep(time).await;
    assert!(
        age().await > time.as_secs_f64() / 2.0,
        "Consul was heard: {}",
        age().await
    );
    scene.end_of("Consul is silent", begun, answers).await;
    scene.ways.consul.set_flow(Flow::Pass);
    eventually("Consul is heard again", async || age().await < 2.0).await;
    scene.end_of("Consul is silent and heard again", begun, answers).await;
    scene.assert_passing();
}

/// What a client reads of `GET /messages`.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Whole([Vec<String>; 2]),
    /// It ended without its last chunk.
    Broken,
}

async fn read(fleet: &Fleet) -> Read {
    let mut client = RawClient::connect(fleet.facades[0].address()).await;
    client
        .send(request("GET", "/messages", "Connection: close\r\n", ""))
        .await;
    assert_eq!(client.head().await.status, 200);
    let body = client.rest().await;
    if !body.ends_with(LAST_CHUNK) {
        return Read::Broken;
    }
    let (mut json, mut rest) = (Vec::new(), &body[..]);
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        json.extend_from_slice(&rest[end + 2..][..length]);
        rest = &rest[end + 2 + length + 2..];
    }
    let mut lists: [Vec<String>; 2] = serde_json::from_slice(&json).unwrap();
    lists.iter_mut().for_each(|list| list.sort());
    Read::Whole(lists)
}

/// How many bytes an instance answers to this, all in all.
async fn answer_bytes(instance: &crate::support::process::Svc, path: &str) -> usize {
    let mut client = RawClient::connect(instance.address()).await;
    client.send(request("GET", path, "Connection: close\r\n", "")).await;
    client.rest().await.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_whose_way_is_cut_anywhere_comes_whole_or_without_its_last_chunk() {
    let (_turn, members) = members::for_a_fleet().await;
    let (fleet, ways) = Fleet::start_behind(members, 2, 2).await;
    let load = Load::named(
        "a text of some length, so that a list has several pieces: "
            .repeat(20)
            .replace(' ', "+"),
    );
    let clients = fleet::clients(&load, &fleet.facades[0]);
    load.more(100).await;
    let mut posted: Vec<String> = fleet::end(&load, clients).await;
    posted.iter_mut().for_each(|text| *text = text.replace('+', " "));
    fleet.wait_lists(&posted).await;
    posted.sort();
    let whole = Read::Whole([posted.clone(), posted]);

    let ways = [
        (&ways.logging, &fleet.logging[0], "/logs"),
        (&ways.messages, &fleet.messages[0], "/messages"),
    ];
    for (proxies, instance, path) in ways {
        let bytes = answer_bytes(instance, path).await;
        let (mut wholes, mut brokens) = (0, 0);
        for at in [0, 20, 300, bytes / 2, bytes - 30] {
            for cut in [Cut::Fin, Cut::Rst] {
                for proxy in proxies {
                    proxy.arm(http::LIST, Fault::InAnswer(at, cut));
                }
                let end = Instant::now() + SOON;
                while proxies.iter().any(|proxy| proxy.armed() > 0) {
                    assert!(
                        Instant::now() < end,
                        "{path}: cut after {at} bytes: not every instance is asked"
                    );
                    match read(&fleet).await {
                        Read::Broken => brokens += 1,
                        read => {
                            assert!(
                                read == whole,
                                "{path}: cut after {at} of {bytes} bytes, a shorter list is whole"
                            );
                            wholes += 1;
                        }
                    }
                }
            }
        }
        println!("{path}: of lists of {bytes} bytes {wholes} came whole and {brokens} broken off");
        // Whoever is cut off before its list begins is passed over; after that there is no way back.
        assert!(
            wholes > 0 && brokens >= 8,
            "{path}: {wholes} whole, {brokens} broken off"
        );
        assert_eq!(read(&fleet).await, whole, "{path}: without a fault");
    }
}
