//! `svc health`, against real instances and against what is none.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::agent::Ports;
use crate::support::command::{Ended, run, svc};
use crate::support::fake::{self, Fake};
use crate::support::fleet::{Fleet, SOON, eventually};
use crate::support::place::Kind;
use crate::support::process::Svc;

on_both_engines! {
    a_ready_instance_is_healthy_with_and_without_the_path,
}

fn health(arguments: &[&str]) -> Ended {
    run(&mut svc(&[&["health"], arguments].concat()))
}

/// Asks, and takes the one line that it fails with.
fn failure(arguments: &[&str]) -> String {
    let Ended { code, out, err } = health(arguments);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.ends_with('\n'), "{err}");
    err.trim_end().to_owned()
}

/// A server that answers 200 to `GET /health`, and 404 to anything else.
fn healthy(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for mut connection in answering.incoming().flatten() {
            let mut request = [0; 1024];
            let read = connection.read(&mut request).unwrap_or(0);
            let status = if request[..read].starts_with(b"GET /health HTTP/1.1\r\n") {
                "200 OK"
            } else {
                "404 Not Found"
            };
            let _ = connection.write_all(&fake::answer(status, "", "{}"));
        }
    });
    (listener, port)
}

async fn a_ready_instance_is_healthy_with_and_without_the_path(kind: Kind) {
    let fleet = Fleet::start_at(kind, 0, 1, 0).await;
    let address = fleet.logging[0].address();
    tokio::task::block_in_place(|| {
        for path in ["", "/", "/health"] {
            let Ended { code, out, err } = health(&[&format!("http://{address}{path}")]);
            assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", ""));
        }
        let elsewhere = failure(&[&format!("http://{address}/nowhere")]);
        let expected = format!("svc: http://{address}/nowhere answered 404 Not Found: ");
        assert!(
            elsewhere.starts_with(&expected) && elsewhere.len() > expected.len(),
            "{elsewhere}"
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_starts_is_not_healthy_and_its_reason_is_told() {
    let nowhere = format!("127.0.0.1:{}", Ports::free().http);
    let starting = Svc::start(&["logging", "--port", "0", "--consul", &nowhere], &[]);
    let url = format!("http://{}", tokio::task::block_in_place(|| starting.address()));
    let expected = format!(
        "svc: {url}/health answered 503 Service Unavailable: starting: waiting for Consul at http://{nowhere}: "
    );
    eventually("it tells what it waits for", async || {
        tokio::task::block_in_place(|| failure(&[&url])).starts_with(&expected)
    })
    .await;
}

#[test]
fn where_nobody_answers_the_line_says_why() {
    let free = Ports::free().http;
    let nobody = format!("http://127.0.0.1:{free}/health");
    assert_eq!(failure(&[&nobody]), format!("svc: {nobody}: connection refused"));

    // Whether or not this machine has IPv6.
    let nobody = format!("http://[::1]:{free}/health");
    assert!(failure(&[&nobody]).starts_with(&format!("svc: {nobody}: ")));
}

#[test]
fn a_host_name_is_asked_too() {
    let (_listener, port) = healthy("127.0.0.1:0");
    assert_eq!(health(&[&format!("http://localhost:{port}")]).code, Some(0));
}

#[test]
fn a_listener_that_never_answers_is_given_up_on_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/health", silent.local_addr().unwrap());
    for (arguments, limit, shown) in [
        (&[][..], Duration::from_secs(2), "2s"),
        (&["--timeout", "300ms"], Duration::from_millis(300), "300ms"),
    ] {
        let began = Instant::now();
        let line = failure(&[arguments, &[&url]].concat());
        let took = began.elapsed();
        assert_eq!(line, format!("svc: {url}: no answer within {shown}"));
        assert!(limit <= took && took < limit + SOON / 4, "{took:?}");
    }
}

#[test]
fn a_body_that_never_comes_holds_up_the_status_for_the_time_out_only() {
    let half = |status: &str| Fake::answering(format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n"));
    let (good, bad) = (half("200 OK"), half("503 Service Unavailable"));
    let url = |server: &Fake| format!("http://{}/health", server.address);
    assert_eq!(health(&[&url(&good)]).code, Some(0));
    let line = failure(&["--timeout", "500ms", &url(&bad)]);
    assert_eq!(line, format!("svc: {} answered 503 Service Unavailable", url(&bad)));
}

#[test]
fn what_is_no_answer_of_ours_is_told_by_its_status_or_as_no_http() {
    let page = "<html>no</html>";
    let foreign = r#"{"error":{"message":"two\nlines"}}"#;
    for (server, told) in [
        (Fake::with_body("404 Not Found", "", page), " answered 404 Not Found"),
        (
            Fake::with_body("302 Found", "Location: /health2\r\n", ""),
            " answered 302 Found",
        ),
        (Fake::with_body("204 No Content", "", ""), " answered 204 No Content"),
        (
            Fake::with_body("500 Internal Server Error", "", foreign),
            " answered 500 Internal Server Error: two lines",
        ),
        (
            Fake::with_body("503 Service Unavailable", "", &"x".repeat(1 << 20)),
            " answered 503 Service Unavailable",
        ),
        (Fake::answering("SSH-2.0-OpenSSH_9.2\r\n"), ": "),
    ] {
        let url = format!("http://{}/health", server.address);
        let line = failure(&[&url]);
        let start = format!("svc: {url}{told}");
        if told == ": " {
            assert!(line.starts_with(&start) && line.contains("HTTP"), "{line}");
        } else {
            assert_eq!(line, start);
        }
    }
}

#[test]
fn a_url_that_cannot_be_asked_is_misuse() {
    for (url, why) in [
        ("https://127.0.0.1:8000", "only http"),
        ("127.0.0.1:8000", "expected http://host[:port][/path]"),
        ("http://127.0.0.1:70000", "the port has to be 1 to 65535"),
        ("http://::1:8000", "an IPv6 address in brackets"),
    ] {
        let Ended { code, out, err } = health(&[url]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(url) && err.contains(why), "{err}");
    }
    let Ended { code, err, .. } = health(&["--timeout", "0s", "http://a"]);
    assert_eq!(code, Some(2), "{err}");
    // Longer than any clock goes is still no reason to fall over.
    let nobody = format!("http://127.0.0.1:{}", Ports::free().http);
    failure(&["--timeout", "18446744073709551615s", &nobody]);
    // Without one it is PORT that says whom to ask.
    for bad in ["0", "70000", "http"] {
        let Ended { code, out, err } = run(svc(&["health"]).env("PORT", bad));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(
            err.contains(&format!("PORT is \"{bad}\"")) && err.contains("1 to 65535"),
            "{err}"
        );
    }
}

#[test]
fn without_a_url_it_asks_the_instance_on_this_host_by_its_port() {
    for bound in ["127.0.0.1:0", "0.0.0.0:0"] {
        let (_listener, port) = healthy(bound);
        let Ended { code, out, err } = run(svc(&["health"]).env("PORT", port.to_string()));
        assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", ""), "{bound}");
    }
    let free = Ports::free().http;
    let Ended { code, out, err } = run(svc(&["health"]).env("PORT", free.to_string()));
    let line = format!("svc: http://127.0.0.1:{free}/health: connection refused\n");
    assert_eq!((code, out.as_str(), err), (Some(1), "", line));

    // Who names a URL means that one.
    let (_listener, port) = healthy("127.0.0.1:0");
    let url = format!("http://127.0.0.1:{port}");
    let Ended { code, err, .. } = run(svc(&["health", &url]).env("PORT", free.to_string()));
    assert_eq!(code, Some(0), "{err}");
}

#[test]
fn without_a_url_and_a_port_it_asks_the_default_ports_of_all_roles() {
    // Whoever has these ports on this machine: it ends in time, and says what it met there on one line.
    let Ended { code, out, err } = run(svc(&["health"]).env("PORT", ""));
    assert_eq!(out, "");
    match code {
        Some(0) => assert_eq!(err, ""),
        _ => {
            assert_eq!((code, err.lines().count()), (Some(1), 1), "{err}");
            let named = ["127.0.0.1:8000", "127.0.0.1:8100", "127.0.0.1:8180"];
            assert!(named.iter().any(|named| err.contains(named)), "{err}");
        }
    }
}
