//! A fleet of `svc` processes on real engines, and clients that post to it without pause.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use uuid::Uuid;

use super::agent::Agent;
use super::engines::Engines;
use super::place::{Kind, Place};
use super::process::Svc;
use super::raw::{Answer, RawClient};
use super::ways::Ways;

/// Longer than a start, a stop, or a delivery takes.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Longer than Consul takes to show what one of its own checks found. If somebody registers at the moment at which an agent
/// is about to synchronise all that it knows (twice in its first seconds, then every one to two minutes), it puts that off by 15
/// to 30 s, and with it the results of all checks. Not so what a registration itself says: ours are shown at once.
pub(crate) const CHECKED: Duration = Duration::from_secs(45);

/// Longer than a thousand posts take on a busy machine.
pub(crate) const LOADED: Duration = Duration::from_secs(120);

/// Instances with a Consul agent, a map and a queue of their own, on the clusters that all tests share.
pub(crate) struct Fleet {
    pub(crate) facades: Vec<Svc>,
    pub(crate) logging: Vec<Svc>,
    pub(crate) messages: Vec<Svc>,
    /// Of its map and of its queue.
    pub(crate) name: String,
    /// Where they are registered, their settings, and what they keep.
    place: Option<Place>,
}

impl Fleet {
    /// A fleet of so many instances of each role on servers, all of them ready, registered and known to the facades.
    pub(crate) async fn start(facades: usize, logging: usize, messages: usize) -> Fleet {
        Self::start_at(Kind::Servers, facades, logging, messages).await
    }

    /// The same on engines of this kind.
    pub(crate) async fn start_at(kind: Kind, facades: usize, logging: usize, messages: usize) -> Fleet {
        let place = spawn_blocking(move || Place::start(kind, new_name(), shared_members(kind)));
        Self::start_in(place.await.unwrap(), [facades, logging, messages], USUAL).await
    }

    /// The same on [`members`] of other servers.
    pub(crate) async fn start_on(members: [String; 2], facades: usize, logging: usize, messages: usize) -> Fleet {
        let place = spawn_blocking(move || Place::start(Kind::Servers, new_name(), members));
        Self::start_in(place.await.unwrap(), [facades, logging, messages], USUAL).await
    }

    /// The same, which log no more than usual: for a test that counts what they take.
    pub(crate) async fn start_terse_on(members: [String; 2], facades: usize, logging: usize, messages: usize) -> Fleet {
        let place = spawn_blocking(move || Place::start(Kind::Servers, new_name(), members));
        let place = place.await.unwrap();
        let options = place.options().map(str::to_owned);
        let arguments = move |_: &str, _| [&["--port", "0"].map(str::to_owned)[..], &options].concat();
        Self::start_in(place, [facades, logging, messages], Some(arguments)).await
    }

    /// The same of one facade, where all ways from it to the others, and from all of them to Consul, lead through proxies.
    pub(crate) async fn start_behind(members: [String; 2], logging: usize, messages: usize) -> (Fleet, Ways) {
        let place = spawn_blocking(move || Place::start(Kind::Servers, new_name(), members));
        let place = place.await.unwrap();
        let ways = Ways::open(place.agent(), logging, messages).await;
        let arguments = ways.arguments();
        let fleet = Self::start_in(place, [1, logging, messages], Some(arguments)).await;
        (fleet, ways)
    }

    /// So many facades, logging and messages instances. `arguments` gives those of an instance by its role and number,
    /// where these are others than usual.
    async fn start_in(
        place: Place,
        [facades, logging, messages]: [usize; 3],
        arguments: Option<impl Fn(&str, usize) -> Vec<String> + Send + 'static>,
    ) -> Fleet {
        let system = spawn_blocking(move || {
            let usual = || {
                let usual = [["--port", "0"], ["--log", "svc=debug"], place.options()].concat();
                usual.into_iter().map(str::to_owned).collect()
            };
            let start = |role: &str, count: usize| -> Vec<Svc> {
                let start = |number| {
                    let own = arguments
                        .as_ref()
                        .map_or_else(usual, |arguments| arguments(role, number));
                    let own = own.iter().map(String::as_str);
                    Svc::start(&[role].into_iter().chain(own).collect::<Vec<_>>(), &[])
                };
                (0..count).map(start).collect()
            };
            let (logging, messages) = (start("logging", logging), start("messages", messages));
            let facades = start("facade", facades);
            for svc in logging.iter().chain(&messages).chain(&facades) {
                svc.wait_healthy(SOON);
            }
            Fleet {
                facades,
                logging,
                messages,
                name: place.name.clone(),
                place: Some(place),
            }
        });
        let system = system.await.unwrap();
        system.wait_shown().await;
        system.wait_known().await;
        system
    }

    /// Writes the settings for a map and a queue of this name into the agent there. Blocks.
    pub(crate) fn populate(agent: &str, name: &str) {
        populate(agent, name, &members(Engines::shared()));
    }

