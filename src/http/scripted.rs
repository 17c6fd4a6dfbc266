//! A peer that does over a real socket what a test tells it to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::engine::Instance;

/// A request as the peer got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `POST /log`.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the peer does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers, and takes the next request.
    Answer(Vec<u8>),
    /// Answers with these bytes, then ends the connection.
    AnswerAndClose(Vec<u8>),
    /// Answers with these bytes, then does nothing more.
    AnswerAndHang(Vec<u8>),
    /// Resets the connection.
    Reset,
    /// Does nothing at all, like a process that is stopped.
    Hang,
}

impl Act {
    /// An answer of JSON.
    pub(crate) fn json(status: u16, body: &str) -> Act {
        let length = body.len();
        Act::Answer(
            format!(
                "HTTP/1.1 {status} Any\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .into_bytes(),
        )
    }
}

/// The bytes of a chunked answer that is not at its end.
pub(crate) fn chunks(pieces: &[&str]) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    let chunk = |piece: &&str| format!("{:x}\r\n{piece}\r\n", piece.len());
    (head + &pieces.iter().map(chunk).collect::<String>()).into_bytes()
}

/// The end of a chunked answer.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A whole chunked answer.
pub(crate) fn whole_in_chunks(pieces: &[&str]) -> Act {
    Act::Answer([&chunks(pieces), LAST_CHUNK].concat())
}

/// A peer that runs until it is dropped.
pub(crate) struct Peer {
    pub(crate) instance: Instance,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// A peer of the name `name` that does `act` with each request.
    pub(crate) async fn start(name: &str, act: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = Instance {
            id: name.to_owned(),
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            version: Some("1".to_owned()),
            since: None,
        };
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<AtomicUsize>::default());
        let (record, count, act) = (seen.clone(), connections.clone(), Arc::new(act));
        let task = tokio::spawn(async move {
            // Ends the connections with the peer.
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (record, act) = (record.clone(), act.clone());
                served.spawn(async move { serve(stream, &record, &*act).await });
            }
        });
        Peer {
            instance,
            seen,
            connections,
            task: task.abort_handle(),
        }
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many connections were made to it so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, record: &Mutex<Vec<Seen>>, act: &(impl Fn(&Seen) -> Act + Send + Sync)) {
    while let Some(seen) = read(&mut stream).await {
        let act = act(&seen);
        record.lock().unwrap().push(seen);
        match act {
            Act::Answer(bytes) => {
                let _ = stream.write_all(&bytes).await;
            }
            Act::AnswerAndClose(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Act::AnswerAndHang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return std::future::pending().await;
            }
            Act::Reset => {
                stream.set_zero_linger().unwrap();
                return;
            }
            Act::Hang => return std::future::pending().await,
        }
    }
}

/// The next request of a connection, with a body of a length that was said.
async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { line, headers, body })
}
