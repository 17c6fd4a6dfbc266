//! Requests as bytes: what is no request, where one ends, and what comes next on a connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{JSON, get, post, post_chunks, post_json};
use crate::support::fleet::{Fleet, request};
use crate::support::place::Kind;
use crate::support::raw::RawClient;
use crate::support::table::{Expected, Row, Table, bare, error, json_holds, json_is, nothing, row};

on_both_engines! {
    what_is_no_request_what_follows_one_and_what_stops_half_way,
}

/// Longer than a server waits for the rest of a head, which is 10 s.
const HEAD_ENDED_WITHIN: Duration = Duration::from_secs(15);

fn created(text: &'static str) -> Expected {
    json_holds(201, move |body| body["text"] == text)
}

fn empty() -> Expected {
    json_is(200, json!([]))
}

/// What the HTTP library refuses before a handler sees it has the bare status.
fn no_requests(path: &str) -> Vec<Row> {
    let is = |status: u16, what: &str| format!("refused before a handler sees it has the bare status {status}: {what}");
    let many = "x: y\r\n".repeat(101);
    let headed = |headers: &str| format!("GET {path} HTTP/1.1\r\n{headers}\r\n");
    [
        (400, "no request line", "no request at all\r\n\r\n".to_owned()),
        (400, "TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned()),
        (400, "a version nobody knows", format!("GET {path} HTTP/9.9\r\n\r\n")),
        (
            400,
            "a space in the target",
            format!("GET {path}?a=b c HTTP/1.1\r\n\r\n"),
        ),
        (400, "NUL in the target", format!("GET {path}?a=\0 HTTP/1.1\r\n\r\n")),
        (400, "a header without a colon", headed("no colon\r\n")),
        (400, "a folded header", headed("a: b\r\n c\r\n")),
        (400, "two lengths", headed("content-length: 2\r\ncontent-length: 3\r\n")),
        (400, "a length that is no number", headed("content-length: +2\r\n")),
        (400, "a coding nobody knows", headed("transfer-encoding: gzip\r\n")),
        (
            414,
            "a target of 65,535 bytes",
            format!("GET {path}?{} HTTP/1.1\r\n\r\n", "x".repeat(65_534 - path.len())),
        ),
        (
            414,
            "a target of 300,000 bytes",
            format!("GET {path}?{} HTTP/1.1\r\n\r\n", "x".repeat(300_000)),
        ),
        (431, "101 headers", headed(&many)),
        (
            431,
            "a header of 300,000 bytes",
            headed(&format!("x: {}\r\n", "y".repeat(300_000))),
        ),
        (
            431,
            "a header of 500,000 bytes",
            headed(&format!("x: {}\r\n", "y".repeat(500_000))),
        ),
    ]
    .into_iter()
    .map(|(status, what, request)| row(is(status, what), request, bare(status).closes()))
    .collect()
}

/// Requests that another one follows, which the first frames to be none.
fn smuggled() -> Vec<Row> {
    let hidden = "POST /message?text=smuggled HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n";
    let body = "{\"text\":\"framed\"}";
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let mut rows = Vec::new();
    for length in [0, 4, chunks.len(), chunks.len() + hidden.len(), 100_000] {
        for heads in [
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
            format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        ] {
            let name = format!(
                "Content-Length beside Transfer-Encoding: framed by Transfer-Encoding, answered, the connection closed, what \
                 follows never read as a request: {}",
                heads.replace("\r\n", " ")
            );
            let request = format!("POST /message HTTP/1.1\r\nHost: test\r\n{JSON}{heads}\r\n{chunks}{hidden}");
            rows.push(row(
                name,
                request,
                created("framed").header("connection", "close").closes(),
            ));
        }
    }
    let body_is = |what: &str| format!("a body is never read as a request: {what}");
    let broken =
        format!("POST /message HTTP/1.1\r\nHost: test\r\n{JSON}Transfer-Encoding: chunked\r\n\r\nzz\r\n{hidden}");
    rows.extend([
        row(
            body_is("of a GET"),
            request("GET", "/messages/", "", hidden),
            error(404, ""),
        ),
        row(
            body_is("of a 405"),
            request("PUT", "/message", "", hidden),
            error(405, "POST"),
        ),
        row(
            body_is("of a 415"),
            request("POST", "/message", "", hidden),
            error(415, ""),
        ),
        row(
            body_is("of a health check"),
            request("GET", "/health", "", hidden),
            json_holds(200, |body| body["status"] == "ready"),
        ),
        row(
            body_is("malformed chunks"),
            broken,
            error(400, "the body could not be read").closes(),
        ),
    ]);
    rows
}

fn connections() -> Vec<Row> {
    let json = |text: &str| post_json("/message", "", &format!("{{\"text\":\"{text}\"}}"));
    let pipelined = [
        json("one"),
        get("/nowhere"),
        post("/message?text=two", ""),
        post_chunks("/message", "{\"text\":\"three\"}", 5),
    ];
    let expects = |length: usize| {
        format!(
            "POST /message HTTP/1.1\r\nHost: test\r\n{JSON}Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let cut = |headers: &str, body: &str| format!("POST /message HTTP/1.1\r\nHost: test\r\n{JSON}{headers}\r\n{body}");
    vec![
        row(
            "requests of one connection are answered in their order",
            pipelined.concat(),
            created("one")
                .then(error(404, ""))
                .then(created("two"))
                .then(created("three")),
        ),
        row(
            "an error leaves the connection to the next request",
            [post_json("/message", "", "{"), json("after an error")].concat(),
            error(400, "").then(created("after an error")),
        ),
        row(
            "Expect: 100-continue is answered before the body comes",
            expects(15),
            bare(100)
                .then_send("{\"text\":\"asked\"}"[..15].to_owned())
                .then(error(400, "no JSON")),
        ),
        row(
            "Expect: 100-continue, and then the body",
            expects(16),
            bare(100).then_send("{\"text\":\"asked\"}").then(created("asked")),
        ),
        row(
            "Expect: 100-continue of what is too large is refused without the body",
            expects(8_000_000),
            error(413, "7340032").closes(),
        ),
        row(
            "Connection: close closes after the answer",
            post("/message?text=last", "Connection: close\r\n"),
            created("last").header("connection", "close").closes(),
        ),
        row(
            "HTTP/1.0: an answer of known length, and the end",
            "POST /message?text=old HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
            created("old").closes(),
        ),
        row(
            "HTTP/1.0: a list in no chunks",
            "GET /messages HTTP/1.0\r\n\r\n",
            json_holds(200, |body| body[0].is_array() && body[1].is_array())
                .without("transfer-encoding")
                .closes(),
        ),
        row(
            "a body that is cut short is not acted on: by its length",
            cut("Content-Length: 100\r\n", "{\"text\":\"cut\"}"),
            error(400, "the body could not be read").closes(),
        )
        .half_closes(),
        row(
            "a body that is cut short is not acted on: by its chunks",
            cut("Transfer-Encoding: chunked\r\n", "e\r\n{\"text\":\"cut\"}\r\n"),
            error(400, "the body could not be read").closes(),
        )
        .half_closes(),
        row(
            "a head that is cut short is no request",
            "POST /message?text=cut HTTP/1.1\r\nHost: te",
            nothing(),
        )
        .half_closes(),
    ]
}

/// Where a path takes GET it takes HEAD: the same head, and no body. That of a list in chunks may leave out that it is.
async fn is_head_like_get(at: SocketAddr, path: &str) -> Result<(), String> {
    let mut heads = Vec::new();
    for method in ["GET", "HEAD"] {
        let mut client = RawClient::connect(at).await;
        client.send(request(method, path, "Connection: close\r\n", "")).await;
        let mut head = client.head().await;
        head.headers
            .retain(|(name, _)| !["date", "transfer-encoding"].contains(&name.as_str()));
        head.headers.sort();
        heads.push((head.status, head.headers));
        let body = client.rest().await;
        if body.is_empty() == (method == "GET") {
            return Err(format!("{method} {path} came with {} bytes of body", body.len()));
        }
    }
    if heads[0] == heads[1] {
        return Ok(());
    }
    Err(format!("{path}: {heads:?}"))
}

/// A client that sends half of a request and then nothing is not waited for: the connection ends.
async fn silence(at: SocketAddr) -> Result<(), String> {
    let mut client = RawClient::connect(at).await;
    let began = Instant::now();
    client.send("POST /message?text=silent HTTP/1.1\r\nHost: te").await;
    let ended = tokio::time::timeout(HEAD_ENDED_WITHIN, client.0.readable()).await;
    match ended {
        Ok(_) if client.rest().await.is_empty() => Ok(()),
        Ok(_) => Err("it was answered".to_owned()),
        Err(_) => Err(format!("still open after {:?}", began.elapsed())),
    }
}

async fn what_is_no_request_what_follows_one_and_what_stops_half_way(kind: Kind) {
    let fleet = Fleet::start_at(kind, 1, 1, 1).await;
    let all = [&fleet.facades[0], &fleet.logging[0], &fleet.messages[0]].map(|svc| svc.address());
    let silent = tokio::spawn(silence(all[0]));
    let mut table = Table::default();
    for (at, (role, path)) in
        all.into_iter()
            .zip([("facade", "/messages"), ("logging", "/logs"), ("messages", "/messages")])
    {
        table.ask(&format!("{role}: no requests"), at, no_requests(path)).await;
    }
    for (at, paths) in all.into_iter().zip([
        ["/messages", "/message", "/health", "/nowhere"],
        ["/logs?full=true", "/log", "/health", "/logs?full=1"],
        ["/messages?full=true", "/messages?a=%", "/health", "/nowhere"],
    ]) {
        for path in paths {
            let name = format!("HEAD where GET is taken: the same head without a body: {at} {path}");
            table.hold(&name, is_head_like_get(at, path).await);
        }
    }
    let listed = || vec![row("the log is as it was", get("/logs"), empty())];
    table.ask("logging: nothing of it was done", all[1], listed()).await;
    table.ask("facade: what follows a request", all[0], smuggled()).await;
    table.ask("facade: connections", all[0], connections()).await;
    table.hold(
        "a half-sent request then silence ends with a deadline",
        silent.await.unwrap(),
    );
    table.end();

    let texts = ["one", "two", "three", "after an error", "asked", "last", "old"].map(str::to_owned);
    // Framed once by each row.
    let framed = vec!["framed".to_owned(); 10];
    fleet.wait_lists(&[&texts[..], &framed].concat()).await;
}