    /// Starts to write them, for a map and a queue on these clusters.
    pub(crate) fn start_populating(agent: &str, engines: &Engines, name: &str) -> Svc {
        start_populating(agent, name, &members(engines))
    }

    /// Where its engines are.
    pub(crate) fn place(&self) -> &Place {
        self.place.as_ref().expect("nobody took the agent")
    }

    /// The agent that they are registered in.
    pub(crate) fn agent(&self) -> &Agent {
        self.place().agent()
    }

    /// The agent, to do to it what the fleet has to live with.
    pub(crate) fn take_agent(&mut self) -> Agent {
        self.place.take().expect("nobody took the agent").into_agent()
    }

    /// Waits until the registry shows all instances: an agent knows of one a moment before Consul's catalog shows it.
    async fn wait_shown(&self) {
        let registry = self.place().registry();
        let counts = [self.facades.len(), self.logging.len(), self.messages.len()];
        for (service, count) in ["facade-service", "logging-service", "messages-service"]
            .into_iter()
            .zip(counts)
        {
            let is_shown = async || registry.all(service).await.is_ok_and(|listed| listed.len() == count);
            eventually(&format!("{count} of {service} are shown"), is_shown).await;
        }
    }

    /// Waits until each facade knows all instances.
    pub(crate) async fn wait_known(&self) {
        for facade in &self.facades {
            eventually("the facade knows all instances", async || {
                let health = ask(facade, "GET", "/health", "", "").await.json();
                let known = |service: &str| health[service].as_array().map_or(0, Vec::len);
                known("logging-service") == self.logging.len() && known("messages-service") == self.messages.len()
            })
            .await;
        }
    }

    /// Both lists, sorted.
    pub(crate) async fn lists(&self) -> [Vec<String>; 2] {
        lists_at(self.facades[0].address()).await
    }

    /// Waits until both lists hold exactly these texts.
    pub(crate) async fn wait_lists(&self, texts: &[String]) {
        let mut expected = texts.to_vec();
        expected.sort();
        eventually("both lists hold what was posted", async || {
            let [logs, messages] = self.lists().await;
            assert_eq!(logs.len(), expected.len(), "logs are there at once");
            logs == expected && messages == expected
        })
        .await;
    }
}

/// No arguments of an instance's own.
const USUAL: Option<fn(&str, usize) -> Vec<String>> = None;

/// A name of a test's own for its map and its queue.
pub(crate) fn new_name() -> String {
    format!("test-{}", Uuid::new_v4())
}

/// The members of the clusters that all tests share, which are started where the kind of engines has any. Blocks.
pub(crate) fn shared_members(kind: Kind) -> [String; 2] {
    match kind {
        Kind::Servers => members(Engines::shared()),
        Kind::Folder => Default::default(),
    }
}

/// Both lists of the facade there, sorted.
pub(crate) async fn lists_at(facade: SocketAddr) -> [Vec<String>; 2] {
    let answer = ask_at(facade, "GET", "/messages", "", "").await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let mut lists: [Vec<String>; 2] = serde_json::from_slice(&answer.body).unwrap();
    lists.iter_mut().for_each(|list| list.sort());
    lists
}

/// The members of both clusters, as the settings name them: of `logging`, and of `mq`.
pub(crate) fn members(engines: &Engines) -> [String; 2] {
    [engines.logging.addresses(), engines.mq.addresses()]
}

fn populate(agent: &str, name: &str, members: &[String; 2]) {
    let populated = start_populating(agent, name, members);
    assert!(populated.wait_exit(SOON).success(), "{}", populated.output());
}

fn start_populating(agent: &str, name: &str, [logging, mq]: &[String; 2]) -> Svc {
    let keys = [
        ["--hz-logging-members", logging],
        ["--hz-mq-members", mq],
        ["--hz-logging-mapping-name", name],
        ["--hz-mq-queue-name", name],
    ];
    let arguments = [&["populate-kv", "--consul", agent][..], &keys.concat()].concat();
    Svc::start(&arguments, &[])
}

/// Waits until `condition` holds, for as long as [`SOON`].
pub(crate) async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    eventually_within(SOON, what, condition).await;
}

