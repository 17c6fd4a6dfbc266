//! The life of a logging instance, from its start to its stop, in front of a log store that a test holds in its hands.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use anyhow::anyhow;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use svc::engine::{
    self, Appended, Engine, IfPresent, ListPage, LogStore, Page, PageRange, Registration, Registry, Unavailable,
};
use svc::message::Message;
use svc::roles::logging;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::subscriber::DefaultGuard;

use crate::support::raw::{Answer, DEADLINE, LAST_CHUNK, RawClient};

/// A log store that hands out a page per permit.
struct GatedStore {
    entries: Mutex<BTreeMap<String, String>>,
    pages: Semaphore,
    /// Its lists break off after so many pages.
    breaks_after: Option<usize>,
}

impl GatedStore {
    fn new(breaks_after: Option<usize>) -> Arc<GatedStore> {
        Arc::new(GatedStore {
            entries: Mutex::new(BTreeMap::new()),
            pages: Semaphore::new(0),
            breaks_after,
        })
    }
}

impl Engine for GatedStore {
    fn describe(&self) -> String {
        "a store with a gate".to_owned()
    }

    fn object_name(&self) -> &str {
        "a map"
    }

    fn identity(&self) -> Option<String> {
        None
    }

    fn advice(&self) -> String {
        "open the gate".to_owned()
    }

    fn ready(&self) -> BoxFuture<'_, engine::Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    fn check(&self) -> engine::Result<()> {
        Ok(())
    }
}

impl LogStore for GatedStore {
    fn append<'a>(&'a self, messages: &'a [Message], _: IfPresent) -> BoxFuture<'a, Vec<engine::Result<Appended>>> {
        let mut entries = self.entries.lock().unwrap();
        for message in messages {
            entries.insert(message.identifier.clone(), message.text.clone());
        }
        std::future::ready(messages.iter().map(|_| Ok(Appended::Stored)).collect()).boxed()
    }

    fn all(&self) -> BoxStream<'_, engine::Result<Page>> {
        let entries = self.entries.lock().unwrap().clone();
        let pages =
            stream::iter(entries.into_iter().enumerate()).then(move |(number, (identifier, text))| async move {
                self.pages.acquire().await.unwrap().forget();
                if self.breaks_after.is_some_and(|pages| number >= pages) {
                    return Err(Unavailable {
                        engine: self.describe(),
                        cause: anyhow!("connection reset"),
                    });
                }
                Ok(Page {
                    messages: vec![Message { identifier, text }],
                    skipped: 0,
                })
            });
        pages.boxed()
    }

    fn page<'a>(&'a self, _: &'a PageRange) -> BoxFuture<'a, engine::Result<ListPage<Message>>> {
        unreachable!("no request asks for a page")
    }

    fn remove<'a>(&'a self, _: &'a [String]) -> BoxFuture<'a, engine::Result<()>> {
        unreachable!("no request removes single entries")
    }

    fn clear(&self) -> BoxFuture<'_, engine::Result<()>> {
        self.entries.lock().unwrap().clear();
        std::future::ready(Ok(())).boxed()
    }
}

/// A registry that a test looks into.
#[derive(Default)]
struct Desk {
    registered: Mutex<Vec<Registration>>,
    is_away: AtomicBool,
}

impl Desk {
    fn answer<T: Send + 'static>(
        &self,
        answer: impl FnOnce(&mut Vec<Registration>) -> T,
    ) -> BoxFuture<'_, engine::Result<T>> {
        let answer = if self.is_away.load(Relaxed) {
            Err(Unavailable {
                engine: self.describe(),
                cause: anyhow!("gone for lunch"),
            })
        } else {
            Ok(answer(&mut self.registered.lock().unwrap()))
        };
        std::future::ready(answer).boxed()
    }

    fn registered(&self) -> Vec<Registration> {
        self.registered.lock().unwrap().clone()
    }
}

impl Registry for Desk {
    fn describe(&self) -> String {
        "a desk".to_owned()
    }

    fn advice(&self) -> String {
        "come again after lunch".to_owned()
    }

