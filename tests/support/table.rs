//! A table of requests as bytes and of the answers that are promised for them, asked of a real process over TCP.
//!
//! All rows are asked, each on a connection of its own, and printed with what came; [`Table::end`] names each row that
//! does not hold. Some promises are of every answer, and no row has to name them: see `One::check`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::raw::{Answer, RawClient};

/// For all of a row. The longest answer that is promised comes within 5 s.
const DEADLINE: Duration = Duration::from_secs(6);

/// What needs an engine or an instance that is away is answered within this.
const UNAVAILABLE_WITHIN: Duration = Duration::from_secs(5);

/// What no error says: words of the program, for those who wrote it.
const INTERNALS: [&str; 8] = [
    "struct ",
    "enum ",
    "::",
    ".rs",
    "panicked",
    "variant",
    "Error(",
    "backtrace",
];

/// The codes of errors, by status.
const CODES: [(u16, &str); 9] = [
    (400, "malformed"),
    (404, "not_found"),
    (405, "method_not_allowed"),
    (409, "conflict"),
    (413, "too_large"),
    (415, "unsupported_media_type"),
    (422, "unprocessable"),
    (500, "internal"),
    (503, "unavailable"),
];

/// One promise.
pub(crate) struct Row {
    /// The sentence that it holds.
    name: String,
    /// What the client sends, and whether it ends its side then.
    request: Vec<u8>,
    half_closes: bool,
    expected: Expected,
}

/// A row of a table.
pub(crate) fn row(name: impl Into<String>, request: impl Into<Vec<u8>>, expected: Expected) -> Row {
    Row {
        name: name.into(),
        request: request.into(),
        half_closes: false,
        expected,
    }
}

impl Row {
    /// The client sends nothing more, and says so.
    pub(crate) fn half_closes(mut self) -> Row {
        self.half_closes = true;
        self
    }
}

type Check = Box<dyn Fn(&Value) -> bool + Send + Sync>;

enum Body {
    /// There is none: what hyper refuses before a handler sees it has the bare status.
    Bare,
    /// There is none, whatever its headers say: the answer to a `HEAD`.
    OfHead,
    Is(Value),
    /// `{"error":{"code":…,"message":…}}`, with this part in the message.
    Error {
        code: &'static str,
        part: String,
    },
    Holds(Check),
}

