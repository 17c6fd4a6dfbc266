//! A client that speaks raw bytes, for what no HTTP client would send or show.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything here takes; a test that waits for this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// What stands at the end of every chunked body that is whole.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Between a head and its body.
const HEAD_END: &[u8] = b"\r\n\r\n";

pub(crate) struct RawClient(pub(crate) TcpStream);

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Decoded from its chunks, if it came in chunks.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl RawClient {
    pub(crate) async fn connect(address: SocketAddr) -> RawClient {
        RawClient(timeout(DEADLINE, TcpStream::connect(address)).await.unwrap().unwrap())
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(DEADLINE, self.0.write_all(bytes.as_ref()))
            .await
            .unwrap()
            .unwrap();
    }

    /// All bytes until the server closes. A reset counts as closed.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        match timeout(DEADLINE, self.0.read_to_end(&mut all)).await {
            Ok(Ok(_)) => {}
            Ok(Err(cause)) => assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionReset, "{cause}"),
            Err(_) => panic!(
                "the server does not close; so far it sent {:?}",
                String::from_utf8_lossy(&all)
            ),
        }
        all
    }

    /// One answer, framed by its head. The connection can be used further.
    pub(crate) async fn answer(&mut self) -> Answer {
        timeout(DEADLINE, self.read_answer()).await.expect("no answer in time")
    }

    /// The head of an answer, without a body: what comes for a `HEAD`, or before a body that the caller reads.
    pub(crate) async fn head(&mut self) -> Answer {
        timeout(DEADLINE, self.read_head()).await.expect("no answer in time")
    }

    async fn read_answer(&mut self) -> Answer {
        let mut answer = self.read_head().await;
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = self.read_chunks().await;
        } else if let Some(length) = answer.header("content-length") {
            answer.body = vec![0; length.parse().unwrap()];
            self.0.read_exact(&mut answer.body).await.unwrap();
        }
        answer
    }

    async fn read_head(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(HEAD_END) {
            // Looks ahead, and takes no byte of what comes after it.
            let mut ahead = [0; 1024];
            let length = match self.0.peek(&mut ahead).await {
                Ok(length @ 1..) => length,
                ended => panic!("no whole head: {ended:?}: {}", String::from_utf8_lossy(&head)),
            };
            let known = head.len();
            head.extend_from_slice(&ahead[..length]);
            let end = head.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END);
            head.truncate(end.map_or(head.len(), |end| end + HEAD_END.len()));
            self.0.read_exact(&mut ahead[..head.len() - known]).await.unwrap();
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Answer {
            status,
            headers,
            body: Vec::new(),
        }
    }

    async fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(self.0.read_u8().await.expect("the body ends without its last chunk"));
            }
            let length = usize::from_str_radix(String::from_utf8(line).unwrap().trim(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            self.0.read_exact(&mut chunk).await.unwrap();
            if length == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }
}

/// How many answers begin in these bytes.
pub(crate) fn count_answers(bytes: &[u8]) -> usize {
    String::from_utf8_lossy(bytes).matches("HTTP/1.1 ").count()
}