    fn register<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, engine::Result<()>> {
        self.answer(|registered| registered.push(registration.clone()))
    }

    fn is_registered<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, engine::Result<bool>> {
        self.answer(|registered| registered.contains(registration))
    }

    fn deregister<'a>(&'a self, id: &'a str) -> BoxFuture<'a, engine::Result<()>> {
        self.answer(|registered| registered.retain(|known| known.id() != id))
    }

    fn all<'a>(&'a self, _: &'a str) -> BoxFuture<'a, engine::Result<Vec<engine::Listed>>> {
        unreachable!("an instance of the log lists no other")
    }

    fn watch<'a>(&'a self, _: &'a str) -> BoxStream<'a, engine::Result<Vec<engine::Instance>>> {
        unreachable!("an instance of the log calls no other")
    }
}

/// What an instance logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// An instance whose store the test opens.
struct Instance {
    address: SocketAddr,
    registry: Arc<Desk>,
    log: Log,
    open: Option<oneshot::Sender<anyhow::Result<Arc<dyn LogStore>>>>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<anyhow::Result<()>>,
    /// All tasks of a test run on its own thread, so that this takes the log of all of them.
    _logging: DefaultGuard,
}

impl Instance {
    async fn start() -> Instance {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        let (open, opened) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Arc::new(Desk::default());
        let desk = registry.clone();
        let life = async move {
            let open = async |health: &svc::http::health::Health| {
                health.waiting("waiting for the test");
                opened.await.unwrap()
            };
            logging::serve_log(listener, desk, open, stopped.map(drop)).await
        };
        let ended = tokio::spawn(life);
        Instance {
            address,
            registry,
            log,
            open: Some(open),
            stop: Some(stop),
            ended,
            _logging,
        }
    }

    async fn ask(&self, request: &str) -> Answer {
        let mut client = RawClient::connect(self.address).await;
        client.send(request).await;
        client.answer().await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await
    }

    async fn post(&self, identifier: &str, text: &str) -> Answer {
        let body = json!({ "identifier": identifier, "text": text }).to_string();
        let head = format!("content-type: application/json\r\ncontent-length: {}", body.len());
        self.ask(&format!("POST /log HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n{body}"))
            .await
    }

    /// Opens the store, and waits until the instance says that it is ready.
    async fn open(&mut self, store: Arc<GatedStore>) {
        assert!(self.open.take().unwrap().send(Ok(store)).is_ok());
        let ready = async { while self.get("/health").await.status != 200 {} };
        timeout(DEADLINE, ready).await.expect("the instance does not get ready");
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn ended(self) -> anyhow::Result<()> {
        timeout(DEADLINE, self.ended)
            .await
            .expect("the instance does not end")
            .unwrap()
    }
}

#[tokio::test]
async fn an_instance_says_what_it_waits_for_until_its_store_is_open() {
    let mut instance = Instance::start().await;
    let health = instance.get("/health").await;
    assert_eq!((health.status, health.header("retry-after")), (503, Some("1")));
    let expected = json!({ "code": "starting", "message": "starting: waiting for the test" });
    assert_eq!(
        (&health.json()["role"], &health.json()["error"]),
        (&json!("logging"), &expected)
    );
    let refused = instance.post("a", "1").await;
    assert_eq!((refused.status, &refused.json()["error"]), (503, &expected));

    instance.open(GatedStore::new(None)).await;
    assert_eq!(instance.post("a", "1").await.status, 201);
    let health = instance.get("/health").await.json();
    let store = &health["log_store"];
    assert_eq!(
        (&store["engine"], &store["name"]),
        (&json!("a store with a gate"), &json!("a map"))
    );
    assert_eq!(
        (&store["reachable"], &health["skipped_entries"]),
        (&json!(true), &json!(0))
    );
}

#[tokio::test]
async fn a_list_that_is_under_way_at_the_stop_is_answered_in_full() {
    let mut instance = Instance::start().await;
    let store = GatedStore::new(None);
    instance.open(store.clone()).await;
    for identifier in ["a", "b", "c"] {
        assert_eq!(instance.post(identifier, identifier).await.status, 201);
    }
    let mut client = RawClient::connect(instance.address).await;
    client.send("GET /logs HTTP/1.1\r\nhost: a\r\n\r\n").await;
    store.pages.add_permits(1);
    // The head leaves with the first page, and the rest is under way.
    timeout(DEADLINE, client.0.readable()).await.unwrap().unwrap();
    instance.stop();
    store.pages.add_permits(2);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.json()), (200, json!(["a", "b", "c"])));
    assert_eq!(client.rest().await, b"");
    instance.ended().await.unwrap();
    assert_eq!(Arc::strong_count(&store), 1, "the store is still held");
}

