//! The routes, in front of a log store that lives in memory and fails when it is told to.

mod restore;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::header::{ALLOW, CONTENT_TYPE, IF_NONE_MATCH, LINK, RETRY_AFTER};
use serde_json::{Value, json};

use super::super::followed::Followed;
use super::cleared::ClearedAt;
use super::routes::Logging;
use crate::engine::{self, Appended, Engine, IfPresent, ListPage, LogStore, Page, PageRange, Unavailable};
use crate::http::reply::{HttpError, Reply};
use crate::http::request::{BodyRoom, Request};
use crate::http::server::Handler;
use crate::message::{MAX_IDENTIFIER_BYTES, MAX_TEXT_BYTES, Message};

#[derive(Default)]
struct MemoryStore {
    entries: Mutex<BTreeMap<String, String>>,
    /// How many messages each call of `append` had.
    appends: Mutex<Vec<usize>>,
    /// All messages of these identifiers fail; with `*` everything does.
    failing: Mutex<HashSet<String>>,
    /// Entries that are no messages.
    foreign: u64,
    /// The store never answers.
    hangs: bool,
    /// The store may lose what it has.
    loses: bool,
}

impl MemoryStore {
    fn fail(&self, identifier: &str) {
        self.failing.lock().unwrap().insert(identifier.to_owned());
    }

    fn fails(&self, identifier: &str) -> engine::Result<()> {
        let failing = self.failing.lock().unwrap();
        if failing.contains("*") || failing.contains(identifier) {
            return Err(Unavailable {
                engine: self.describe(),
                cause: anyhow!("connection refused"),
            });
        }
        Ok(())
    }

    fn append_one(&self, message: &Message, if_present: IfPresent) -> engine::Result<Appended> {
        self.fails(&message.identifier)?;
        let mut entries = self.entries.lock().unwrap();
        match entries.get(&message.identifier) {
            Some(text) if if_present == IfPresent::Keep && *text != message.text => Ok(Appended::Conflict),
            _ => {
                entries.insert(message.identifier.clone(), message.text.clone());
                Ok(Appended::Stored)
            }
        }
    }
}

impl Engine for MemoryStore {
    fn describe(&self) -> String {
        "a store in memory".to_owned()
    }

    fn object_name(&self) -> &str {
        "a map"
    }

    fn identity(&self) -> Option<String> {
        None
    }

    fn advice(&self) -> String {
        "let it succeed".to_owned()
    }

    fn ready(&self) -> BoxFuture<'_, engine::Result<()>> {
        std::future::ready(self.check()).boxed()
    }

    fn check(&self) -> engine::Result<()> {
        self.fails("*")
    }

    fn keeps_all(&self) -> bool {
        !self.loses
    }
}

impl LogStore for MemoryStore {
    fn append<'a>(
        &'a self,
        messages: &'a [Message],
        if_present: IfPresent,
    ) -> BoxFuture<'a, Vec<engine::Result<Appended>>> {
        if self.hangs {
            return std::future::pending().boxed();
        }
        let distinct: HashSet<_> = messages.iter().map(|message| &message.identifier).collect();
        assert_eq!(distinct.len(), messages.len(), "an identifier is twice in one call");
        self.appends.lock().unwrap().push(messages.len());
        // In the reverse order: only that of different calls is promised.
        let mut outcomes: Vec<_> = messages
            .iter()
            .rev()
            .map(|message| self.append_one(message, if_present))
            .collect();
        outcomes.reverse();
        std::future::ready(outcomes).boxed()
    }

    fn all(&self) -> BoxStream<'_, engine::Result<Page>> {
        if self.hangs {
            return stream::pending().boxed();
        }
        let message = |(identifier, text): (&String, &String)| Message {
            identifier: identifier.clone(),
            text: text.clone(),
        };
        let messages: Vec<_> = self.entries.lock().unwrap().iter().map(message).collect();
        let mut pages: Vec<_> = messages
            .chunks(2)
            .map(|page| {
                Ok(Page {
                    messages: page.to_vec(),
                    skipped: 0,
                })
            })
            .collect();
        pages.push(Ok(Page {
            messages: Vec::new(),
            skipped: self.foreign,
        }));
        if let Err(away) = self.fails("*") {
            pages.insert(0, Err(away));
        }
        stream::iter(pages).boxed()
    }

    fn page<'a>(&'a self, range: &'a PageRange) -> BoxFuture<'a, engine::Result<ListPage<Message>>> {
        let parts = self.all().map_ok(|part| (part.messages, part.skipped)).boxed();
        engine::of_parts(range, parts, |message| message).boxed()
    }

    fn remove<'a>(&'a self, identifiers: &'a [String]) -> BoxFuture<'a, engine::Result<()>> {
        let mut entries = self.entries.lock().unwrap();
        entries.retain(|identifier, _| !identifiers.contains(identifier));
        std::future::ready(self.fails("*")).boxed()
    }

    fn clear(&self) -> BoxFuture<'_, engine::Result<()>> {
        if self.hangs {
            return std::future::pending().boxed();
        }
        let cleared = self.fails("*").map(|()| self.entries.lock().unwrap().clear());
        std::future::ready(cleared).boxed()
    }
}

