use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;
use crate::http::scripted::{Act, LAST_CHUNK, Peer, chunks, whole_in_chunks};

const LIMIT: Duration = Duration::from_secs(10);
const MOST: usize = 1024;

fn post(path: &'static str, body: &'static str) -> Call {
    let mut call = Call::new(Bytes::from_static(body.as_bytes()));
    *call.method_mut() = Method::POST;
    *call.uri_mut() = Uri::from_static(path);
    call.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    call
}

fn get(path: &'static str) -> Call {
    let mut call = Call::new(Bytes::new());
    *call.uri_mut() = Uri::from_static(path);
    call
}

fn instance(host: &str, port: u16) -> Instance {
    Instance {
        id: "logging-service@there".to_owned(),
        host: host.to_owned(),
        port,
        version: None,
        since: None,
    }
}

async fn peer(act: Act) -> Peer {
    Peer::start("logging-service@here", move |_| act.clone()).await
}

/// The error of a call to a peer that does this, and how often it was asked.
async fn failure(act: Act, limit: Duration) -> (CallError, usize) {
    let peer = peer(act).await;
    let error = Client::new()
        .call(&peer.instance, get("/"), limit, MOST)
        .await
        .unwrap_err();
    (error, peer.seen().len())
}

#[tokio::test]
async fn a_call_carries_its_request_there_and_the_whole_answer_back() {
    let peer = peer(Act::json(201, "{\"a\":1}")).await;
    let answer = Client::new()
        .call(&peer.instance, post("/log?a=b", "{}"), LIMIT, MOST)
        .await
        .unwrap();
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::CREATED, &b"{\"a\":1}"[..])
    );
    assert_eq!(answer.headers[CONTENT_TYPE], "application/json");
    let seen = &peer.seen()[0];
    assert_eq!((seen.line.as_str(), seen.json()), ("POST /log?a=b", json!({})));
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["host"], format!("127.0.0.1:{}", peer.instance.port));
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_call() {
    let peer = peer(Act::json(200, "[]")).await;
    let client = Client::new();
    for _ in 0..5 {
        client.call(&peer.instance, get("/"), LIMIT, MOST).await.unwrap();
    }
    assert_eq!((peer.seen().len(), peer.connections()), (5, 1));
}

#[tokio::test]
async fn a_kept_connection_that_its_peer_closed_in_the_meantime_does_no_harm() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]".to_vec();
    let peer = peer(Act::AnswerAndClose(answer)).await;
    let client = Client::new();
    for _ in 0..5 {
        // It may close between the client's look at the connection and its write: that one failure is the caller's.
        if let Err(error) = client.call(&peer.instance, get("/"), LIMIT, MOST).await {
            assert!(error.may_have_arrived(), "{error}");
            client.call(&peer.instance, get("/"), LIMIT, MOST).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_call_that_is_refused_has_not_arrived() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = instance("127.0.0.1", listener.local_addr().unwrap().port());
    drop(listener);
    let error = Client::new().call(&nobody, get("/"), LIMIT, MOST).await.unwrap_err();
    assert_eq!(error.to_string(), "logging-service@there: connection refused");
    assert!(!error.may_have_arrived());
}

#[tokio::test]
async fn an_address_that_cannot_be_called_is_named() {
    for host in ["", "a b", "a/b", "user@host", "a?b", "[::1"] {
        let error = Client::new()
            .call(&instance(host, 1), get("/"), LIMIT, MOST)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("is no address that can be called"),
            "{error}"
        );
        assert!(!error.may_have_arrived());
    }
}

#[test]
fn an_ipv6_address_is_put_in_brackets() {
    for host in ["::1", "[::1]"] {
        let uri = absolute(&instance(host, 8101), &Uri::from_static("/logs?full=true")).unwrap();
        assert_eq!(uri.to_string(), "http://[::1]:8101/logs?full=true");
    }
}

