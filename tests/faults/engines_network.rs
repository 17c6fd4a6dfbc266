//! What the network between the roles and their clusters may do, and what an engine that hangs or is dead: posts are
//! answered in time, `GET /health` always, nothing that was acknowledged is missing, and nobody's memory grows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::sleep;
use uuid::Uuid;

use crate::members;
use crate::support::engines::{Engine, Engines, Options};
use crate::support::fleet::{self, Failure, Fleet, Load, ask, eventually, eventually_within};
use crate::support::probe::Probe;
use crate::support::process::Svc;
use crate::support::proxy::{Cut, Fault, Flow, Proxy};
use crate::support::wire::kind::{MAP_PUT_ALL, QUEUE_OFFER};

/// Whatever is dead, a post is answered within this.
const WITHIN: Duration = Duration::from_secs(5);

/// How long after an engine can be reached again posts may be refused.
const SERVES_AGAIN: Duration = Duration::from_secs(15);

/// Clients that post at once while an engine is away.
const MANY: usize = 200;

/// Where the way breaks: before, in and after a request, and in its answer.
const CUTS: [Fault; 4] = [
    Fault::BeforeRequest(Cut::Fin),
    Fault::InRequest(25, Cut::Rst),
    Fault::BeforeAnswer(Cut::Rst),
    Fault::InAnswer(7, Cut::Fin),
];

/// A member of each cluster, which says that its address is that of the proxy before it.
struct Behind {
    engines: Engines,
    logging: Proxy,
    mq: Proxy,
}

impl Behind {
    async fn start() -> Self {
        let (logging, mq) = (Proxy::start_first().await, Proxy::start_first().await);
        let options = Options {
            logging: 1,
            mq: 1,
            consul: false,
        };
        let [of_logging, of_mq] = [&logging, &mq].map(|proxy| proxy.address().to_string());
        let engines = spawn_blocking(move || {
            let public = [("logging-1", &*of_logging), ("mq-1", &*of_mq)];
            Engines::start_with_public_addresses(&options, &public)
        });
        let engines = engines.await.unwrap();
        logging.lead_to(engines.logging.members[0].address);
        mq.lead_to(engines.mq.members[0].address);
        Self { engines, logging, mq }
    }

    /// What the settings name: nobody knows another way.
    fn members(&self) -> [String; 2] {
        [&self.logging, &self.mq].map(|proxy| proxy.address().to_string())
    }

    /// The member of `logging`, and that of `mq`.
    fn each(&self) -> [&Engine; 2] {
        [&self.engines.logging.members[0], &self.engines.mq.members[0]]
    }
}

/// All answers in time, and 503 with `Retry-After` where a post was refused.
fn assert_answered(what: &str, failed: &[Failure], longest: Duration) {
    let is_refusal = |failure: &&Failure| failure.status == 503 && failure.retry_after.is_some();
    let others: Vec<_> = failed.iter().filter(|failure| !is_refusal(failure)).collect();
    assert!(others.is_empty(), "{what}: {others:?}");
    assert!(longest < WITHIN, "{what}: an answer took {longest:?}");
}

/// Posts of many clients at once, whatever is answered.
struct Flood<'a> {
    what: &'a str,
    clients: usize,
    posts_each: usize,
    /// Of each text, in bytes, at least.
    length: usize,
    /// Under a key each, so that each is a request of its own to a logging instance.
    is_keyed: bool,
}

impl Flood<'_> {
    /// One post of each client.
    fn once(what: &str, clients: usize) -> Flood<'_> {
        Flood {
            what,
            clients,
            posts_each: 1,
            length: 0,
            is_keyed: false,
        }
    }

    /// What is acknowledged.
    async fn run(&self, facade: &Svc) -> Vec<String> {
        let Self { what, clients, .. } = *self;
        let begun = Instant::now();
        let prefix = format!("{what:+<width$}", width = self.length).replace(' ', "+");
        let load = Load::bounded(prefix, self.posts_each, self.is_keyed);
        let posting = fleet::many_clients(clients, &load, facade);
        let acknowledged = fleet::wait(&load, posting).await;
        let (failed, longest) = (load.failed().await, load.longest_until_after(begun).await);
        let (posts, refused, all_in) = (load.answers().await, failed.len(), begun.elapsed());
        println!(
            "{what}: {clients} clients, {posts} posts, {refused} refused, the longest {longest:?}, all in {all_in:?}"
        );
        if let Some(last) = failed.last() {
            println!("  at last {}", last.body);
        }
        assert_eq!(posts, clients * self.posts_each);
        assert_answered(what, &failed, longest);
        let read_back = |text: String| text.replace('+', " ");
        acknowledged.into_iter().map(read_back).collect()
    }
}

/// Waits until both lists hold each of these once. What was refused may be there, once.
async fn until_there_once(fleet: &Fleet, acknowledged: &[String]) {
    eventually_within(fleet::LOADED, "what was acknowledged is in both lists", async || {
        let answer = ask(&fleet.facades[0], "GET", "/messages", "", "").await;
        if answer.status != 200 {
            return false;
        }
        let lists: [Vec<String>; 2] = serde_json::from_slice(&answer.body).unwrap();
        lists.iter().all(|list| {
            let mut times: HashMap<&str, usize> = HashMap::new();
            for text in list {
                *times.entry(text).or_default() += 1;
            }
            assert!(times.values().all(|times| *times == 1), "a text is there twice");
            acknowledged.iter().all(|text| times.contains_key(text.as_str()))
        })
    })
    .await;
}

/// A load that goes on while the way to a member is spoilt.
struct Scene {
    load: Arc<Load>,
}