struct Router {
    logging: Logging,
    store: Arc<MemoryStore>,
}

impl Router {
    fn new(store: MemoryStore) -> Router {
        let (logging, store) = (Logging::noting(None), Arc::new(store));
        logging.store.open(Followed::fixed(store.clone()));
        Router { logging, store }
    }

    async fn ask(&self, request: hyper::Request<Full<Bytes>>) -> Reply {
        let request = Request::new(request, Duration::from_secs(5), BodyRoom::new(usize::MAX));
        self.logging.handle(request).await.unwrap_or_else(HttpError::into_reply)
    }

    async fn get(&self, target: &str) -> Reply {
        self.ask(hyper::Request::get(target).body(Full::default()).unwrap())
            .await
    }

    async fn post(&self, body: impl Into<Bytes>) -> Reply {
        let request = hyper::Request::post("/log").header(CONTENT_TYPE, "application/json");
        self.ask(request.body(Full::new(body.into())).unwrap()).await
    }

    async fn post_first(&self, body: &str) -> Reply {
        let request = hyper::Request::post("/log")
            .header(CONTENT_TYPE, "application/json")
            .header(IF_NONE_MATCH, "*");
        self.ask(request.body(Full::from(body.to_owned())).unwrap()).await
    }

    fn text(&self, identifier: &str) -> Option<String> {
        self.store.entries.lock().unwrap().get(identifier).cloned()
    }
}

