//! For tests: a facade that answers what it is told to.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::options::Facade;

/// An answer after which the connection is closed, although it does not say so.
pub(crate) fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} \r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The same answer, which says so.
pub(crate) fn last_answer(status: u16, body: &str) -> String {
    answer(status, body).replacen("\r\n", "\r\nconnection: close\r\n", 1)
}

/// A facade that gives one of these answers on each connection and closes it, and is gone after the last one. Returns the
/// requests that it got.
pub(crate) async fn facade(answers: impl IntoIterator<Item = String>) -> (Facade, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answers: Vec<String> = answers.into_iter().collect();
    let requests = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            // A request without a body ends with its head; one with a body, with its JSON.
            let end = |request: &str| if request.starts_with("GET") { "\r\n\r\n" } else { "}" };
            while !request.ends_with(end(&request)) {
                request.push(char::from(stream.read_u8().await.unwrap()));
            }
            requests.push(request);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    (address.parse().unwrap(), requests)
}
