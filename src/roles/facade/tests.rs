//! The facade in front of instances that are scripted, over real sockets.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::header::{ALLOW, RETRY_AFTER};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::*;
use crate::engine::{
    Batch, DeliveredMessage, DeliveredPage, Engine, Instance, Item, ListPage, Listed, Looked, Offered, PageRange,
    Registration, Unavailable,
};
use crate::http::request::BodyRoom;
use crate::http::scripted::{Act, Peer, Seen, chunks, whole_in_chunks};

mod batches;
mod budget;
mod ejection;
mod pages;

const KEY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(20);

/// Instances, each with its service.
type Known = Vec<(&'static str, Instance)>;

/// A registry that knows the instances that a test tells it.
struct Told(watch::Receiver<Known>);

impl Told {
    /// It knows these, until it is told others.
    fn of(known: Known) -> (watch::Sender<Known>, Arc<dyn Registry>) {
        let (tell, told) = watch::channel(known);
        (tell, Arc::new(Told(told)))
    }
}

impl Registry for Told {
    fn describe(&self) -> String {
        "a scripted registry".to_owned()
    }

    fn advice(&self) -> String {
        "leave it as it is".to_owned()
    }

    fn register<'a>(&'a self, _: &'a Registration) -> BoxFuture<'a, engine::Result<()>> {
        unreachable!("the facade's handler registers nothing")
    }

    fn is_registered<'a>(&'a self, _: &'a Registration) -> BoxFuture<'a, engine::Result<bool>> {
        unreachable!("the facade's handler registers nothing")
    }

    fn deregister<'a>(&'a self, _: &'a str) -> BoxFuture<'a, engine::Result<()>> {
        unreachable!("the facade's handler registers nothing")
    }

    fn all<'a>(&'a self, _: &'a str) -> BoxFuture<'a, engine::Result<Vec<Listed>>> {
        unreachable!("the facade follows, it does not list")
    }

    fn watch<'a>(&'a self, service: &'a str) -> BoxStream<'a, engine::Result<Vec<Instance>>> {
        let mut told = self.0.clone();
        told.mark_changed();
        let answers = stream::unfold(told, move |mut told| async move {
            told.changed().await.ok()?;
            let known = told.borrow_and_update().clone();
            let instances = known.into_iter().filter(|(name, _)| *name == service);
            Some((Ok(instances.map(|(_, instance)| instance).collect()), told))
        });
        answers.chain(stream::pending()).boxed()
    }
}

/// A mailbox that does with its first offers what it is told to, and accepts the others.
#[derive(Default)]
pub(super) struct Scripted {
    pub(super) offered: Mutex<Vec<Batch>>,
    /// The last is done first.
    pub(super) outcomes: Mutex<Vec<Outcome>>,
    pub(super) is_away: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Full,
    Fail,
    Hang,
}

fn refused() -> Unavailable {
    Unavailable {
        engine: "a scripted mailbox".to_owned(),
        cause: anyhow::anyhow!("connection refused"),
    }
}

impl Engine for Scripted {
    fn describe(&self) -> String {
        "a scripted mailbox".to_owned()
    }

    fn object_name(&self) -> &str {
        "a queue"
    }

    fn identity(&self) -> Option<String> {
        None
    }

    fn advice(&self) -> String {
        String::new()
    }

    fn ready(&self) -> BoxFuture<'_, engine::Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    fn check(&self) -> engine::Result<()> {
        if self.is_away { Err(refused()) } else { Ok(()) }
    }
}

impl Mailbox for Scripted {
    fn offer<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, engine::Result<Offered>> {
        self.offered.lock().unwrap().push(batch.clone());
        let outcome = self.outcomes.lock().unwrap().pop();
        async move {
            match outcome {
                None => Ok(Offered::Accepted),
                Some(Outcome::Full) => Ok(Offered::Full),
                Some(Outcome::Fail) => Err(refused()),
                Some(Outcome::Hang) => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn look(&self) -> BoxFuture<'_, engine::Result<Looked>> {
        unreachable!("the facade only offers")
    }

    fn store<'a>(&'a self, _: &'a Batch, _: &'a str) -> BoxFuture<'a, engine::Result<()>> {
        unreachable!("the facade only offers")
    }