#[tokio::test]
async fn a_call_without_an_answer_may_have_arrived() {
    let (reset, tries) = failure(Act::Reset, LIMIT).await;
    assert_eq!(reset.to_string(), "logging-service@here: connection reset");
    assert_eq!((reset.may_have_arrived(), tries), (true, 1));
    assert!(!reset.is_late() && !reset.is_too_long());

    let (closed, tries) = failure(Act::AnswerAndClose(Vec::new()), LIMIT).await;
    assert!(closed.to_string().contains("connection closed"), "{closed}");
    assert_eq!((closed.may_have_arrived(), tries), (true, 1));

    let (no_http, tries) = failure(Act::Answer(b"220 mail.example\r\n\r\n".to_vec()), LIMIT).await;
    assert_eq!((no_http.may_have_arrived(), tries), (true, 1), "{no_http}");
}

#[tokio::test]
async fn silence_ends_at_the_limit_and_its_connection_with_it() {
    let peer = peer(Act::Hang).await;
    let client = Client::new();
    let limit = Duration::from_millis(200);
    let start = Instant::now();
    for _ in 0..2 {
        let error = client.call(&peer.instance, get("/"), limit, MOST).await.unwrap_err();
        assert_eq!(error.to_string(), "logging-service@here: no answer within 200ms");
        assert!(error.may_have_arrived() && error.is_late());
    }
    assert!(start.elapsed() < LIMIT);
    assert_eq!(peer.connections(), 2, "a connection that owes an answer was used again");
}

#[tokio::test]
async fn an_answer_that_stops_half_way_ends_a_whole_call_at_its_limit() {
    let (error, _) = failure(Act::AnswerAndHang(chunks(&["[1"])), Duration::from_millis(200)).await;
    assert_eq!(error.to_string(), "logging-service@here: no answer within 200ms");
    assert!(error.is_late());
}

#[tokio::test]
async fn an_answer_over_the_limit_of_bytes_is_an_error_whether_announced_or_not() {
    let long = "x".repeat(MOST + 1);
    for act in [Act::json(200, &long), whole_in_chunks(&[&long[1..], "x"])] {
        let (error, _) = failure(act, LIMIT).await;
        assert_eq!(
            error.to_string(),
            "logging-service@here: its answer has more than 1024 bytes"
        );
        assert!(error.is_too_long() && !error.is_late());
    }
    let peer = peer(whole_in_chunks(&[&long[1..]])).await;
    let answer = Client::new().call(&peer.instance, get("/"), LIMIT, MOST).await.unwrap();
    assert_eq!(answer.body.len(), MOST);
}

/// All pieces of a streamed answer, and how it ended.
async fn pieces(act: Act, limit: Duration) -> (Vec<u8>, Result<(), CallError>) {
    let peer = peer(act).await;
    let mut opened = Client::new().open(&peer.instance, get("/logs"), LIMIT).await.unwrap();
    assert_eq!(opened.status, StatusCode::OK);
    let mut all = Vec::new();
    loop {
        match opened.piece(limit).await {
            Ok(Some(piece)) => all.extend_from_slice(&piece),
            Ok(None) => return (all, Ok(())),
            Err(error) => return (all, Err(error)),
        }
    }
}

#[tokio::test]
async fn a_streamed_answer_comes_piece_by_piece() {
    let (all, ended) = pieces(whole_in_chunks(&["[\"a\"", ",\"b\"]"]), LIMIT).await;
    assert_eq!((all, ended), (b"[\"a\",\"b\"]".to_vec(), Ok(())));
}

#[tokio::test]
async fn a_streamed_answer_that_breaks_off_is_told_from_one_that_ends() {
    let (all, ended) = pieces(Act::AnswerAndClose(chunks(&["[1"])), LIMIT).await;
    assert_eq!(all, b"[1");
    assert!(
        ended
            .unwrap_err()
            .to_string()
            .starts_with("logging-service@here: its answer broke off: ")
    );

    let short = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1".to_vec();
    assert!(pieces(Act::AnswerAndClose(short), LIMIT).await.1.is_err());

    let cut = [&chunks(&["[1"]), &LAST_CHUNK[..3]].concat();
    assert!(pieces(Act::AnswerAndClose(cut), LIMIT).await.1.is_err());
}

#[tokio::test]
async fn a_streamed_answer_that_stops_is_an_error_at_the_limit() {
    let (all, ended) = pieces(Act::AnswerAndHang(chunks(&["[1"])), Duration::from_millis(200)).await;
    assert_eq!(all, b"[1");
    assert_eq!(
        ended.unwrap_err().to_string(),
        "logging-service@here: its answer stopped for 200ms"
    );
}
