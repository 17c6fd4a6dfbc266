//! `svc health`: asks once. The health check of a container.

use std::time::Duration;

use anyhow::ensure;
use futures_util::future::join_all;
use hyper::{StatusCode, Uri};
use serde::Deserialize;
use tokio::time::Instant;

use crate::cli::{Asked, HealthOptions, Url};
use crate::engine::Instance;
use crate::http::client::{Call, CallError, Client};

/// How much of an answer is read to learn why it is not 200.
const MOST_BYTES: usize = 64 * 1024;

/// Asks, and says by its outcome whether the answer was 200.
///
/// # Errors
/// One line: what answered, with the reason that it gives, or why nobody did.
/// [`Misuse`](crate::cli::Misuse) as [`HealthOptions::asked`].
pub async fn run(options: HealthOptions) -> anyhow::Result<()> {
    match options.asked()? {
        Asked::One(url) => {
            let told = ask(url, options.timeout).await?;
            ensure!(told.status == StatusCode::OK, told.line());
            Ok(())
        }
        Asked::AnyOf(ports) => any_of(&ports, options.timeout).await,
    }
}

/// Asks whoever listens on these ports of this host, all at once: somebody has to, and all of them have to answer 200.
async fn any_of(ports: &[u16], limit: Duration) -> anyhow::Result<()> {
    let asked = ports.iter().map(|port| ask(Url::of_this_host(*port), limit));
    let told = join_all(asked).await;
    // Who was reached and does not answer is no better than who answers that it cannot work.
    let is_there = |told: &Result<Told, CallError>| told.as_ref().map_or_else(CallError::may_have_arrived, |_| true);
    let there: Vec<_> = told.into_iter().filter(is_there).collect();
    ensure!(!there.is_empty(), nobody(ports));
    let is_good = |told: &Result<Told, CallError>| told.as_ref().is_ok_and(|told| told.status == StatusCode::OK);
    let lines = there
        .iter()
        .map(|told| told.as_ref().map_or_else(CallError::to_string, Told::line));
    ensure!(there.iter().all(is_good), lines.collect::<Vec<_>>().join("; "));
    Ok(())
}

/// `nobody listens on 127.0.0.1:8000, nor on 127.0.0.1:8100`, and what to do.
fn nobody(ports: &[u16]) -> String {
    let places: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!(
        "nobody listens on {}: name the URL of the instance, or set PORT to its port",
        places.join(", nor on ")
    )
}

/// An answer.
struct Told {
    url: String,
    status: StatusCode,
    /// Why it is not 200, where it says so.
    reason: Option<String>,
}

impl Told {
    fn line(&self) -> String {
        let Self { url, status, reason } = self;
        match reason {
            Some(reason) => format!("{url} answered {status}: {reason}"),
            None => format!("{url} answered {status}"),
        }
    }
}

async fn ask(url: Url, limit: Duration) -> Result<Told, CallError> {
    let asked = Instance {
        id: url.to_string(),
        host: url.host,
        port: url.port,
        version: None,
        since: None,
    };
    let mut call = Call::default();
    *call.uri_mut() = Uri::from(url.target);
    let began = Instant::now();
    let opened = Client::new().open(&asked, call, limit).await?;
    let status = opened.status;
    let reason = if status == StatusCode::OK {
        None
    } else {
        let left = limit.saturating_sub(began.elapsed());
        // The status is the answer; its body can only add to it.
        let answer = opened.whole(left, MOST_BYTES).await;
        answer.ok().and_then(|answer| reason(&answer.body))
    };
    Ok(Told {
        url: asked.id,
        status,
        reason,
    })
}

/// The error's message, where the body is one of ours: on one line, whoever wrote it.
fn reason(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        message: String,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    Some(body.error.message.replace(char::is_control, " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::scripted::{Act, Peer};

    /// Far longer than an answer of this host takes.
    const LIMIT: Duration = Duration::from_secs(10);

    fn ready() -> Act {
        Act::json(200, r#"{"status":"ready"}"#)
    }

    fn starting() -> Act {
        Act::json(503, r#"{"error":{"message":"starting"}}"#)
    }

    /// One that does this when it is asked for `/health`, and a port that it listens on.
    async fn peer(act: Act) -> (Peer, u16) {
        let peer = Peer::start("any", move |seen| {
            assert_eq!(seen.line, "GET /health");
            act.clone()
        })
        .await;
        let port = peer.instance.port;
        (peer, port)
    }

    /// A port of this host on which nobody listens, for as long as this socket is bound to it and does not listen.
    fn nobody_there() -> (tokio::net::TcpSocket, u16) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        (socket, port)
    }

    async fn failure(ports: &[u16], limit: Duration) -> String {
        let line = any_of(ports, limit).await.unwrap_err().to_string();
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }

    #[tokio::test]
    async fn of_several_ports_it_is_enough_that_one_listens_if_all_that_do_answer_200() {
        let ((_bound, none), (_first, one), (_second, other)) =
            (nobody_there(), peer(ready()).await, peer(ready()).await);
        any_of(&[none, one], LIMIT).await.unwrap();
        any_of(&[one, none, other], LIMIT).await.unwrap();
    }

    #[tokio::test]
    async fn of_several_ports_one_that_listens_and_does_not_answer_200_is_enough_to_fail_and_all_answers_are_told() {
        let (_first, good) = peer(ready()).await;
        let (_second, bad) = peer(starting()).await;
        let (_bound, none) = nobody_there();
        assert_eq!(
            failure(&[good, bad, none], LIMIT).await,
            format!(
                "http://127.0.0.1:{good}/health answered 200 OK; \
                 http://127.0.0.1:{bad}/health answered 503 Service Unavailable: starting"
            )
        );
        let (_third, reset) = peer(Act::Reset).await;
        let line = failure(&[good, reset], LIMIT).await;
        assert!(line.contains(&format!("; http://127.0.0.1:{reset}/health: ")), "{line}");
    }

    #[tokio::test]
    async fn where_nobody_listens_on_any_of_the_ports_they_are_named_and_what_to_do() {
        let ((_first, one), (_second, other)) = (nobody_there(), nobody_there());
        assert_eq!(
            failure(&[one, other], LIMIT).await,
            format!(
                "nobody listens on 127.0.0.1:{one}, nor on 127.0.0.1:{other}: \
                 name the URL of the instance, or set PORT to its port"
            )
        );
    }

    #[tokio::test]
    async fn several_ports_are_asked_at_once_and_have_the_time_of_one() {
        let limit = Duration::from_millis(300);
        let silent = join_all((0..10).map(|_| peer(Act::Hang))).await;
        let ports: Vec<u16> = silent.iter().map(|(_, port)| *port).collect();
        let began = Instant::now();
        let line = failure(&ports, limit).await;
        let took = began.elapsed();
        assert!(limit <= took && took < limit * 7, "{took:?}");
        let expected = ports
            .iter()
            .map(|port| format!("http://127.0.0.1:{port}/health: no answer within 300ms"));
        assert_eq!(line, expected.collect::<Vec<_>>().join("; "));
    }

    #[test]
    fn a_reason_is_the_message_of_our_errors_on_one_line() {
        let ours = br#"{"status":"starting","error":{"code":"starting","message":"starting:\nwaiting"}}"#;
        assert_eq!(reason(ours).as_deref(), Some("starting: waiting"));
        for other in [
            &b""[..],
            b"{}",
            b"[]",
            b"\xff",
            b"<html>",
            br#"{"error":"no"}"#,
            br#"{"error":{"message":1}}"#,
        ] {
            assert_eq!(reason(other), None);
        }
    }
}