    fn reject<'a>(&'a self, _: &'a Item, _: &'a str) -> BoxFuture<'a, engine::Result<()>> {
        unreachable!("the facade only offers")
    }

    fn remove<'a>(&'a self, _: &'a Item) -> BoxFuture<'a, engine::Result<bool>> {
        unreachable!("the facade only offers")
    }

    fn all(&self) -> BoxStream<'_, engine::Result<DeliveredPage>> {
        unreachable!("the facade only offers")
    }

    fn page<'a>(&'a self, _: &'a PageRange) -> BoxFuture<'a, engine::Result<ListPage<DeliveredMessage>>> {
        unreachable!("the facade only offers")
    }

    fn news(&self) -> BoxStream<'_, ()> {
        unreachable!("the facade only offers")
    }
}

/// Identifiers that tell how many batches left before they were made.
#[derive(Default)]
pub(super) struct Counted {
    batches: AtomicU64,
    made: AtomicU64,
}

impl Identifiers for Counted {
    fn make(&self) -> String {
        let batches = self.batches.load(Ordering::SeqCst);
        format!("{batches}-{}", self.made.fetch_add(1, Ordering::SeqCst))
    }

    fn batch_left(&self) {
        self.batches.fetch_add(1, Ordering::SeqCst);
    }
}

/// A facade and what is behind it.
struct Setting {
    facade: Facade,
    mailbox: Arc<Scripted>,
    registry: watch::Sender<Known>,
}

/// An answer, as far as it came.
struct Answered {
    status: u16,
    headers: hyper::HeaderMap,
    body: Vec<u8>,
    is_whole: bool,
}

