//! What the contract says of HTTP, sentence by sentence, on real processes and real engines: a row of a table for each.
//!
//! `cargo test --test integration contract:: -- --nocapture` prints the tables. What is about one role is in the file of
//! its name; what takes more than a request and its answer is in `keys` (retries under `Idempotency-Key`) and
//! `unfinished` (an answer that breaks off). While engines are away: `tests/faults/away.rs`.

mod absent;
mod facade;
mod facade_errors;
mod framing;
mod health;
mod keys;
mod logging;
mod messages;
mod pages;
mod unfinished;

use crate::support::fleet::request;
use crate::support::table::{Row, not_allowed, row};

/// The methods there are, and one that nobody knows.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW",
];

const MIB: usize = 1024 * 1024;

const JSON: &str = "Content-Type: application/json\r\n";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

fn get(target: &str) -> Vec<u8> {
    bare_request("GET", target)
}

fn bare_request(method: &str, target: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n\r\n").into()
}

fn post(target: &str, headers: &str) -> Vec<u8> {
    request("POST", target, headers, "").into()
}

fn post_json(target: &str, headers: &str, body: &str) -> Vec<u8> {
    request("POST", target, &format!("{JSON}{headers}"), body).into()
}

fn post_bytes(target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A body in chunks of this size.
fn post_chunks(target: &str, body: &str, size: usize) -> Vec<u8> {
    let mut all =
        format!("POST {target} HTTP/1.1\r\nHost: test\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for chunk in body.as_bytes().chunks(size) {
        all.extend(format!("{:x}\r\n", chunk.len()).bytes());
        all.extend([chunk, b"\r\n"].concat());
    }
    all.extend(b"0\r\n\r\n");
    all
}

/// A body, and spaces behind it, up to a length.
fn padded(body: &str, length: usize) -> String {
    format!("{body}{}", " ".repeat(length - body.len()))
}

/// 405 with `Allow` for each method that a path does not take.
fn methods_not_taken(path: &str, allow: &str) -> Vec<Row> {
    let taken: Vec<&str> = allow.split(", ").collect();
    let others = METHODS.iter().filter(|method| !taken.contains(method));
    others
        .map(|method| {
            let expected = not_allowed(allow);
            row(
                format!("405 method, with Allow: {method} {path}"),
                bare_request(method, path),
                if *method == "HEAD" {
                    expected.for_head()
                } else {
                    expected
                },
            )
        })
        .collect()
}
