//! The HTTP server, on raw sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt, stream};
use hyper::StatusCode;
use serde_json::json;
use svc::engine::Unavailable;
use svc::http::health::Health;
use svc::http::reply::{self, HttpError, Reply};
use svc::http::request::Request;
use svc::http::server::{Handler, Limits, listen, serve};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::raw::{Answer, DEADLINE, LAST_CHUNK, RawClient, count_answers};

const MAX_BODY: usize = 1000;

/// Paths that do what a test needs of a handler.
struct Paths {
    /// How many requests to `/gate` have come in.
    entered: AtomicUsize,
    /// A permit lets one of them out.
    gate: Semaphore,
}

impl Handler for Paths {
    async fn handle(&self, mut request: Request) -> Result<Reply, HttpError> {
        match request.path() {
            "/echo" => {
                let body = request.bytes(MAX_BODY).await?;
                Ok(reply::json(StatusCode::OK, &String::from_utf8_lossy(&body)))
            }
            "/gate" => {
                self.entered.fetch_add(1, Ordering::SeqCst);
                self.gate.acquire().await.unwrap().forget();
                Ok(reply::json(StatusCode::OK, &"x".repeat(100_000)))
            }
            "/hold" => {
                request.bytes(MAX_BODY).await?;
                self.entered.fetch_add(1, Ordering::SeqCst);
                self.gate.acquire().await.unwrap().forget();
                Ok(reply::json(StatusCode::OK, &"held"))
            }
            "/hang" => std::future::pending().await,
            "/panic" => panic!("on purpose"),
            "/list" => reply::json_array(stream::iter([Ok(vec!["a"]), Ok(vec!["b"])])).await,
            "/endless" => reply::json_array(stream::repeat_with(|| Ok(vec!["x".repeat(100_000)]))).await,
            "/away" => reply::json_array(stream::iter([Err::<Vec<String>, _>(away())])).await,
            "/breaks" => {
                let pages = [
                    Ok(vec!["x".repeat(100_000)]),
                    Ok(vec!["y".repeat(100_000)]),
                    Err(away()),
                ];
                // The pages come one by one, as they do from an engine.
                let pages = stream::iter(pages).then(|page| async { tokio::task::yield_now().map(|()| page).await });
                reply::json_array(pages).await
            }
            "/panics-later" => {
                let pages = stream::iter(0..3).map(|page| match page {
                    0 | 1 => Ok(vec!["x".repeat(100_000)]),
                    _ => panic!("on purpose"),
                });
                reply::json_array(pages).await
            }
            _ => Err(HttpError::not_found()),
        }
    }
}

fn away() -> Unavailable {
    Unavailable {
        engine: "the log store".to_owned(),
        cause: anyhow::anyhow!("connection refused"),
    }
}

/// A server on a free port, stopped with the test.
struct Server {
    address: SocketAddr,
    paths: Arc<Paths>,
    health: Arc<Health>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Server {
        let listener = listen("test", "127.0.0.1", 0).await.unwrap();
        Server::start_on(listener, limits)
    }

    fn start_on(listener: TcpListener, limits: Limits) -> Server {
        let address = listener.local_addr().unwrap();
        let paths = Arc::new(Paths {
            entered: AtomicUsize::new(0),
            gate: Semaphore::new(0),
        });
        let health = Health::starting("test", "waiting for the test");
        health.ready();
        let (stop, stopped) = oneshot::channel();
        let served = serve(listener, paths.clone(), health.clone(), limits, stopped.map(drop));
        Server {
            address,
            paths,
            health,
            stop: Some(stop),
            ended: tokio::spawn(served),
        }
    }

    async fn client(&self) -> RawClient {
        RawClient::connect(self.address).await
    }

    async fn get(&self, path: &str) -> Answer {
        let mut client = self.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        client.answer().await
    }

    async fn entered(&self, count: usize) {
        let entered = async {
            while self.paths.entered.load(Ordering::SeqCst) < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, entered).await.expect("the requests did not come in");
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn ended(self) {
        timeout(DEADLINE, self.ended)
            .await
            .expect("the server does not end")
            .unwrap();
    }
}

/// Limits under which nothing ends by itself within a test.
fn patient() -> Limits {
    Limits {
        connections: 200,
        requests: 100,
        grace: DEADLINE * 2,
        ..Limits::default()
    }
}

const SHORT: Duration = Duration::from_millis(300);

/// A time that is far longer than [`SHORT`], and far shorter than the default of any limit.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn requests_of_one_connection_are_answered_in_their_order() {
    let server = Server::start(patient()).await;
    let mut client = server.client().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\noneGET /list HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.json(), "one");
    assert_eq!(client.answer().await.json(), json!(["a", "b"]));
    assert_eq!(client.answer().await.json(), "two");
}