impl Answered {
    fn json(&self) -> Value {
        assert!(self.is_whole);
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The message of a 503, which says when to ask again.
    fn unavailable(&self) -> String {
        assert_eq!((self.status, &self.headers[RETRY_AFTER]), (503, &"1".parse().unwrap()));
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

impl Setting {
    async fn new(mailbox: Scripted, instances: Known) -> Setting {
        let (facade, mailbox) = (Facade::default(), Arc::new(mailbox));
        let (tell, registry) = Told::of(instances);
        let identifiers = Arc::new(Counted::default());
        facade
            .open(Followed::fixed(mailbox.clone()), &registry, identifiers)
            .await;
        Setting {
            facade,
            mailbox,
            registry: tell,
        }
    }

    /// In front of these logging instances.
    async fn logging(mailbox: Scripted, peers: &[&Peer]) -> Setting {
        Setting::new(
            mailbox,
            peers
                .iter()
                .map(|peer| (LOGGING_SERVICE, peer.instance.clone()))
                .collect(),
        )
        .await
    }

    /// In front of these logging and messages instances.
    async fn lists(logging: &[&Peer], messages: &[&Peer]) -> Setting {
        let logging = logging.iter().map(|peer| (LOGGING_SERVICE, peer.instance.clone()));
        let messages = messages.iter().map(|peer| (MESSAGES_SERVICE, peer.instance.clone()));
        Setting::new(Scripted::default(), logging.chain(messages).collect()).await
    }

    async fn reply(&self, request: hyper::Request<Full<Bytes>>) -> Reply {
        let handled = self
            .facade
            .handle(Request::new(request, SOON, BodyRoom::new(64 * 1024 * 1024)));
        timeout(SOON, handled)
            .await
            .expect("no answer")
            .unwrap_or_else(HttpError::into_reply)
    }

    async fn ask(&self, request: hyper::Request<Full<Bytes>>) -> Answered {
        let (head, mut body) = self.reply(request).await.into_parts();
        let mut answered = Answered {
            status: head.status.as_u16(),
            headers: head.headers,
            body: Vec::new(),
            is_whole: true,
        };
        while let Some(frame) = timeout(SOON, body.frame()).await.expect("the answer stops") {
            match frame {
                Ok(frame) => answered.body.extend_from_slice(&frame.into_data().unwrap()),
                Err(_) => answered.is_whole = false,
            }
        }
        answered
    }

    async fn method(&self, method: &str, path: &str) -> Answered {
        let request = hyper::Request::builder().method(method).uri(path);
        self.ask(request.body(Full::default()).unwrap()).await
    }

    async fn post(&self, text: &str) -> Answered {
        self.method("POST", &format!("/message?text={text}")).await
    }

    async fn post_keyed(&self, text: &str) -> Answered {
        let request = hyper::Request::post(format!("/message?text={text}")).header("idempotency-key", KEY);
        self.ask(request.body(Full::default()).unwrap()).await
    }

    fn parts(&self) -> &Parts {
        self.facade.parts.get().unwrap()
    }

    fn offered(&self) -> Vec<Batch> {
        self.mailbox.offered.lock().unwrap().clone()
    }
}

async fn peer(name: &str, act: Act) -> Peer {
    Peer::start(name, move |_| act.clone()).await
}

fn logged() -> Act {
    Act::json(201, "{}")
}

fn list(json: &str) -> Act {
    whole_in_chunks(&[json])
}

/// An instance that nobody listens for.
async fn dead(name: &str) -> Peer {
    let mut dead = peer(name, Act::Hang).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    dead.instance.port = listener.local_addr().unwrap().port();
    dead
}

#[tokio::test]
async fn a_message_is_logged_handed_over_and_then_acknowledged() {
    let good = peer("good", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&good]).await;
    let answer = setting.post("a+b").await;
    assert_eq!((answer.status, &answer.json()["text"]), (201, &json!("a b")));
    let seen = &good.seen()[0];
    assert_eq!((seen.line.as_str(), seen.json()), ("POST /log", answer.json()));
    assert!(!seen.headers.contains_key("if-none-match"));
    let [batch] = &setting.offered()[..] else {
        panic!("not one batch")
    };
    assert_eq!(json!(batch.messages), json!([answer.json()]));
    assert_ne!(batch.id, batch.messages[0].identifier);
}

#[tokio::test]
async fn a_keyed_message_is_logged_under_its_key_where_the_first_text_stays() {
    let good = peer("good", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&good]).await;
    let answer = setting.post_keyed("a").await;
    assert_eq!(
        (answer.status, answer.json()),
        (201, json!({ "identifier": KEY, "text": "a" }))
    );
    assert_eq!(good.seen()[0].headers["if-none-match"], "*");
}

#[tokio::test]
async fn a_retry_under_a_key_is_offered_as_the_same_batch_and_another_text_as_another() {
    let good = peer("good", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&good]).await;
    for text in ["a", "a", "b"] {
        assert_eq!(setting.post_keyed(text).await.status, 201);
    }
    let [first, retry, other] = &setting.offered()[..] else {
        panic!("three batches")
    };
    assert_eq!(first, retry);
    assert_ne!(first.id, other.id);
}

#[tokio::test]
async fn a_conflict_is_passed_on_at_once_and_nothing_is_handed_over() {
    let conflict = || Act::json(409, "{}");
    let (a, b) = (peer("a", conflict()).await, peer("b", conflict()).await);
    let setting = Setting::logging(Scripted::default(), &[&a, &b]).await;
    assert_eq!(setting.post_keyed("a").await.status, 409);
    assert_eq!(a.seen().len() + b.seen().len(), 1);
    assert_eq!(setting.offered(), []);
}

