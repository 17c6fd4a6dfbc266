//! `POST /log`: one message, or an array of them of which each stands or fails alone.

use std::collections::HashMap;
use std::fmt;

use hyper::StatusCode;
use hyper::header::IF_NONE_MATCH;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::engine::{self, Appended, IfPresent, LogStore};
use crate::http::reply::{self, HttpError, Reply};
use crate::http::request::{self, JSON_SPACE, Request};
use crate::message::{MAX_IDENTIFIER_BYTES, MAX_TEXT_BYTES, Message};
use crate::roles::deadline::{ENGINE_DEADLINE, no_answer};

/// Most messages of one array.
const MAX_MESSAGES: usize = 1024;

/// Longest body with an array, in bytes.
const MAX_ARRAY_BYTES: usize = 8 * 1024 * 1024;

/// Longest body with one message, in bytes: JSON may write each byte of a text as six (`\u0001`), and there is an
/// identifier beside it.
const MAX_SINGLE_BYTES: usize = 7 * 1024 * 1024;

/// Stores what is posted.
///
/// One message: 201, or an error. An array: 201 where all are stored, else 207; both with the status of each. Where the
/// store is away for all of an array, or known to be away before any of it, that is a plain 503.
pub(super) async fn log(store: &dyn LogStore, mut request: Request) -> Result<Reply, HttpError> {
    let if_present = if_present(&request)?;
    let text = request.json_text(MAX_ARRAY_BYTES).await?;
    if text.trim_start_matches(JSON_SPACE).starts_with('[') {
        return log_array(store, parse_array(&text)?, if_present).await;
    }
    if text.len() > MAX_SINGLE_BYTES {
        return Err(HttpError::too_large(format!(
            "the body has more than {MAX_SINGLE_BYTES} bytes"
        )));
    }
    log_single(store, parse_message(&text)?, if_present).await
}

/// `If-None-Match: *` keeps the first text of an identifier.
fn if_present(request: &Request) -> Result<IfPresent, HttpError> {
    let mut given = request.headers().get_all(IF_NONE_MATCH).iter();
    match (given.next(), given.next()) {
        (None, _) => Ok(IfPresent::Replace),
        (Some(value), None) if value == "*" => Ok(IfPresent::Keep),
        _ => Err(HttpError::bad_request(
            "If-None-Match is not *, the only value that has a meaning here",
        )),
    }
}

async fn log_single(store: &dyn LogStore, message: Message, if_present: IfPresent) -> Result<Reply, HttpError> {
    store.check()?;
    let message = [message];
    let outcome = append(store, &message, if_present).await.pop();
    let [message] = message;
    match outcome {
        Some(Ok(Appended::Stored)) => {
            let stored = json!({ "identifier": message.identifier });
            Ok(reply::json(StatusCode::CREATED, &stored))
        }
        Some(Ok(Appended::Conflict)) => Err(HttpError::conflict(
            "another text is logged under this identifier, and stays",
        )),
        Some(Err(away)) => Err(away.into()),
        None => Err(HttpError::internal()),
    }
}