#[tokio::test]
async fn a_head_of_a_get_has_no_body() {
    let server = Server::start(patient()).await;
    let mut client = server.client().await;
    client
        .send("HEAD /list HTTP/1.1\r\nhost: a\r\n\r\nHEAD /away HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    let all = String::from_utf8(client.rest().await).unwrap();
    let heads: Vec<_> = all.split("\r\n\r\n").collect();
    assert_eq!(heads.len(), 3, "{all}");
    assert!(heads[0].starts_with("HTTP/1.1 200 "), "{all}");
    assert!(heads[1].starts_with("HTTP/1.1 503 "), "{all}");
    assert_eq!(heads[2], "");
}

#[tokio::test]
async fn health_says_status_role_and_version_and_takes_get_and_head_only() {
    let server = Server::start(patient()).await;
    let healthy = server.get("/health").await;
    assert_eq!(
        (healthy.status, healthy.header("content-type")),
        (200, Some("application/json"))
    );
    let expected = json!({ "status": "ready", "role": "test", "version": env!("CARGO_PKG_VERSION") });
    assert_eq!(healthy.json(), expected);

    let mut client = server.client().await;
    client
        .send("POST /health HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        .await;
    let refused = client.answer().await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn a_process_that_drains_says_so_and_serves_each_request_as_the_last_of_its_connection() {
    let server = Server::start(patient()).await;
    server.health.draining();
    let health = server.get("/health").await;
    assert_eq!((health.status, health.header("retry-after")), (503, Some("1")));
    assert_eq!(health.json()["error"]["code"], "draining");

    let mut client = server.client().await;
    client.send("GET /list HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let served = client.answer().await;
    assert_eq!((served.status, served.header("connection")), (200, Some("close")));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_ends_the_connection() {
    let server = Server::start(Limits {
        head_read: SHORT,
        ..patient()
    })
    .await;
    let start = Instant::now();
    let mut client = server.client().await;
    client.send("GET /list HTTP/1.1\r\nhost: ").await;
    assert_eq!(client.rest().await, b"");
    assert!(start.elapsed() >= SHORT && start.elapsed() < SOON);

    let mut silent = server.client().await;
    assert_eq!(silent.rest().await, b"");
}

#[tokio::test]
async fn a_second_head_that_comes_too_slowly_ends_the_connection_too() {
    let server = Server::start(Limits {
        head_read: SHORT,
        ..patient()
    })
    .await;
    let mut client = server.client().await;
    client.send("GET /list HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    // Between two requests the time for a head does not run.
    tokio::time::sleep(SHORT * 2).await;
    client.send("GET /list HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    client.send("GET /l").await;
    let start = Instant::now();
    assert_eq!(client.rest().await, b"");
    assert!(start.elapsed() < SOON);
}

#[tokio::test]
async fn a_connection_that_is_idle_for_too_long_is_closed() {
    let server = Server::start(Limits {
        idle: SHORT,
        ..patient()
    })
    .await;
    let mut client = server.client().await;
    client.send("GET /list HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    let start = Instant::now();
    assert_eq!(client.rest().await, b"");
    assert!(start.elapsed() < SOON);
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_a_408_and_the_end_of_the_connection() {
    let server = Server::start(Limits {
        body_read: SHORT,
        ..patient()
    })
    .await;
    let mut client = server.client().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n123")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_body_over_the_limit_is_a_413_also_for_a_client_that_sends_all_of_it_before_it_reads() {
    let server = Server::start(patient()).await;
    let body = vec![b'x'; 4_000_000];
    for head in [
        "content-length: 4000000\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n3d0900\r\n",
    ] {
        let mut client = server.client().await;
        client.send(format!("POST /echo HTTP/1.1\r\nhost: a\r\n{head}")).await;
        // Would fail if the server closed with bytes of it unread.
        client.send(&body).await;
        let all = client.rest().await;
        assert!(
            all.starts_with(b"HTTP/1.1 413 "),
            "{head}: {}",
            String::from_utf8_lossy(&all)
        );
        assert_eq!(count_answers(&all), 1);
    }
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_refused_without_sending() {
    let server = Server::start(patient()).await;
    let mut client = server.client().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4000\r\nexpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 413);

    let mut client = server.client().await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 100);
    client.send("ok").await;
    assert_eq!(client.answer().await.json(), "ok");
}

#[tokio::test]
async fn content_length_beside_transfer_encoding_is_framed_by_chunks_answered_and_closed() {
    let server = Server::start(patient()).await;
    let smuggled = "GET /list HTTP/1.1\r\nhost: a\r\n\r\n";
    for (length, heads) in [
        ("6", ["content-length", "transfer-encoding"]),
        ("6", ["transfer-encoding", "content-length"]),
        ("400", ["content-length", "transfer-encoding"]),
        ("400", ["transfer-encoding", "content-length"]),
    ] {
        let value = |name: &str| if name == "content-length" { length } else { "chunked" };
        let heads: String = heads
            .iter()
            .map(|name| format!("{name}: {}\r\n", value(name)))
            .collect();
        let mut client = server.client().await;
        client
            .send(format!(
                "POST /echo HTTP/1.1\r\nhost: a\r\n{heads}\r\n2\r\nok\r\n0\r\n\r\n{smuggled}"
            ))
            .await;
        let all = client.rest().await;
        let text = String::from_utf8_lossy(&all);
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.ends_with("\"ok\""),
            "{heads}: {text}"
        );
        assert!(
            text.to_ascii_lowercase().contains("connection: close"),
            "{heads}: {text}"
        );
        assert_eq!(count_answers(&all), 1, "{heads}: {text}");
    }
}

#[tokio::test]
async fn ambiguous_or_malformed_framing_is_refused_and_closed() {
    let server = Server::start(patient()).await;
    let framings = [
        "content-length: 2\r\ncontent-length: 3",
        "content-length: +2",
        "content-length: 2, 3",
        "content-length: -1",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding : chunked",
        "content-length: 2\r\n folded: 1",
    ];
    for framing in framings {
        let mut client = server.client().await;
        client
            .send(format!(
                "POST /echo HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\nokGET /list HTTP/1.1\r\n\r\n"
            ))
            .await;
        let all = client.rest().await;
        assert!(
            all.starts_with(b"HTTP/1.1 400 "),
            "{framing}: {}",
            String::from_utf8_lossy(&all)
        );
        assert_eq!(count_answers(&all), 1, "{framing}");
    }
}

#[tokio::test]
async fn malformed_chunks_are_a_400_and_the_end_of_the_connection() {
    let server = Server::start(patient()).await;
    for chunks in [
        "zz\r\nok\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nok",
        "-2\r\nok\r\n0\r\n\r\n",
        "2\r\nokay\r\n0\r\n\r\n",
    ] {
        let mut client = server.client().await;
        client
            .send(format!(
                "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
            ))
            .await;
        let all = client.rest().await;
        assert!(
            all.starts_with(b"HTTP/1.1 400 "),
            "{chunks}: {}",
            String::from_utf8_lossy(&all)
        );
        assert_eq!(count_answers(&all), 1, "{chunks}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_the_bare_status() {
    let server = Server::start(patient()).await;
    let many = "x: y\r\n".repeat(101);
    let cases = [
        (400, "no request at all\r\n\r\n".to_owned()),
        (400, "GET /list HTTP/9.9\r\n\r\n".to_owned()),
        (400, "GET /li\0st HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET /list HTTP/1.1\r\nno colon\r\n\r\n".to_owned()),
        (414, format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(65_534))),
        (414, format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(300_000))),
        (431, format!("GET /list HTTP/1.1\r\n{many}\r\n")),
        (431, format!("GET /list HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(262_140))),
        (
            431,
            format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(300_000)),
        ),
        (431, format!("GET /list HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(500_000))),
    ];
    for (status, request) in cases {
        let shown = request.chars().take(50).collect::<String>();
        println!("{shown:?}, {} bytes", request.len());
        let mut client = server.client().await;
        client.send(&request).await;
        let all = client.rest().await;
        assert!(
            all.starts_with(format!("HTTP/1.1 {status} ").as_bytes()),
            "{shown}: {}",
            String::from_utf8_lossy(&all)
        );
        assert!(all.ends_with(b"\r\n\r\n"), "{shown}");
    }
}

#[tokio::test]
async fn a_target_of_65534_bytes_reaches_the_handler() {
    let server = Server::start(patient()).await;
    let answer = server.get(&format!("/{}", "x".repeat(65_533))).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["error"]["code"], "not_found");
}

#[tokio::test]
async fn headers_of_262144_bytes_reach_the_handler() {
    let server = Server::start(patient()).await;
    let mut client = server.client().await;
    let value = "y".repeat(262_144 - "x: \r\n".len());
    client.send(format!("GET /list HTTP/1.1\r\nx: {value}\r\n\r\n")).await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_handler_that_fails_is_a_500_and_the_connection_goes_on() {
    let server = Server::start(patient()).await;
    let mut client = server.client().await;
    client
        .send("GET /panic HTTP/1.1\r\nhost: a\r\n\r\nGET /list HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let failed = client.answer().await;
    assert_eq!(
        (failed.status, &failed.json()["error"]["code"]),
        (500, &json!("internal"))
    );
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_handler_that_hangs_is_a_503() {
    let server = Server::start(Limits {
        handler: SHORT,
        ..patient()
    })
    .await;
    let answer = server.get("/hang").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
}

#[tokio::test]
async fn an_engine_that_is_away_from_the_first_page_on_is_a_503() {
    let server = Server::start(patient()).await;
    let answer = server.get("/away").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("the log store: connection refused")
    );
}

#[tokio::test]
async fn an_answer_that_cannot_be_finished_ends_without_its_last_chunk() {
    let server = Server::start(patient()).await;
    for path in ["/breaks", "/panics-later"] {
        let mut client = server.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let all = client.rest().await;
        assert!(
            all.starts_with(b"HTTP/1.1 200 "),
            "{path}: {}",
            String::from_utf8_lossy(&all[..all.len().min(200)])
        );
        assert!(
            !all.ends_with(LAST_CHUNK) && !all.windows(2).any(|pair| pair == b"\"]"),
            "{path}"
        );
    }
    assert_eq!(server.get("/list").await.status, 200);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    let mut server = Server::start(Limits {
        write_stall: SHORT,
        ..patient()
    })
    .await;
    let mut client = server.client().await;
    client.send("GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    // What the kernel holds for a client that does not read is soon full; then the server waits, and ends it.
    server.stop();
    let address = server.address;
    server.ended().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    assert!(!client.rest().await.ends_with(LAST_CHUNK));
}

#[tokio::test]
async fn more_requests_than_there_are_places_are_a_503_and_health_still_answers() {
    let server = Server::start(Limits {
        requests: 2,
        ..patient()
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = server.client().await;
        client.send("GET /gate HTTP/1.1\r\nhost: a\r\n\r\n").await;
        held.push(client);
    }
    server.entered(2).await;
    let refused = server.get("/list").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(server.get("/health").await.status, 200);

    server.paths.gate.add_permits(2);
    for client in &mut held {
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(server.get("/list").await.status, 200);
}

#[tokio::test]
async fn bodies_that_exceed_their_room_are_a_503_until_those_in_work_are_done() {
    let server = Server::start(Limits {
        body_bytes: 1500,
        ..patient()
    })
    .await;
    let post = |path: &str| {
        let body = "x".repeat(MAX_BODY);
        format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {MAX_BODY}\r\n\r\n{body}")
    };
    let (mut holder, mut other) = (server.client().await, server.client().await);
    holder.send(post("/hold")).await;
    server.entered(1).await;
    other.send(post("/echo")).await;
    let refused = other.answer().await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(server.get("/list").await.status, 200, "it has no body");

    server.paths.gate.add_permits(1);
    assert_eq!(holder.answer().await.status, 200);
    let mut other = server.client().await;
    other.send(post("/echo")).await;
    assert_eq!(other.answer().await.status, 200);
}

#[tokio::test]
async fn more_connections_than_there_are_slots_wait_until_one_is_free() {
    let server = Server::start(Limits {
        connections: 2,
        ..patient()
    })
    .await;
    let mut first = server.client().await;
    let mut second = server.client().await;
    for client in [&mut first, &mut second] {
        client.send("GET /list HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
    }
    let mut third = server.client().await;
    third.send("GET /list HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(
        timeout(SHORT, third.0.readable()).await.is_err(),
        "a connection too many was served"
    );
    drop(first);
    assert_eq!(third.answer().await.status, 200);
}

#[tokio::test]
async fn clients_that_connect_all_at_once_are_all_taken_though_nobody_accepts_them_yet() {
    let listener = listen("test", "127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    // Whoever finds no room is not answered at all.
    let clients = join_all((0..500).map(|_| RawClient::connect(address))).await;
    let _server = Server::start_on(listener, patient());
    for mut client in clients {
        client.send("GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
    }
}

#[tokio::test]
async fn what_is_in_flight_at_the_stop_is_answered_in_full_and_closed() {
    let mut server = Server::start(patient()).await;
    let mut idle = server.client().await;
    idle.send("GET /list HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 200);
    let mut fresh = server.client().await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = server.client().await;
        client.send("GET /gate HTTP/1.1\r\nhost: a\r\n\r\n").await;
        clients.push(client);
    }
    server.entered(50).await;
    server.stop();
    assert_eq!(idle.rest().await, b"");
    assert_eq!(fresh.rest().await, b"");
    assert!(
        tokio::net::TcpStream::connect(server.address).await.is_err(),
        "the listener is still open"
    );

    server.paths.gate.add_permits(50);
    for client in &mut clients {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.len()), (200, 100_002));
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(client.rest().await, b"");
    }
    server.ended().await;
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_is_cut() {
    let mut server = Server::start(Limits {
        grace: SHORT,
        ..patient()
    })
    .await;
    let mut client = server.client().await;
    client.send("GET /gate HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.entered(1).await;
    server.stop();
    assert_eq!(client.rest().await, b"");
    server.ended().await;
}