async fn body(reply: Reply) -> Value {
    serde_json::from_slice(&reply.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

fn message(identifier: &str, text: &str) -> String {
    json!({ "identifier": identifier, "text": text }).to_string()
}

fn array(messages: &[(&str, &str)]) -> String {
    let messages: Vec<_> = messages
        .iter()
        .map(|(identifier, text)| message(identifier, text))
        .collect();
    format!("[{}]", messages.join(","))
}

#[tokio::test]
async fn a_message_is_stored_and_a_later_one_of_its_identifier_replaces_it() {
    let router = Router::new(MemoryStore::default());
    for text in ["first", ""] {
        let reply = router.post(message("a", text)).await;
        assert_eq!(reply.status(), 201);
        assert_eq!(body(reply).await, json!({ "identifier": "a" }));
        assert_eq!(router.text("a").as_deref(), Some(text));
    }
}

#[tokio::test]
async fn with_if_none_match_the_first_text_stays() {
    let router = Router::new(MemoryStore::default());
    assert_eq!(router.post_first(&message("a", "first")).await.status(), 201);
    assert_eq!(router.post_first(&message("a", "first")).await.status(), 201);
    let refused = router.post_first(&message("a", "second")).await;
    assert_eq!(refused.status(), 409);
    assert_eq!(body(refused).await["error"]["code"], "conflict");
    assert_eq!(router.text("a").as_deref(), Some("first"));
}

#[tokio::test]
async fn a_page_has_whole_messages_and_a_link_to_the_next_one() {
    let router = Router::new(MemoryStore::default());
    assert_eq!(
        router.post(array(&[("ä", "3"), ("b", "2"), ("a", "1")])).await.status(),
        201
    );
    for (target, expected, link) in [
        (
            "/logs?limit=1",
            array(&[("a", "1")]),
            Some("</logs?after=a&limit=1>; rel=\"next\""),
        ),
        ("/logs?after=a", array(&[("b", "2"), ("ä", "3")]), None),
        ("/logs?after=b&limit=1&full=true", array(&[("ä", "3")]), None),
        ("/logs?after=%C3%A4", array(&[]), None),
    ] {
        let reply = router.get(target).await;
        let given = reply.headers().get(LINK).map(|link| link.to_str().unwrap().to_owned());
        assert_eq!((reply.status().as_u16(), given.as_deref()), (200, link), "{target}");
        let expected: Value = serde_json::from_str(&expected).unwrap();
        assert_eq!(body(reply).await, expected, "{target}");
    }
    for bad in ["limit=0", "limit=1001", "after=a&after=b"] {
        assert_eq!(router.get(&format!("/logs?{bad}")).await.status(), 400, "{bad}");
    }
}

#[tokio::test]
async fn a_page_that_the_store_does_not_give_in_time_or_at_all_is_a_503() {
    let hanging = MemoryStore {
        hangs: true,
        ..MemoryStore::default()
    };
    tokio::time::pause();
    assert_eq!(Router::new(hanging).get("/logs?limit=1").await.status(), 503);
}

#[tokio::test]
async fn if_none_match_with_anything_but_a_star_is_a_400() {
    let router = Router::new(MemoryStore::default());
    for values in [vec!["\"abc\""], vec![""], vec!["*, *"], vec!["*", "*"]] {
        let mut request = hyper::Request::post("/log").header(CONTENT_TYPE, "application/json");
        for value in &values {
            request = request.header(IF_NONE_MATCH, *value);
        }
        let reply = router.ask(request.body(Full::from(message("a", "b"))).unwrap()).await;
        assert_eq!(reply.status(), 400, "{values:?}");
    }
    assert_eq!(router.text("a"), None);
}

#[tokio::test]
async fn an_identifier_has_1_to_256_bytes() {
    let router = Router::new(MemoryStore::default());
    let longest = "ä".repeat(MAX_IDENTIFIER_BYTES / 2);
    assert_eq!(router.post(message(&longest, "t")).await.status(), 201);
    assert_eq!(router.post(message(&format!("{longest}x"), "t")).await.status(), 422);
    assert_eq!(router.post(message("", "t")).await.status(), 422);
}

#[tokio::test]
async fn a_text_has_up_to_1_mib_however_it_is_escaped() {
    let router = Router::new(MemoryStore::default());
    let longest = "\u{1}".repeat(MAX_TEXT_BYTES);
    let posted = message("a", &longest);
    assert!(posted.len() > 6 * MAX_TEXT_BYTES);
    assert_eq!(router.post(posted).await.status(), 201);
    assert_eq!(router.text("a"), Some(longest));

    let reply = router.post(message("b", &"x".repeat(MAX_TEXT_BYTES + 1))).await;
    assert_eq!(reply.status(), 413);
    let reply = router
        .post(format!("[{}]", message("b", &"x".repeat(MAX_TEXT_BYTES + 1))))
        .await;
    assert_eq!(body(reply).await, json!([{ "identifier": "b", "status": 413 }]));
    assert_eq!(router.text("b"), None);
}

#[tokio::test]
async fn a_body_has_up_to_7_mib_for_one_message_and_8_for_an_array() {
    const MIB: usize = 1024 * 1024;
    let router = Router::new(MemoryStore::default());
    let single = message("a", "t");
    let many = array(&[("a", "t")]);
    let padded = |body: &str, length: usize| format!("{body}{}", " ".repeat(length - body.len()));
    assert_eq!(router.post(padded(&single, 7 * MIB)).await.status(), 201);
    assert_eq!(router.post(padded(&single, 7 * MIB + 1)).await.status(), 413);
    assert_eq!(router.post(padded(&many, 8 * MIB)).await.status(), 201);
    assert_eq!(router.post(padded(&many, 8 * MIB + 1)).await.status(), 413);
}

#[tokio::test]
async fn what_is_no_message_is_refused_by_what_is_wrong_with_it() {
    let router = Router::new(MemoryStore::default());
    for malformed in [
        "",
        "{",
        "text",
        "[",
        "[1,]",
        "[{\"identifier\":\"a\"]",
        "{\"identifier\":1,\"text\":",
    ] {
        assert_eq!(router.post(malformed).await.status(), 400, "{malformed}");
    }
    let unfit = [
        "{}",
        "null",
        "\"a\"",
        "{\"identifier\":\"a\"}",
        "{\"text\":\"a\"}",
        "{\"identifier\":1,\"text\":\"a\"}",
    ];
    for unfit in unfit {
        let reply = router.post(unfit).await;
        assert_eq!(reply.status(), 422, "{unfit}");
        let told = body(reply).await["error"]["message"].to_string();
        assert!(!told.contains("struct"), "in words of this program: {told}");
    }
    let untyped = hyper::Request::post("/log")
        .body(Full::from(message("a", "t")))
        .unwrap();
    assert_eq!(router.ask(untyped).await.status(), 415);
    assert!(router.store.entries.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_array_is_stored_in_one_call_and_each_item_has_its_status() {
    let router = Router::new(MemoryStore::default());
    let reply = router
        .post(format!(" \n{}", array(&[("a", "1"), ("b", "2"), ("c", "3")])))
        .await;
    assert_eq!(reply.status(), 201);
    let expected = json!([
        { "identifier": "a", "status": 201 }, { "identifier": "b", "status": 201 }, { "identifier": "c", "status": 201 },
    ]);
    assert_eq!(body(reply).await, expected);
    assert_eq!(*router.store.appends.lock().unwrap(), [3]);
    assert_eq!(body(router.post("[]").await).await, json!([]));
}

#[tokio::test]
async fn a_bad_item_of_an_array_fails_alone() {
    let router = Router::new(MemoryStore::default());
    router.store.fail("away");
    router.post(message("known", "first")).await;
    let items = [
        message("good", "t"),
        "{\"identifier\":\"no text\"}".to_owned(),
        "{\"text\":\"no identifier\"}".to_owned(),
        "[\"an array\",\"t\"]".to_owned(),
        "7".to_owned(),
        "{\"identifier\":\"surrogate\",\"text\":\"\\ud800\"}".to_owned(),
        "{\"identifier\":\"twice\",\"text\":\"a\",\"text\":\"b\"}".to_owned(),
        format!(
            "{{\"identifier\":\"deep\",\"more\":{}{}}}",
            "[".repeat(1000),
            "]".repeat(1000)
        ),
        "{\"identifier\":\"a\",\"identifier\":\"b\",\"text\":\"t\"}".to_owned(),
        message("", "t"),
        message("away", "t"),
        message("known", "second"),
        message("last", "t"),
    ];
    let reply = router.post_first(&format!("[{}]", items.join(","))).await;
    assert_eq!(reply.status(), 207);
    let expected = json!([
        { "identifier": "good", "status": 201 },
        { "identifier": "no text", "status": 422 },
        { "identifier": null, "status": 422 },
        { "identifier": null, "status": 422 },
        { "identifier": null, "status": 422 },
        { "identifier": "surrogate", "status": 422 },
        { "identifier": "twice", "status": 422 },
        { "identifier": "deep", "status": 422 },
        { "identifier": null, "status": 422 },
        { "identifier": "", "status": 422 },
        { "identifier": "away", "status": 503 },
        { "identifier": "known", "status": 409 },
        { "identifier": "last", "status": 201 },
    ]);
    assert_eq!(body(reply).await, expected);
    assert_eq!(router.text("last").as_deref(), Some("t"));
}

#[tokio::test]
async fn an_array_that_fails_as_a_whole_for_the_store_is_a_plain_503() {
    let router = Router::new(MemoryStore::default());
    router.store.fail("*");
    let reply = router.post(array(&[("a", "1"), ("b", "2")])).await;
    assert_eq!(
        (reply.status(), &reply.headers()[RETRY_AFTER]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    let message = body(reply).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("a store in memory: connection refused"), "{message}");

    let reply = router.post("[{},[]]").await;
    assert_eq!(reply.status(), 207, "nothing of it was for the store");
}

#[tokio::test]
async fn an_array_has_up_to_1024_messages() {
    let router = Router::new(MemoryStore::default());
    let names: Vec<_> = (0..1025).map(|n| n.to_string()).collect();
    let messages: Vec<_> = names.iter().map(|name| (name.as_str(), "t")).collect();
    assert_eq!(router.post(array(&messages[..1024])).await.status(), 201);
    assert_eq!(router.post(array(&messages)).await.status(), 413);
    let flood = format!("[{}0]", "0,".repeat(1_000_000));
    assert_eq!(router.post(flood).await.status(), 413);
    let broken = format!("[{}0", "0,".repeat(2000));
    assert_eq!(router.post(broken).await.status(), 400);
}

#[tokio::test]
async fn of_one_identifier_in_an_array_the_later_wins() {
    let router = Router::new(MemoryStore::default());
    let reply = router
        .post(array(&[("a", "1"), ("b", "1"), ("a", "2"), ("a", "3"), ("b", "2")]))
        .await;
    assert_eq!(reply.status(), 201);
    assert_eq!(
        (router.text("a").as_deref(), router.text("b").as_deref()),
        (Some("3"), Some("2"))
    );
    assert_eq!(*router.store.appends.lock().unwrap(), [2, 2, 1]);
}

#[tokio::test]
async fn of_one_identifier_in_an_array_the_first_stays_with_if_none_match() {
    let router = Router::new(MemoryStore::default());
    let reply = router.post_first(&array(&[("a", "1"), ("a", "2"), ("a", "1")])).await;
    assert_eq!(reply.status(), 207);
    let statuses: Vec<_> = body(reply)
        .await
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["status"].clone())
        .collect();
    assert_eq!(statuses, [201, 409, 201]);
    assert_eq!(router.text("a").as_deref(), Some("1"));
}

#[tokio::test]
async fn the_log_is_listed_as_texts_or_in_full() {
    let router = Router::new(MemoryStore::default());
    assert_eq!(body(router.get("/logs").await).await, json!([]));
    router.post(array(&[("a", "1"), ("b", ""), ("c", "\u{1F600}\"")])).await;
    assert_eq!(body(router.get("/logs").await).await, json!(["1", "", "\u{1F600}\""]));
    assert_eq!(
        body(router.get("/logs?full=false&other=1").await).await,
        json!(["1", "", "\u{1F600}\""])
    );
    let full = body(router.get("/logs?full=true").await).await;
    assert_eq!(full[2], json!({ "identifier": "c", "text": "\u{1F600}\"" }));
    for target in ["/logs?full=yes", "/logs?full=%zz", "/logs?full=true&full=true"] {
        assert_eq!(router.get(target).await.status(), 400, "{target}");
    }
}

#[tokio::test]
async fn a_malformed_query_is_a_400_and_nothing_is_done() {
    let router = Router::new(MemoryStore::default());
    router.post(message("a", "1")).await;
    let delete = hyper::Request::delete("/logs?really=%zz").body(Full::default());
    assert_eq!(router.ask(delete.unwrap()).await.status(), 400);
    let post = hyper::Request::post("/log?x=%FF").header(CONTENT_TYPE, "application/json");
    let post = post.body(Full::from(message("b", "2"))).unwrap();
    assert_eq!(router.ask(post).await.status(), 400);
    assert_eq!(body(router.get("/logs").await).await, json!(["1"]));
}

#[tokio::test]
async fn entries_that_are_no_messages_are_counted_in_health() {
    let router = Router::new(MemoryStore {
        foreign: 3,
        ..MemoryStore::default()
    });
    assert_eq!(router.logging.details()["skipped_entries"], 0);
    body(router.get("/logs").await).await;
    assert_eq!(router.logging.details()["skipped_entries"], 3);
}

#[tokio::test]
async fn the_log_is_cleared() {
    let router = Router::new(MemoryStore::default());
    router.post(message("a", "1")).await;
    let cleared = router
        .ask(hyper::Request::delete("/logs").body(Full::default()).unwrap())
        .await;
    assert_eq!((cleared.status(), body(cleared).await), (StatusCode::OK, json!({})));
    assert_eq!(body(router.get("/logs").await).await, json!([]));
}

#[tokio::test]
async fn a_store_that_is_away_is_a_503_and_shows_in_health() {
    let router = Router::new(MemoryStore::default());
    assert_eq!(router.logging.details()["log_store"]["reachable"], true);
    router.store.fail("*");
    assert_eq!(router.get("/logs").await.status(), 503);
    assert_eq!(router.post(message("a", "1")).await.status(), 503);
    let clearing = router.ask(hyper::Request::delete("/logs").body(Full::default()).unwrap());
    assert_eq!(clearing.await.status(), 503);
    let details = router.logging.details();
    assert_eq!(details["log_store"]["reachable"], false);
    assert_eq!(details["log_store"]["engine"], "a store in memory");
    assert_eq!(details["log_store"]["reason"], "connection refused");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_a_503_within_5_seconds() {
    let router = Router::new(MemoryStore {
        hangs: true,
        ..MemoryStore::default()
    });
    let start = tokio::time::Instant::now();
    let twice = array(&[("a", "1"), ("a", "2")]);
    let clear = router.ask(hyper::Request::delete("/logs").body(Full::default()).unwrap());
    let asked = async {
        tokio::join!(
            router.get("/logs"),
            router.post(message("a", "1")),
            router.post(twice),
            clear
        )
    };
    let (list, single, many, clear) = asked.await;
    assert!(start.elapsed() < Duration::from_secs(5));
    for reply in [list, single, many, clear] {
        assert_eq!(reply.status(), 503);
        assert!(
            body(reply).await["error"]["message"]
                .as_str()
                .unwrap()
                .contains("no answer within 4.3s")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_known_to_be_away_is_a_503_at_once_so_that_who_asked_hears_why() {
    let router = Router::new(MemoryStore {
        hangs: true,
        ..MemoryStore::default()
    });
    router.store.fail("*");
    let start = tokio::time::Instant::now();
    let clear = hyper::Request::delete("/logs").body(Full::default()).unwrap();
    let replies = [
        router.get("/logs").await,
        router.post(message("a", "1")).await,
        router.post(array(&[("a", "1"), ("b", "2")])).await,
        router.ask(clear).await,
    ];
    assert!(start.elapsed().is_zero(), "{:?}", start.elapsed());
    for reply in replies {
        assert_eq!(reply.status(), 503);
        let said = body(reply).await["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(said, "engine away: a store in memory: connection refused");
    }
    assert_eq!(
        router.post("{").await.status(),
        400,
        "what is malformed is so all the same"
    );
}

#[tokio::test]
async fn other_paths_are_a_404_and_other_methods_a_405_that_names_those_there_are() {
    let router = Router::new(MemoryStore::default());
    for target in ["/", "/log/", "/logs/a", "/LOGS", "/messages"] {
        assert_eq!(router.get(target).await.status(), 404, "{target}");
    }
    let refused = router.get("/log").await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()[ALLOW]),
        (405, &"POST".parse().unwrap())
    );
    let refused = router
        .ask(hyper::Request::put("/logs").body(Full::default()).unwrap())
        .await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()[ALLOW]),
        (405, &"GET, HEAD, DELETE".parse().unwrap())
    );
}