#[tokio::test]
async fn a_list_that_cannot_be_finished_ends_without_its_last_chunk() {
    let mut instance = Instance::start().await;
    let store = GatedStore::new(Some(1));
    instance.open(store.clone()).await;
    for identifier in ["a", "b"] {
        assert_eq!(instance.post(identifier, identifier).await.status, 201);
    }
    store.pages.add_permits(2);
    let mut client = RawClient::connect(instance.address).await;
    client.send("GET /logs HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let all = client.rest().await;
    assert!(all.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&all));
    assert!(
        !all.ends_with(LAST_CHUNK) && !all.contains(&b']'),
        "{}",
        String::from_utf8_lossy(&all)
    );
    assert!(
        instance.log.text().contains("a store with a gate: connection reset"),
        "{}",
        instance.log.text()
    );
}

#[tokio::test]
async fn an_instance_that_is_stopped_while_it_waits_ends_well() {
    let mut instance = Instance::start().await;
    instance.stop();
    instance.ended().await.unwrap();
}

#[tokio::test]
async fn an_instance_whose_store_cannot_be_opened_ends_with_the_reason() {
    let mut instance = Instance::start().await;
    assert!(instance.open.take().unwrap().send(Err(anyhow!("nobody there"))).is_ok());
    assert_eq!(instance.ended().await.unwrap_err().to_string(), "nobody there");
}

#[tokio::test]
async fn an_instance_is_registered_once_it_is_open_by_the_address_that_it_bound() {
    let mut instance = Instance::start().await;
    assert_eq!(instance.get("/health").await.status, 503);
    assert_eq!(instance.registry.registered(), []);
    let opened = SystemTime::now();
    instance.open(GatedStore::new(None)).await;
    let registry = instance.registry.clone();
    let registered = async {
        while registry.registered().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, registered).await.unwrap();
    let expected = Registration {
        service: "logging-service".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: instance.address.port(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since: registry.registered()[0].since,
    };
    assert!(opened <= expected.since && expected.since <= SystemTime::now());
    assert_eq!(registry.registered(), [expected]);
}

#[tokio::test]
async fn at_its_stop_an_instance_is_unhealthy_and_deregistered_and_serves_on_for_a_moment() {
    let mut instance = Instance::start().await;
    instance.open(GatedStore::new(None)).await;
    instance.stop();
    let left = async {
        while !instance.log.text().contains("deregistered from a desk") {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, left).await.expect("it does not leave the registry");
    assert_eq!(instance.registry.registered(), []);
    let health = instance.get("/health").await;
    assert_eq!((health.status, &health.json()["status"]), (503, &json!("draining")));
    assert_eq!(instance.post("late", "t").await.status, 201);
    instance.ended().await.unwrap();
}

#[tokio::test]
async fn an_instance_serves_and_stops_while_the_registry_is_away() {
    let mut instance = Instance::start().await;
    instance.registry.is_away.store(true, Relaxed);
    instance.open(GatedStore::new(None)).await;
    assert_eq!(instance.post("a", "1").await.status, 201);
    instance.stop();
    let log = instance.log.clone();
    instance.ended().await.unwrap();
    let log = log.text();
    for line in [
        "cannot tell that this instance is registered",
        "could not deregister from a desk",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    assert!(log.contains("gone for lunch"), "{log}");
}