impl Scene {
    /// What has come to pass since `begun`; and posts succeed again.
    async fn end_of(&self, what: &str, begun: Instant, answers: usize, refused: usize) {
        self.load.more(20).await;
        let (failed, longest) = (self.load.failed().await, self.load.longest_until_after(begun).await);
        let (posts, refused) = (self.load.answers().await - answers, failed.len() - refused);
        println!("{what}: {posts} posts, {refused} refused, the longest {longest:?}");
        assert_answered(what, &failed, longest);
    }

    async fn counts(&self) -> (Instant, usize, usize) {
        (
            Instant::now(),
            self.load.answers().await,
            self.load.failed().await.len(),
        )
    }

    /// All that may happen on the way to this member.
    async fn spoil(&self, name: &str, proxy: &Proxy, kind: i32) {
        for fault in CUTS {
            let (begun, answers, refused) = self.counts().await;
            proxy.arm(kind, fault);
            eventually("the fault is met", async || proxy.armed() == 0).await;
            self.end_of(&format!("{name}: {fault:?}"), begun, answers, refused)
                .await;
        }
        for (flow, time) in [
            (Flow::Delay(Duration::from_millis(50)), Duration::from_secs(1)),
            (Flow::Dribble, Duration::from_secs(1)),
            (Flow::Stall, Duration::from_millis(1500)),
        ] {
            let (begun, answers, refused) = self.counts().await;
            proxy.set_flow(flow);
            sleep(time).await;
            proxy.set_flow(Flow::Pass);
            self.end_of(&format!("{name}: {flow:?}"), begun, answers, refused).await;
        }
    }
}

/// Waits until a post succeeds.
async fn until_taken_again(what: &str, facade: &Svc) {
    let begun = Instant::now();
    eventually_within(SERVES_AGAIN, "posts are taken again", async || {
        let target = format!("/message?text=again-{}", Uuid::new_v4());
        ask(facade, "POST", &target, "", "").await.status == 201
    })
    .await;
    println!("{what}: is over, and posts are taken again after {:?}", begun.elapsed());
}

/// All that may happen on the ways to both clusters under a load. What is acknowledged.
async fn spoil_the_ways(behind: &Behind, facade: &Svc) -> Vec<String> {
    let load = Load::named("");
    let clients = fleet::clients(&load, facade);
    load.more(200).await;
    let scene = Scene { load };
    scene.spoil("logging", &behind.logging, MAP_PUT_ALL).await;
    scene.spoil("mq", &behind.mq, QUEUE_OFFER).await;
    let mut acknowledged = fleet::stop(&scene.load, clients).await;
    for (name, proxy) in [("logging", &behind.logging), ("mq", &behind.mq)] {
        let what = format!("{name}: Swallow");
        proxy.set_flow(Flow::Swallow);
        acknowledged.extend(Flood::once(&what, MANY).run(facade).await);
        proxy.set_flow(Flow::Pass);
        until_taken_again(&what, facade).await;
    }
    acknowledged
}

/// Both clusters hang, one after the other, while many post at once. What is acknowledged.
async fn halt_the_members(behind: &Behind, facade: &Svc) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for member in behind.each() {
        let what = format!("{} hangs", member.name);
        member.pause();
        acknowledged.extend(Flood::once(&what, MANY).run(facade).await);
        member.resume();
        until_taken_again(&what, facade).await;
    }
    acknowledged
}

/// Resident memory of each instance, in MiB.
fn resident(fleet: &Fleet) -> [f64; 3] {
    [&fleet.facades[0], &fleet.logging[0], &fleet.messages[0]].map(|svc| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", svc.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib / 1024.0
    })
}

/// While a cluster is dead thousands are refused, and after the first ones no instance takes more memory for it.
async fn refuse_thousands(what: &str, fleet: &Fleet) {
    const POSTS_EACH: usize = 15;
    /// In bytes. The texts have 6 MiB, and who kept a message would have its text and its JSON.
    const LENGTH: usize = 2048;
    /// In MiB: half of the texts, or a quarter of what would be kept.
    const GROWTH: f64 = 3.0;
    let flood = |what, posts_each| Flood {
        what,
        clients: MANY,
        posts_each,
        length: LENGTH,
        is_keyed: true,
    };
    let facade = &fleet.facades[0];
    let at_first = format!("{what}, at first");
    flood(&at_first, 2).run(facade).await;
    let before = resident(fleet);
    let taken = flood(what, POSTS_EACH).run(facade).await;
    assert_eq!(taken, Vec::<String>::new());
    let after = resident(fleet);
    println!("  facade, logging, messages: from {before:.1?} to {after:.1?} MiB");
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before < GROWTH, "{what}: from {before} to {after} MiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_cluster_is_cut_off_hangs_or_is_dead_posts_are_answered_within_5_s_and_health_within_1_s() {
    let _turn = members::TURN.lock().await;
    let behind = Behind::start().await;
    let fleet = Fleet::start_terse_on(behind.members(), 1, 1, 1).await;
    let facade = &fleet.facades[0];
    let probe = Probe::start(&fleet);
    let mut acknowledged = spoil_the_ways(&behind, facade).await;
    acknowledged.extend(halt_the_members(&behind, facade).await);
    acknowledged.extend(Flood::once("nothing is wrong", MANY).run(facade).await);
    until_there_once(&fleet, &acknowledged).await;
    println!("{} acknowledged are all there", acknowledged.len());
    // Without mq nobody would ask for the log.
    for member in behind.each() {
        block_in_place(|| member.kill());
        refuse_thousands(&format!("{} is dead", member.name), &fleet).await;
    }
    let (asked, longest) = probe.end().await;
    println!("GET /health: {asked} answers, the longest {longest:?}");
}