/// The same for as long as `limit`.
pub(crate) async fn eventually_within(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn ask(svc: &Svc, method: &str, target: &str, headers: &str, body: &str) -> Answer {
    ask_at(svc.address(), method, target, headers, body).await
}

/// The same of whoever listens there.
pub(crate) async fn ask_at(address: SocketAddr, method: &str, target: &str, headers: &str, body: &str) -> Answer {
    let mut client = RawClient::connect(address).await;
    client
        .send(request(
            method,
            target,
            &format!("{headers}Connection: close\r\n"),
            body,
        ))
        .await;
    client.answer().await
}

pub(crate) fn request(method: &str, target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// An answer to a post that is not 201.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Which client's how many-th post it was.
    pub(crate) post: String,
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: String,
}

/// What clients that post without pause have seen.
#[derive(Default)]
pub(crate) struct Load {
    /// Before each of its texts.
    prefix: String,
    /// How often each client posts at most, where there is a bound.
    most_each: Option<usize>,
    /// Whether each of its texts has a key of its own: such messages travel alone.
    is_keyed: bool,
    acknowledged: Mutex<Vec<String>>,
    failed: Mutex<Vec<Failure>>,
    /// When each post left, and how long its answer took.
    taken: Mutex<Vec<(Instant, Duration)>>,
    stop: AtomicBool,
}

impl Load {
    /// One whose texts begin with `prefix`.
    pub(crate) fn named(prefix: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            prefix: prefix.into(),
            ..Self::default()
        })
    }

    /// One of which each client posts so often and ends, under a key each or under none.
    pub(crate) fn bounded(prefix: impl Into<String>, most_each: usize, is_keyed: bool) -> Arc<Self> {
        Arc::new(Self {
            prefix: prefix.into(),
            is_keyed,
            most_each: Some(most_each),
            ..Self::default()
        })
    }

    /// One whose texts have a key each.
    pub(crate) fn keyed() -> Arc<Self> {
        Arc::new(Self {
            is_keyed: true,
            ..Self::default()
        })
    }

    /// Posts on one connection until it is time to stop.
    async fn post(self: Arc<Self>, facade: SocketAddr, client: usize) {
        let mut connection = RawClient::connect(facade).await;
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) || self.most_each == Some(number) {
                return;
            }
            let post = format!("{client}-{number}");
            let text = format!("{}{post}", self.prefix);
            let key = if self.is_keyed {
                format!("Idempotency-Key: {}\r\n", Uuid::new_v4())
            } else {
                String::new()
            };
            let begun = Instant::now();
            connection
                .send(request("POST", &format!("/message?text={text}"), &key, ""))
                .await;
            let answer = connection.answer().await;
            self.taken.lock().await.push((begun, begun.elapsed()));
            if answer.status == 201 {
                self.acknowledged.lock().await.push(text);
            } else {
                self.failed.lock().await.push(Failure {
                    post,
                    status: answer.status,
                    retry_after: answer.header("retry-after").map(str::to_owned),
                    body: String::from_utf8_lossy(&answer.body).into_owned(),
                });
            }
        }
    }

    /// What was acknowledged so far.
    pub(crate) async fn acknowledged(&self) -> Vec<String> {
        self.acknowledged.lock().await.clone()
    }

    /// What was answered otherwise so far.
    pub(crate) async fn failed(&self) -> Vec<Failure> {
        self.failed.lock().await.clone()
    }

    /// How many answers there were so far.
    pub(crate) async fn answers(&self) -> usize {
        self.taken.lock().await.len()
    }

    /// The longest that an answer took to a post that left after `start`.
    pub(crate) async fn longest_since(&self, start: Instant) -> Duration {
        let taken = self.taken.lock().await;
        let since = taken.iter().filter(|(begun, _)| *begun > start);
        since.map(|(_, took)| *took).max().unwrap_or_default()
    }

    /// The longest that an answer took that came after `start`.
    pub(crate) async fn longest_until_after(&self, start: Instant) -> Duration {
        let taken = self.taken.lock().await;
        let after = taken.iter().filter(|(begun, took)| *begun + *took > start);
        after.map(|(_, took)| *took).max().unwrap_or_default()
    }

    /// Waits until so many more are acknowledged.
    pub(crate) async fn more(&self, count: usize) {
        let (end, goal) = (Instant::now() + LOADED, self.acknowledged.lock().await.len() + count);
        while self.acknowledged.lock().await.len() < goal {
            assert!(
                Instant::now() < end,
                "not {count} more within {LOADED:?}: {:?}",
                self.failed.lock().await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Eight clients that post without pause.
pub(crate) fn clients(load: &Arc<Load>, facade: &Svc) -> JoinSet<()> {
    many_clients(8, load, facade)
}

/// So many of them.
pub(crate) fn many_clients(count: usize, load: &Arc<Load>, facade: &Svc) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for client in 0..count {
        clients.spawn(load.clone().post(facade.address(), client));
    }
    clients
}

/// Lets the clients end; what was acknowledged, and nothing has failed.
pub(crate) async fn end(load: &Load, clients: JoinSet<()>) -> Vec<String> {
    let acknowledged = stop(load, clients).await;
    assert_eq!(*load.failed.lock().await, []);
    acknowledged
}

/// Lets the clients end; what was acknowledged.
pub(crate) async fn stop(load: &Load, clients: JoinSet<()>) -> Vec<String> {
    load.stop.store(true, Ordering::Relaxed);
    wait(load, clients).await
}

/// Waits until the clients of a [`Load::bounded`] have ended; what was acknowledged.
pub(crate) async fn wait(load: &Load, mut clients: JoinSet<()>) -> Vec<String> {
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    load.acknowledged().await
}
