//! Servers that are not Consul, for what a real one never answers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A server that gives each request the same bytes and closes. It runs for as long as the test process.
pub(crate) struct Fake {
    /// `127.0.0.1:port`.
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Answers every request with `answer`; an empty answer is none: the connection stays open in silence.
    pub(crate) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for mut connection in listener.incoming().flatten() {
                let request = head_of(&mut connection);
                seen.lock().unwrap().push(request);
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
        let length = body.len();
        Self::answering(format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
        ))
    }

    /// The heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn head_of(connection: &mut TcpStream) -> String {
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match connection.read(&mut chunk) {
            Ok(read) if read > 0 => head.extend_from_slice(&chunk[..read]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}