struct One {
    status: u16,
    headers: Vec<(&'static str, Option<String>)>,
    body: Body,
    /// What the client sends once it has this answer.
    then_sends: Vec<u8>,
}

/// The answers that are promised, in their order, and what becomes of the connection.
pub(crate) struct Expected {
    answers: Vec<One>,
    /// The connection ends after them, and nothing else comes on it.
    closes: bool,
}

fn one(status: u16, body: Body) -> Expected {
    let answer = One {
        status,
        headers: Vec::new(),
        body,
        then_sends: Vec::new(),
    };
    Expected {
        answers: vec![answer],
        closes: false,
    }
}

/// An answer with exactly this JSON.
pub(crate) fn json_is(status: u16, body: Value) -> Expected {
    one(status, Body::Is(body))
}

/// An answer with JSON for which this holds.
pub(crate) fn json_holds(status: u16, check: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Expected {
    one(status, Body::Holds(Box::new(check)))
}

/// An error with the code of its status, whose message has this part.
pub(crate) fn error(status: u16, part: impl Into<String>) -> Expected {
    let known = CODES.iter().find(|(of, _)| *of == status);
    coded(status, known.expect("a status of an error").1, part)
}

/// An error with this code, whose message has this part.
pub(crate) fn coded(status: u16, code: &'static str, part: impl Into<String>) -> Expected {
    one(
        status,
        Body::Error {
            code,
            part: part.into(),
        },
    )
}

/// A 405 that says what the path takes.
pub(crate) fn not_allowed(allow: &str) -> Expected {
    error(405, allow).header("allow", allow)
}

/// A status with nothing else.
pub(crate) fn bare(status: u16) -> Expected {
    one(status, Body::Bare)
}

/// No answer at all, and the end of the connection.
pub(crate) fn nothing() -> Expected {
    Expected {
        answers: Vec::new(),
        closes: true,
    }
}

impl Expected {
    fn last(&mut self) -> &mut One {
        self.answers.last_mut().expect("an answer")
    }

    /// The last answer has this header.
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Expected {
        self.last().headers.push((name, Some(value.into())));
        self
    }

    /// The last answer does not have this header.
    pub(crate) fn without(mut self, name: &'static str) -> Expected {
        self.last().headers.push((name, None));
        self
    }

    /// The same without its body: the answer to a `HEAD`.
    pub(crate) fn for_head(mut self) -> Expected {
        self.last().body = Body::OfHead;
        self
    }

    /// After the last answer the client sends this.
    pub(crate) fn then_send(mut self, bytes: impl Into<Vec<u8>>) -> Expected {
        self.last().then_sends = bytes.into();
        self
    }

    /// What comes after the last answer.
    pub(crate) fn then(mut self, next: Expected) -> Expected {
        self.answers.extend(next.answers);
        self.closes = next.closes;
        self
    }

    /// After the last answer the connection ends, and nothing else comes on it.
    pub(crate) fn closes(mut self) -> Expected {
        self.closes = true;
        self
    }
}

impl One {
    /// What is promised of this answer, and of every one.
    fn check(&self, answer: &Answer, took: Duration) -> Result<(), String> {
        same("status", &answer.status, &self.status)?;
        for (name, value) in &self.headers {
            same(name, &answer.header(name), &value.as_deref())?;
        }
        if answer.status == 503 {
            let seconds = answer.header("retry-after").and_then(|after| after.parse::<u32>().ok());
            ensure(seconds.is_some(), || "a 503 without Retry-After".to_owned())?;
            ensure(took < UNAVAILABLE_WITHIN, || format!("a 503 after {took:?}"))?;
        }
        ensure((answer.status == 405) == answer.header("allow").is_some(), || {
            "Allow is of a 405, and of each".to_owned()
        })?;
        if matches!(self.body, Body::Bare) {
            return ensure(answer.body.is_empty(), || "the status is not bare".to_owned());
        }
        same(
            "content-type",
            &answer.header("content-type"),
            &Some("application/json"),
        )?;
        if matches!(self.body, Body::OfHead) {
            return ensure(answer.body.is_empty(), || "the answer to a HEAD has a body".to_owned());
        }
        let body: Value = serde_json::from_slice(&answer.body).map_err(|cause| format!("no JSON: {cause}"))?;
        self.check_body(&body)
    }

    fn check_body(&self, body: &Value) -> Result<(), String> {
        match &self.body {
            Body::Bare | Body::OfHead => Ok(()),
            Body::Is(expected) => ensure(body == expected, || "another body".to_owned()),
            Body::Holds(check) => ensure(check(body), || "its body does not do".to_owned()),
            Body::Error { code, part } => {
                let message = body
                    .pointer("/error/message")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                let shape = json!({ "error": { "code": code, "message": message } });
                ensure(*body == shape, || format!("no error of the code {code}"))?;
                ensure(!message.is_empty() && message.contains(part), || {
                    format!("its message lacks {part:?}")
                })?;
                let internal = INTERNALS.iter().find(|word| message.contains(*word));
                ensure(internal.is_none(), || format!("words of the program: {internal:?}"))
            }
        }
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, expected: &T) -> Result<(), String> {
    ensure(is == expected, || format!("{what} is {is:?}, not {expected:?}"))
}

/// What was asked so far, and what of it does not hold.
#[derive(Default)]
pub(crate) struct Table {
    names: BTreeSet<String>,
    broken: Vec<String>,
}

impl Table {
    /// Asks all rows of the process there, one after the other. Returns all answers.
    pub(crate) async fn ask(&mut self, title: &str, at: SocketAddr, rows: Vec<Row>) -> Vec<Answer> {
        let mut all = Vec::new();
        println!("\n== {title}");
        for row in rows {
            let name = row.name.clone();
            assert!(
                self.names.insert(format!("{title}: {name}")),
                "{name:?} is twice in {title:?}"
            );
            let (answers, outcome) = ask(at, row).await;
            let statuses: Vec<String> = answers.iter().map(|answer| answer.status.to_string()).collect();
            let statuses = if statuses.is_empty() {
                "none".to_owned()
            } else {
                statuses.join(" ")
            };
            println!("{} {statuses:<7} {name}", if outcome.is_ok() { "  " } else { "✗ " });
            if let Err(why) = outcome {
                let came: String = answers.iter().map(shown).collect();
                self.broken.push(format!("{title}: {name}\n    {why}{came}"));
            }
            all.extend(answers);
        }
        all
    }

    /// One more promise, which is no single request.
    pub(crate) fn hold(&mut self, name: &str, outcome: Result<(), String>) {
        println!("{} {:<7} {name}", if outcome.is_ok() { "  " } else { "✗ " }, "");
        self.names.insert(name.to_owned());
        self.broken
            .extend(outcome.err().map(|why| format!("{name}\n    {why}")));
    }

    /// All rows hold.
    pub(crate) fn end(self) {
        let (broken, all) = (self.broken.len(), self.names.len());
        assert!(
            broken == 0,
            "{broken} of {all} do not hold:\n{}",
            self.broken.join("\n")
        );
    }
}

fn shown(answer: &Answer) -> String {
    let body: String = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
    format!("\n    {} {:?} {body}", answer.status, answer.headers)
}

/// The answers as far as they came, and whether all of it is as promised.
async fn ask(at: SocketAddr, row: Row) -> (Vec<Answer>, Result<(), String>) {
    let (sender, mut answers) = tokio::sync::mpsc::channel(16);
    // A task, so that what the client cannot read is a row that does not hold, and no end of the table.
    let asked = tokio::spawn(timeout(DEADLINE, talk(at, row, sender)));
    let outcome = match asked.await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(format!("not done within {DEADLINE:?}")),
        Err(died) => Err(match died.into_panic().downcast::<String>() {
            Ok(said) => *said,
            Err(_) => "the client failed".to_owned(),
        }),
    };
    let mut came = Vec::new();
    while let Some(answer) = answers.recv().await {
        came.push(answer);
    }
    (came, outcome)
}

async fn talk(at: SocketAddr, row: Row, came: tokio::sync::mpsc::Sender<Answer>) -> Result<(), String> {
    let mut client = RawClient::connect(at).await;
    let mut began = Instant::now();
    client.send(&row.request).await;
    if row.half_closes {
        client.0.shutdown().await.map_err(|cause| cause.to_string())?;
    }
    for expected in &row.expected.answers {
        let mut answer = match expected.body {
            Body::OfHead => client.head().await,
            _ => client.answer().await,
        };
        let took = began.elapsed();
        if answer.status == 200 && !matches!(expected.body, Body::OfHead) && has_no_length(&answer) {
            answer.body = client.rest().await;
        }
        let outcome = expected.check(&answer, took);
        came.send(answer)
            .await
            .map_err(|_| "nobody takes the answers".to_owned())?;
        outcome?;
        began = Instant::now();
        client.send(&expected.then_sends).await;
    }
    if row.expected.closes {
        let more = client.rest().await;
        let more = String::from_utf8_lossy(&more);
        ensure(more.is_empty(), || format!("more comes: {more:.200}"))?;
    }
    Ok(())
}

/// It ends with its connection, as to HTTP/1.0.
fn has_no_length(answer: &Answer) -> bool {
    answer.header("content-length").is_none() && answer.header("transfer-encoding").is_none()
}