#[tokio::test]
async fn a_failed_try_goes_to_another_instance_under_the_same_identifier() {
    let failures = [
        Act::Reset,
        Act::AnswerAndClose(Vec::new()),
        Act::json(503, "{}"),
        Act::json(500, "no JSON"),
        Act::json(302, ""),
        Act::json(429, ""),
        Act::Answer(b"no HTTP\r\n\r\n".to_vec()),
        Act::AnswerAndHang(b"HTTP/1.1 201 Created\r\ncontent-length: 9\r\n\r\n{".to_vec()),
        Act::Hang,
    ];
    for act in failures {
        let (bad, good) = (peer("bad", act.clone()).await, peer("good", logged()).await);
        let setting = Setting::logging(Scripted::default(), &[&bad, &good]).await;
        // Which of the two is asked first is up to chance.
        while bad.seen().is_empty() {
            let answer = setting.post("a").await;
            assert_eq!(answer.status, 201, "{act:?}");
            assert_eq!(good.seen().last().unwrap().json(), answer.json(), "{act:?}");
        }
        assert_eq!(bad.seen()[0].json(), good.seen().last().unwrap().json(), "{act:?}");
        assert_eq!(setting.offered().len(), good.seen().len(), "{act:?}");
    }
}

#[tokio::test]
async fn instances_that_are_gone_do_no_harm_to_requests() {
    let (gone, good) = (
        [dead("gone-1").await, dead("gone-2").await],
        peer("good", logged()).await,
    );
    let setting = Setting::logging(Scripted::default(), &[&gone[0], &gone[1], &good]).await;
    for _ in 0..20 {
        assert_eq!(setting.post("a").await.status, 201);
    }
}

#[tokio::test]
async fn an_instance_that_failed_is_asked_again_when_all_have() {
    let tries = AtomicUsize::new(0);
    let act = move |_: &Seen| {
        if tries.fetch_add(1, Ordering::Relaxed) < 3 {
            Act::json(503, "{}")
        } else {
            logged()
        }
    };
    let only = Peer::start("only", act).await;
    let setting = Setting::logging(Scripted::default(), &[&only]).await;
    assert_eq!(setting.post("a").await.status, 201);
    assert_eq!(only.seen().len(), 4);
}

#[tokio::test]
async fn a_refusal_is_not_tried_elsewhere_and_named() {
    let refusal = || Act::json(413, "{\"error\":{\"message\":\"too long\"}}");
    let (a, b) = (peer("a", refusal()).await, peer("b", refusal()).await);
    let setting = Setting::logging(Scripted::default(), &[&a, &b]).await;
    let message = setting.post("a").await.unavailable();
    assert!(message.contains(" answered 413: too long"), "{message}");
    assert_eq!((a.seen().len() + b.seen().len(), setting.offered().len()), (1, 0));
}

#[tokio::test]
async fn what_no_instance_logs_within_the_deadline_is_a_503_that_names_the_last() {
    let away = || Act::json(503, "{\"error\":{\"message\":\"engine away: the log\"}}");
    let (a, b) = (peer("logging-service@a", away()).await, dead("gone").await);
    let setting = Setting::logging(Scripted::default(), &[&a, &b]).await;
    let start = Instant::now();
    let message = setting.post("a").await.unavailable();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(message.contains("no instance of logging-service"), "{message}");
    assert!(
        message.contains("engine away: the log") || message.contains("connection refused"),
        "{message}"
    );
    assert!(a.seen().len() > 1, "it was not asked again");
    assert_eq!(setting.offered(), []);
}

#[tokio::test]
async fn silence_of_all_instances_is_a_503_in_time() {
    let (a, b) = (peer("a", Act::Hang).await, peer("b", Act::Hang).await);
    let setting = Setting::logging(Scripted::default(), &[&a, &b]).await;
    let start = Instant::now();
    let message = setting.post("a").await.unavailable();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(message.contains("no answer within"), "{message}");
    assert_eq!(setting.offered(), []);
}

