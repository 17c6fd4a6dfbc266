//! Servers that are not Consul, for what a real one never answers.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A server that answers each request by a script and closes. It runs for as long as the test process.
pub(crate) struct Fake {
    /// `127.0.0.1:port`.
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Answers every request with `answer`; an empty answer is none: the connection stays open in silence.
    pub(crate) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        Self::scripted([answer.into()])
    }

    /// Answers one request after the other with these answers, and all further ones with the last.
    pub(crate) fn scripted(answers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut answers: VecDeque<Vec<u8>> = answers.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for mut connection in listener.incoming().flatten() {
                let request = read_request(&mut connection);
                seen.lock().unwrap().push(request);
                let answer = if answers.len() > 1 {
                    answers.pop_front()
                } else {
                    answers.front().cloned()
                };
                let answer = answer.unwrap_or_default();
                if answer.is_empty() {
                    silent.push(connection);
                } else {
                    let _ = connection.write_all(&answer);
                }
            }
        });
        Self { address, requests }
    }

    /// An HTTP answer with a body of JSON or whatever else.
    pub(crate) fn with_body(status: &str, headers: &str, body: &str) -> Self {
        Self::answering(answer(status, headers, body))
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// The bytes of an HTTP answer.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}").into_bytes()
}

/// Reads a request: its head, and a body of the length that the head names.
fn read_request(connection: &mut TcpStream) -> String {
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !is_whole(&String::from_utf8_lossy(&request)) {
        match connection.read(&mut chunk) {
            Ok(read) if read > 0 => request.extend_from_slice(&chunk[..read]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&request).into_owned()
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    body.len() >= length.map_or(0, |length| length.trim().parse().unwrap())
}
