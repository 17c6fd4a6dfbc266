//! `svc health`: asks a URL once. The health check of a container.

use anyhow::{anyhow, bail};
use hyper::{StatusCode, Uri};
use serde::Deserialize;
use tokio::time::Instant;

use crate::cli::HealthOptions;
use crate::engine::Instance;
use crate::http::client::{Call, Client};

/// How much of an answer is read to learn why it is not 200.
const MOST_BYTES: usize = 64 * 1024;

/// Asks, and says by its outcome whether the answer was 200.
///
/// # Errors
/// One line: what answered, with the reason that it gives, or why nobody did.
pub async fn run(options: HealthOptions) -> anyhow::Result<()> {
    let HealthOptions { url, timeout } = options;
    let asked = Instance {
        id: url.to_string(),
        host: url.host,
        port: url.port,
        version: None,
        since: None,
    };
    let mut call = Call::default();
    *call.uri_mut() = Uri::from(url.target);
    let deadline = Instant::now() + timeout;
    let opened = Client::new().open(&asked, call, timeout).await?;
    let status = opened.status;
    if status == StatusCode::OK {
        return Ok(());
    }
    let left = deadline.saturating_duration_since(Instant::now());
    // The status is the answer; its body can only add to it.
    let body = opened.whole(left, MOST_BYTES).await.map(|answer| answer.body);
    match body.ok().and_then(|body| reason(&body)) {
        Some(reason) => bail!("{} answered {status}: {reason}", asked.id),
        None => Err(anyhow!("{} answered {status}", asked.id)),
    }
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
    use super::reason;

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