#[tokio::test]
async fn without_a_logging_instance_a_post_is_a_503_that_names_the_service() {
    let setting = Setting::logging(Scripted::default(), &[]).await;
    assert_eq!(
        setting.post("a").await.unavailable(),
        "no live instance of logging-service is known"
    );
    assert_eq!(setting.offered(), []);
}

#[tokio::test]
async fn where_the_registry_is_empty_and_nobody_answers_a_request_is_a_503_until_one_is_registered() {
    let (gone, next) = (dead("gone").await, peer("next", logged()).await);
    let setting = Setting::logging(Scripted::default(), &[&gone]).await;
    setting.registry.send_replace(Vec::new());
    let start = Instant::now();
    let message = setting.post("a").await.unavailable();
    assert!(message.contains("gone: connection refused"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    // One that is under way goes to it, too.
    let setting = Setting::logging(Scripted::default(), &[&gone]).await;
    setting.registry.send_replace(Vec::new());
    let registered = async {
        while setting.parts().logging.discovery.ejected().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let known = vec![(LOGGING_SERVICE, next.instance.clone())];
        setting.registry.send_replace(known);
    };
    let (answer, ()) = tokio::join!(setting.post("b"), registered);
    assert_eq!((answer.status, next.seen().len()), (201, 1));
}

#[tokio::test]
async fn nothing_is_logged_while_the_mailbox_is_known_to_be_away() {
    let good = peer("good", logged()).await;
    let away = Scripted {
        is_away: true,
        ..Scripted::default()
    };
    let setting = Setting::logging(away, &[&good]).await;
    assert_eq!(
        setting.post("a").await.unavailable(),
        "engine away: a scripted mailbox: connection refused"
    );
    assert_eq!((good.seen().len(), setting.offered().len()), (0, 0));
    let health = setting.facade.details();
    let mailbox = json!({
        "engine": "a scripted mailbox",
        "name": "a queue",
        "reachable": false,
        "reason": "connection refused",
        "warning": null,
        "next": null,
        "settings": { "refused": 0, "not_in_force": {} },
    });
    assert_eq!(health["mailbox"], mailbox);
    assert_eq!(
        (&health[LOGGING_SERVICE], &health[MESSAGES_SERVICE]),
        (&json!(["good"]), &json!([]))
    );
    let discovery = json!({
        LOGGING_SERVICE: { "instances": 1, "ejected": [], "age_seconds": 0 },
        MESSAGES_SERVICE: { "instances": 0, "ejected": [], "age_seconds": 0 },
    });
    assert_eq!(health["discovery"], discovery);
}

#[tokio::test]
async fn a_full_mailbox_is_a_503() {
    let good = peer("good", logged()).await;
    let full = Scripted {
        outcomes: Mutex::new(vec![Outcome::Full]),
        ..Scripted::default()
    };
    let setting = Setting::logging(full, &[&good]).await;
    let message = setting.post("a").await.unavailable();
    assert!(message.contains("a scripted mailbox is full"), "{message}");
    assert_eq!(setting.offered().len(), 1);
}

#[tokio::test]
async fn a_batch_whose_outcome_is_unknown_is_offered_again_under_the_same_id() {
    let good = peer("good", logged()).await;
    let failing = Scripted {
        outcomes: Mutex::new(vec![Outcome::Fail; 2]),
        ..Scripted::default()
    };
    let setting = Setting::logging(failing, &[&good]).await;
    assert_eq!(setting.post("a").await.status, 201);
    let offered = setting.offered();
    assert_eq!(offered.len(), 3);
    assert!(offered.iter().all(|batch| *batch == offered[0]));
    assert_eq!(good.seen().len(), 1);
}

#[tokio::test]
async fn an_instance_of_another_origin_is_asked_in_the_plain_form() {
    let mut foreign = peer("foreign", Act::json(200, "[]")).await;
    foreign.instance.version = None;
    let setting = Setting::logging(Scripted::default(), &[&foreign]).await;
    assert_eq!(setting.post("a").await.status, 201);
    assert_eq!(setting.post_keyed("a").await.status, 201);
    for seen in foreign.seen() {
        assert!(!seen.headers.contains_key("if-none-match"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_keyed_message_goes_to_an_instance_that_knows_keys_where_there_is_one() {
    let mut foreign = peer("foreign", logged()).await;
    foreign.instance.version = None;
    let ours = peer("ours", logged()).await;
    let setting = Setting::logging(Scripted::default(), &[&foreign, &ours]).await;
    for _ in 0..20 {
        assert_eq!(setting.post_keyed("a").await.status, 201);
    }
    assert_eq!((foreign.seen().len(), ours.seen().len()), (0, 20));
    while foreign.seen().is_empty() {
        assert_eq!(setting.post("a").await.status, 201);
    }
}

#[tokio::test]
async fn both_lists_are_passed_through_as_one_array() {
    let logs = peer(
        "logs",
        whole_in_chunks(&[" \n", " [\"a\"", ",\"\\u0000\",", "\"т\"] \n"]),
    )
    .await;
    let messages = peer("messages", Act::json(200, "[]")).await;
    let setting = Setting::lists(&[&logs], &[&messages]).await;
    let answer = setting.method("GET", "/messages").await;
    assert_eq!((answer.status, answer.json()), (200, json!([["a", "\0", "т"], []])));
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(
        (logs.seen()[0].line.as_str(), messages.seen()[0].line.as_str()),
        ("GET /logs", "GET /messages")
    );
}

#[tokio::test]
async fn a_list_that_does_not_begin_well_comes_from_another_instance() {
    let failures = [
        Act::Reset,
        Act::json(503, "{}"),
        Act::json(404, "[]"),
        Act::json(200, "{\"a\":[]}"),
        Act::json(200, "   "),
        Act::json(200, ""),
        Act::json(204, ""),
        Act::AnswerAndClose(chunks(&[" "])),
        Act::AnswerAndHang(chunks(&[" "])),
        Act::Hang,
    ];
    for act in failures {
        let (bad, good) = (peer("bad", act.clone()).await, peer("good", list("[1]")).await);
        let messages = peer("messages", list("[2]")).await;
        let setting = Setting::lists(&[&bad, &good], &[&messages]).await;
        while bad.seen().is_empty() {
            let answer = setting.method("GET", "/messages").await;
            assert_eq!((answer.status, answer.json()), (200, json!([[1], [2]])), "{act:?}");
        }
    }
}

#[tokio::test]
async fn a_list_that_breaks_off_breaks_the_answer_off() {
    let failures = [
        Act::AnswerAndClose(chunks(&["[1"])),
        Act::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1,2".to_vec()),
        // Its body ends with the connection.
        Act::AnswerAndClose(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[1,2 ".to_vec()),
    ];
    for act in failures {
        let (broken, whole) = (peer("broken", act).await, peer("whole", list("[\"a\"]")).await);
        for (logs, messages, expected) in [(&broken, &whole, "[[1"), (&whole, &broken, "[[\"a\"],[1")] {
            let answer = Setting::lists(&[logs], &[messages])
                .await
                .method("GET", "/messages")
                .await;
            let body = String::from_utf8(answer.body).unwrap();
            assert_eq!((answer.status, answer.is_whole), (200, false), "{body}");
            assert!(body.starts_with(expected) && !body.ends_with("]]"), "{body}");
        }
    }
    let by_connection = Act::AnswerAndClose(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[1] \n".to_vec());
    let (logs, messages) = (peer("logs", by_connection).await, peer("messages", list("[]")).await);
    let answer = Setting::lists(&[&logs], &[&messages])
        .await
        .method("GET", "/messages")
        .await;
    assert_eq!(answer.json(), json!([[1], []]));
}

#[tokio::test]
async fn a_list_that_stops_in_the_middle_breaks_the_answer_off_in_time() {
    let (logs, messages) = (
        peer("logs", Act::AnswerAndHang(chunks(&["[1"]))).await,
        peer("messages", list("[]")).await,
    );
    let answer = Setting::lists(&[&logs], &[&messages])
        .await
        .method("GET", "/messages")
        .await;
    assert_eq!((answer.body.as_slice(), answer.is_whole), (&b"[[1"[..], false));
}

#[tokio::test]
async fn a_list_that_nobody_has_is_a_503_that_names_the_service() {
    let good = peer("good", list("[]")).await;
    for (setting, missing) in [
        (Setting::lists(&[], &[&good]).await, LOGGING_SERVICE),
        (Setting::lists(&[&good], &[]).await, MESSAGES_SERVICE),
    ] {
        let message = setting.method("GET", "/messages").await.unavailable();
        assert_eq!(message, format!("no live instance of {missing} is known"));
    }
    let setting = Setting::lists(&[&good], &[&dead("gone").await]).await;
    let start = Instant::now();
    let message = setting.method("GET", "/messages").await.unavailable();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(
        message.contains("no instance of messages-service") && message.contains("connection refused"),
        "{message}"
    );
}

#[tokio::test]
async fn a_list_without_an_end_is_read_no_faster_than_it_is_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let instance = Instance {
        id: "endless".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
        version: None,
        since: None,
    };
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let endless = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[0")
            .await
            .unwrap();
        let piece = ",1".repeat(32 * 1024);
        while stream.write_all(piece.as_bytes()).await.is_ok() {
            counter.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    let messages = peer("messages", list("[]")).await;
    let instances = vec![
        (LOGGING_SERVICE, instance),
        (MESSAGES_SERVICE, messages.instance.clone()),
    ];
    let setting = Setting::new(Scripted::default(), instances).await;
    let request = hyper::Request::get("/messages").body(Full::default()).unwrap();
    let mut body = setting.reply(request).await.into_body();
    let mut taken = 0;
    for _ in 0..3 {
        // Nothing is taken until nothing more is sent: what is held is in buffers, here and in the kernel.
        let mut seen = usize::MAX;
        while std::mem::replace(&mut seen, sent.load(Ordering::Relaxed)) != seen {
            let held = seen.saturating_sub(taken);
            assert!(held < 32 * 1024 * 1024, "{held} bytes are held");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let wanted = seen;
        while taken <= wanted {
            let frame = timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap();
            taken += frame.into_data().unwrap().len();
        }
    }
    drop(body);
    timeout(SOON, endless)
        .await
        .expect("a list that nobody reads is still sent")
        .unwrap();
}

#[tokio::test]
async fn paths_and_methods_that_are_not_known_are_answered_so() {
    let good = peer("good", list("[]")).await;
    let setting = Setting::lists(&[&good], &[&good]).await;
    for (method, path, status, allow) in [
        ("GET", "/", 404, None),
        ("POST", "/messages/", 404, None),
        ("POST", "/log", 404, None),
        ("GET", "/message", 405, Some("POST")),
        ("HEAD", "/message", 405, Some("POST")),
        ("PUT", "/message", 405, Some("POST")),
        ("POST", "/messages", 405, Some("GET, HEAD")),
        ("DELETE", "/messages", 405, Some("GET, HEAD")),
        ("HEAD", "/messages", 200, None),
        ("GET", "/messages?a=%", 400, None),
        ("GET", "/?a=%FF", 400, None),
    ] {
        let answer = setting.method(method, path).await;
        let given = answer.headers.get(ALLOW).map(|value| value.to_str().unwrap());
        assert_eq!((answer.status, given), (status, allow), "{method} {path}");
    }
    assert_eq!(setting.offered(), []);
}

#[tokio::test]
async fn a_request_before_the_mailbox_is_there_is_a_503() {
    let setting = Setting {
        facade: Facade::default(),
        mailbox: Arc::default(),
        registry: watch::Sender::default(),
    };
    assert_eq!(setting.post("a").await.unavailable(), "the mailbox is not open");
}
