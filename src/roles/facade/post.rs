//! `POST /message`: reads the message that a client posts.
//!
//! The text is the query's `text`, or that of a JSON object in the body, but not both. In a query, `+` is a space, as
//! HTML forms, browsers' `URLSearchParams` and Python's `urllib` and `requests` write it; a plus sign is `%2B`.

use hyper::header::HeaderName;
use serde::de::{Deserialize, Deserializer, IgnoredAny};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::http::reply::HttpError;
use crate::http::request::Request;
use crate::message::MAX_TEXT_BYTES;

/// Makes a retry the same message. A draft of the IETF, and custom.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Longest body, in bytes: JSON may write each byte of a text as six (`\u0001`).
const MAX_BODY_BYTES: usize = 7 * 1024 * 1024;

/// What a client posted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Posted {
    pub(super) text: String,
    /// The client's key, where there is one, which is its identifier then: another text under it is a conflict.
    pub(super) key: Option<Uuid>,
}

impl Posted {
    /// Reads a request. It is to be kept for as long as the message: the server counts the bodies that are in memory.
    ///
    /// # Errors
    ///
    /// 400 where the query, the JSON or the key is malformed, or there are two texts; 413, 415, 422 as
    /// [`Request::json_object`], and 413 for a text of more than [`MAX_TEXT_BYTES`].
    pub(super) async fn read(request: &mut Request) -> Result<Posted, HttpError> {
        let key = key(request)?;
        let text = text(request).await?;
        if text.len() > MAX_TEXT_BYTES {
            return Err(HttpError::too_large(format!(
                "the text has more than {MAX_TEXT_BYTES} bytes"
            )));
        }
        Ok(Posted { text, key })
    }
}

/// The `Idempotency-Key`: a UUID as it is usually written, in either case. The draft has it in quotes, most clients not.
fn key(request: &Request) -> Result<Option<Uuid>, HttpError> {
    let mut given = request.headers().get_all(IDEMPOTENCY_KEY).iter();
    let (Some(value), rest) = (given.next(), given.next()) else {
        return Ok(None);
    };
    if rest.is_some() {
        return Err(HttpError::bad_request("Idempotency-Key is given more than once"));
    }
    let value = value.to_str().unwrap_or_default();
    let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let value = bare.unwrap_or(value);
    match value.parse() {
        // The library reads other ways of writing it, too.
        Ok(key) if value.len() == Hyphenated::LENGTH => Ok(Some(key)),
        _ => Err(HttpError::bad_request(
            "Idempotency-Key is no UUID, such as 01890a5d-ac96-774b-bcce-b302099a8057",
        )),
    }
}

async fn text(request: &mut Request) -> Result<String, HttpError> {
    let query = request.query()?;
    let Some(text) = query.get("text")? else {
        return text_of_body(request).await;
    };
    // Clients send an empty body with whatever content type.
    if request.has_body().await? && request.json_object::<Given>(MAX_BODY_BYTES).await?.text {
        return Err(HttpError::bad_request(
            "the text is given both in the query and in the body",
        ));
    }
    Ok(text.to_owned())
}

async fn text_of_body(request: &mut Request) -> Result<String, HttpError> {
    #[derive(serde::Deserialize)]
    struct Body {
        text: String,
    }
    if !request.is_json() && !request.has_body().await? {
        return Err(HttpError::unprocessable(
            "the text is missing: it is the query's text, or that of a JSON object in the body",
        ));
    }
    Ok(request.json_object::<Body>(MAX_BODY_BYTES).await?.text)
}

/// Whether an object has a text, whatever it is.
#[derive(serde::Deserialize)]
struct Given {
    #[serde(default, deserialize_with = "present")]
    text: bool,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::StatusCode;
    use hyper::body::Frame;

    use super::*;
    use crate::http::request::BodyRoom;

    const JSON: &str = "content-type: application/json";
    const FORM: &str = "content-type: application/x-www-form-urlencoded";
    const KEY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    async fn read(query: &str, headers: &[&str], body: impl Into<Bytes>) -> Result<Posted, HttpError> {
        let mut request = hyper::Request::post(format!("/message{query}"));
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        Posted::read(&mut Request::new(
            request,
            Duration::from_secs(5),
            BodyRoom::new(MAX_BODY_BYTES),
        ))
        .await
    }

    async fn status(query: &str, headers: &[&str], body: impl Into<Bytes>) -> u16 {
        read(query, headers, body)
            .await
            .map_or_else(|error| error.status().as_u16(), |_| 201)
    }