async fn log_array(
    store: &dyn LogStore,
    items: Vec<Result<Message, Refused>>,
    if_present: IfPresent,
) -> Result<Reply, HttpError> {
    let mut messages = Vec::with_capacity(items.len());
    let mut refusals = Vec::with_capacity(items.len());
    for item in items {
        refusals.push(item.map(|message| messages.push(message)).err());
    }
    if !messages.is_empty() {
        store.check()?;
    }
    let outcomes = append(store, &messages, if_present).await;
    let (mut away, mut away_count) = (None, 0);
    let mut stored = messages.into_iter().zip(outcomes).map(|(message, outcome)| {
        let status = match outcome {
            Ok(Appended::Stored) => StatusCode::CREATED,
            Ok(Appended::Conflict) => StatusCode::CONFLICT,
            Err(error) => {
                away_count += 1;
                away = Some(error);
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Status {
            identifier: Some(message.identifier),
            status: status.as_u16(),
        }
    });
    let mut statuses = Vec::with_capacity(refusals.len());
    for refusal in refusals {
        match refusal {
            Some(refused) => statuses.push(Status {
                identifier: refused.identifier,
                status: refused.status.as_u16(),
            }),
            None => statuses.push(stored.next().ok_or_else(HttpError::internal)?),
        }
    }
    drop(stored);
    if let Some(away) = away {
        if away_count == statuses.len() {
            return Err(away.into());
        }
        reply::log_unavailable(&away);
    }
    let all_created = statuses.iter().all(|item| item.status == StatusCode::CREATED.as_u16());
    let status = if all_created {
        StatusCode::CREATED
    } else {
        StatusCode::MULTI_STATUS
    };
    Ok(reply::json(status, &statuses))
}

/// Appends the messages, all within [`ENGINE_DEADLINE`]; one outcome for each, in their order.
///
/// Of several messages with one identifier the store sees one per round, in their order, so that the later replaces the
/// earlier, or the first stays. It promises that only for calls after each other.
async fn append(store: &dyn LogStore, messages: &[Message], if_present: IfPresent) -> Vec<engine::Result<Appended>> {
    let deadline = Instant::now() + ENGINE_DEADLINE;
    let rounds = rounds(messages);
    if rounds.len() <= 1 {
        return append_until(deadline, store, messages, if_present).await;
    }
    let mut outcomes: Vec<_> = messages
        .iter()
        .map(|_| Err(no_answer(store, ENGINE_DEADLINE)))
        .collect();
    for round in rounds {
        let part: Vec<Message> = round
            .iter()
            .filter_map(|position| messages.get(*position))
            .cloned()
            .collect();
        let answered = append_until(deadline, store, &part, if_present).await;
        for (position, outcome) in round.into_iter().zip(answered) {
            if let Some(place) = outcomes.get_mut(position) {
                *place = outcome;
            }
        }
    }
    outcomes
}

/// The positions of the messages, so divided that no identifier is twice in a round. The n-th message of an identifier is
/// in the n-th round.
fn rounds(messages: &[Message]) -> Vec<Vec<usize>> {
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(messages.len());
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    for (position, message) in messages.iter().enumerate() {
        let times = seen.entry(&message.identifier).or_default();
        match rounds.get_mut(*times) {
            Some(round) => round.push(position),
            None => rounds.push(vec![position]),
        }
        *times += 1;
    }
    rounds
}

async fn append_until(
    deadline: Instant,
    store: &dyn LogStore,
    messages: &[Message],
    if_present: IfPresent,
) -> Vec<engine::Result<Appended>> {
    if messages.is_empty() {
        return Vec::new();
    }
    match tokio::time::timeout_at(deadline, store.append(messages, if_present)).await {
        Ok(outcomes) => outcomes,
        Err(_) => messages
            .iter()
            .map(|_| Err(no_answer(store, ENGINE_DEADLINE)))
            .collect(),
    }
}

/// What became of one item of an array.
#[derive(Serialize)]
struct Status {
    /// `None` where the item has none that can be read.
    identifier: Option<String>,
    status: u16,
}

/// An item of an array that is no message that can be taken.
#[derive(Debug)]
struct Refused {
    identifier: Option<String>,
    status: StatusCode,
}

fn parse_message(text: &str) -> Result<Message, HttpError> {
    let message: Message = request::object(text)?;
    if !(1..=MAX_IDENTIFIER_BYTES).contains(&message.identifier.len()) {
        return Err(HttpError::unprocessable(format!(
            "the identifier does not have 1 to {MAX_IDENTIFIER_BYTES} bytes"
        )));
    }
    if message.text.len() > MAX_TEXT_BYTES {
        return Err(HttpError::too_large(format!(
            "the text has more than {MAX_TEXT_BYTES} bytes"
        )));
    }
    Ok(message)
}

fn parse_array(text: &str) -> Result<Vec<Result<Message, Refused>>, HttpError> {
    let items: Items<'_> = serde_json::from_str(text).map_err(|cause| request::json_error(text, &cause))?;
    if items.0.len() > MAX_MESSAGES {
        return Err(HttpError::too_large(format!(
            "the array has more than {MAX_MESSAGES} messages"
        )));
    }
    Ok(items.0.into_iter().map(parse_item).collect())
}

fn parse_item(item: &RawValue) -> Result<Message, Refused> {
    parse_message(item.get()).map_err(|error| {
        // The array as a whole is well-formed, so what is wrong with one item is that it does not fit.
        let status = match error.status() {
            StatusCode::BAD_REQUEST => StatusCode::UNPROCESSABLE_ENTITY,
            status => status,
        };
        Refused {
            identifier: identifier_of(item),
            status,
        }
    })
}

/// The identifier of an item that is no message otherwise. Nothing else of the item is kept: it may be large.
fn identifier_of(item: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Identified {
        identifier: String,
    }
    request::object::<Identified>(item.get())
        .ok()
        .map(|item| item.identifier)
}

/// The items of an array, as they stand in the text. Of those past one more than [`MAX_MESSAGES`] none is kept.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Items<'de>, A::Error> {
        let mut items = Vec::new();
        while items.len() <= MAX_MESSAGES {
            match array.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(Items(items)),
            }
        }
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Items(items))
    }
}