    #[tokio::test]
    async fn a_text_is_taken_from_the_query_or_from_json() {
        for (query, headers, body, text) in [
            ("?text=a%20b", &[][..], "", "a b"),
            ("?text=a+b%2Bc", &[], "", "a b+c"),
            ("?text=%D1%82%F0%9D%84%9E%00", &[], "", "т\u{1D11E}\0"),
            ("?text=", &[], "", ""),
            ("?text", &[], "", ""),
            ("?other=1&text=a&Text=b", &[], "", "a"),
            ("?text=a", &[FORM], "", "a"),
            ("?text=a", &[JSON], "", "a"),
            ("?text=a", &[JSON], "{}", "a"),
            ("?other=1", &[JSON], "{\"text\":\"b\",\"more\":[1]}", "b"),
            (
                "",
                &["content-type: Application/JSON;charset=utf-8"],
                "{\"text\":\"\\u0000\\ud834\\udd1e+%20\"}",
                "\0\u{1D11E}+%20",
            ),
            ("", &[JSON], " {\"text\":\"\"}\n", ""),
        ] {
            let posted = read(query, headers, body).await.unwrap();
            assert_eq!(posted.text, text, "{query} {body}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_request_is_said_by_its_status() {
        for (expected, query, headers, body) in [
            (400, "?text=%", &[][..], ""),
            (400, "?text=%zz", &[], ""),
            (400, "?text=%FF", &[], ""),
            (400, "?text=%ED%A0%80", &[], ""),
            (400, "?text=a&other=%", &[], ""),
            (400, "?text=a&text=a", &[], ""),
            (400, "?text=a&text", &[], ""),
            (400, "?text=a", &[JSON], "{\"text\":\"a\"}"),
            (400, "?text=a", &[JSON], "{\"text\":null}"),
            (400, "?text=a", &[JSON], "{\"text\":5}"),
            (400, "?text=a", &[JSON], "{"),
            (400, "?text=a&text=a", &[JSON], "{\"text\":\"a\"}"),
            (400, "", &[JSON], ""),
            (400, "", &[JSON], "{\"text\":\"a\""),
            (400, "", &[JSON], "{\"text\":\"a\"} x"),
            (400, "", &[JSON], "{\"text\":\"a\",\"text\":\"a\"}"),
            (400, "", &[JSON], "{\"text\":\"\\ud800\"}"),
            (415, "", &[], "{\"text\":\"a\"}"),
            (415, "", &[FORM], "text=a"),
            (415, "?text=a", &[FORM], "text=a"),
            (415, "", &["content-type: text/plain"], "a"),
            (422, "", &[], ""),
            (422, "", &[FORM], ""),
            (422, "?texts=a", &[], ""),
            (422, "", &[JSON], "{}"),
            (422, "", &[JSON], "{\"text\":null}"),
            (422, "", &[JSON], "{\"text\":5}"),
            (422, "", &[JSON], "{\"text\":[\"a\"]}"),
            (422, "", &[JSON], "[\"a\"]"),
            (422, "", &[JSON], "\"a\""),
            (422, "?text=a", &[JSON], "[]"),
        ] {
            assert_eq!(
                status(query, headers, body).await,
                expected,
                "{query} {headers:?} {body}"
            );
        }
        assert_eq!(status("", &[JSON], &b"{\"text\":\"\xFF\"}"[..]).await, 400);
    }

    #[tokio::test]
    async fn a_text_has_at_most_one_mebibyte_however_it_is_written() {
        let json = |text: &str| format!("{{\"text\":\"{text}\"}}");
        let escaped = "\\u0001".repeat(MAX_TEXT_BYTES);
        assert_eq!(status("", &[JSON], json(&escaped)).await, 201);
        assert_eq!(status("", &[JSON], json(&(escaped + "a"))).await, 413);
        assert_eq!(status("", &[JSON], json(&"т".repeat(MAX_TEXT_BYTES / 2))).await, 201);
        assert_eq!(
            status("", &[JSON], json(&"т".repeat(MAX_TEXT_BYTES / 2 + 1))).await,
            413
        );
        let spaces = " ".repeat(MAX_BODY_BYTES - json("a").len());
        assert_eq!(status("", &[JSON], json("a") + &spaces).await, 201);
        assert_eq!(status("", &[JSON], json("a") + &spaces + " ").await, 413);
    }

    #[tokio::test]
    async fn a_key_is_a_uuid_in_either_case_with_quotes_or_without() {
        for key in [KEY.to_owned(), KEY.to_uppercase(), format!("\"{KEY}\"")] {
            let posted = read("?text=a", &[&format!("Idempotency-Key: {key}")], "")
                .await
                .unwrap();
            assert_eq!(posted.key, Some(KEY.parse().unwrap()));
        }
        for bad in [
            "",
            "a",
            &KEY[1..],
            &KEY.replace('-', ""),
            &format!("{{{KEY}}}"),
            &format!("urn:uuid:{KEY}"),
            "\"",
        ] {
            assert_eq!(
                status("?text=a", &[&format!("idempotency-key: {bad}")], "").await,
                400,
                "{bad}"
            );
        }
        let twice = format!("idempotency-key: {KEY}");
        assert_eq!(status("?text=a", &[&twice, &twice], "").await, 400);
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_counts_as_one_unless_it_turns_out_to_be_empty() {
        let read = async |query: &str, pieces: &[&'static str]| {
            let pieces: Vec<_> = pieces
                .iter()
                .map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(*piece))))
                .collect();
            let request = hyper::Request::post(format!("/message{query}")).header("content-type", "text/plain");
            let request = request.body(StreamBody::new(stream::iter(pieces))).unwrap();
            let mut request = Request::new(request, Duration::from_secs(5), BodyRoom::new(10));
            Posted::read(&mut request).await.map(|posted| posted.text)
        };
        let refused = read("?text=a", &["", "x"]).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(read("?text=a", &[]).await.unwrap(), "a");
        assert_eq!(read("?text=a", &["", ""]).await.unwrap(), "a");
        let refused = read("", &[""]).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    }
}
