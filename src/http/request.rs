//! [`Request`]: what a client asks for, parsed strictly.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::Method;
use hyper::body::Body as _;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::body::Broken;
use super::reply::HttpError;

/// Room for the bodies of all requests of a server, in bytes. Clones share it.
#[derive(Clone, Debug)]
pub struct BodyRoom {
    free: Arc<Semaphore>,
    bytes: usize,
}

impl BodyRoom {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> BodyRoom {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        BodyRoom {
            free: Arc::new(Semaphore::new(bytes)),
            bytes,
        }
    }

    /// Takes room for so many bytes.
    ///
    /// # Errors
    ///
    /// 503 where there is none. It is not waited for: those who have some may be waiting for more.
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, HttpError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.free.clone().try_acquire_many_owned(bytes).map_err(|_| {
            let room = self.bytes;
            HttpError::unavailable(format!(
                "overloaded: this instance has {room} bytes of requests in work"
            ))
        })
    }
}

/// A request whose head has arrived.
#[derive(Debug)]
pub struct Request {
    head: Parts,
    body: UnsyncBoxBody<Bytes, Broken>,
    /// What was read of the body to know whether there is any.
    first: Option<Bytes>,
    /// How long the whole body may take, from the moment on that it is asked for.
    body_timeout: Duration,
    /// When that is over, once it is asked for.
    body_due: Option<Instant>,
    room: BodyRoom,
    /// The room that the body takes, from its reading on until the request is dropped.
    taken: Option<OwnedSemaphorePermit>,
}

impl Request {
    /// A request as a handler sees it. `HEAD` becomes `GET`: the server leaves the body of the answer out by itself.
    pub fn new<B>(request: hyper::Request<B>, body_timeout: Duration, room: BodyRoom) -> Request
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Broken>,
    {
        let (mut head, body) = request.into_parts();
        if head.method == Method::HEAD {
            head.method = Method::GET;
        }
        Request {
            head,
            body: body.map_err(Into::into).boxed_unsync(),
            first: None,
            body_timeout,
            body_due: None,
            room,
            taken: None,
        }
    }

    /// The method; `GET` for a `HEAD`.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// The path as it was sent.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The query's parameters, decoded.
    ///
    /// # Errors
    ///
    /// 400 where any of them is no valid percent-encoding of UTF-8.
    pub fn query(&self) -> Result<Query, HttpError> {
        Query::parse(self.head.uri.query().unwrap_or_default())
    }

    /// Whether there is a body that is not empty. Of one whose length is not announced the first bytes are awaited.
    ///
    /// # Errors
    ///
    /// 408 where they do not arrive in time, 400 where it breaks off before.
    pub async fn has_body(&mut self) -> Result<bool, HttpError> {
        if self.first.is_none() {
            if let Some(length) = self.body.size_hint().exact() {
                return Ok(length > 0);
            }
            self.first = self.in_time(async |request| request.next_piece().await).await?;
        }
        Ok(self.first.is_some())
    }

    /// Whether the content type is that of JSON.
    pub fn is_json(&self) -> bool {
        require_json(&self.head.headers).is_ok()
    }

    /// Reads the whole body, of at most `limit` bytes. It counts against the server's [`BodyRoom`] until the request is
    /// dropped: keep that for as long as you keep what you make of the body. A second call finds nothing more to read.
    ///
    /// # Errors
    ///
    /// 413 over the limit (before anything is read where the client has announced it), 408 where it does not arrive in
    /// time, 400 where it breaks off, 503 where other bodies have taken the room.
    pub async fn bytes(&mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        self.in_time(async |request| request.collect(limit).await).await
    }

    /// What is read of the body, or a 408 where its time is over before.
    async fn in_time<T>(&mut self, read: impl AsyncFnOnce(&mut Self) -> Result<T, HttpError>) -> Result<T, HttpError> {
        let body_timeout = self.body_timeout;
        let due = *self.body_due.get_or_insert_with(|| Instant::now() + body_timeout);
        let read = tokio::time::timeout_at(due, read(self)).await;
        read.unwrap_or_else(|_| {
            let told = format!("the body did not arrive within {body_timeout:?}");
            Err(HttpError::request_timeout(told))
        })
    }

    async fn collect(&mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        let too_large = || HttpError::too_large(format!("the body has more than {limit} bytes"));
        let announced = usize::try_from(self.body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > limit {
            return Err(too_large());
        }
        // Neither memory nor room for what is only announced: a client may announce much and send nothing.
        let mut collected = Vec::with_capacity(announced.min(FIRST_BYTES));
        let mut piece = self.first.take();
        loop {
            if piece.is_none() {
                piece = self.next_piece().await?;
            }
            let Some(data) = piece.take() else {
                return Ok(collected);
            };
            if data.len() > limit.saturating_sub(collected.len()) {
                return Err(too_large());
            }
            self.take_room(data.len())?;
            collected.extend_from_slice(&data);
        }
    }

    /// The next bytes of the body, or `None` at its end.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, HttpError> {
        while let Some(frame) = self.body.frame().await {
            let frame =
                frame.map_err(|cause| HttpError::bad_request(format!("the body could not be read: {cause}")))?;
            match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn take_room(&mut self, bytes: usize) -> Result<(), HttpError> {
        let more = self.room.take(bytes)?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }

    /// Reads a JSON body of at most `limit` bytes, as text.
    ///
    /// # Errors
    ///
    /// 415 where the content type is anything but `application/json` (with whatever parameters), 400 where the body is
    /// no UTF-8, and those of [`Request::bytes`].
    pub async fn json_text(&mut self, limit: usize) -> Result<String, HttpError> {
        require_json(&self.head.headers)?;
        let bytes = self.bytes(limit).await?;
        String::from_utf8(bytes).map_err(|cause| HttpError::bad_request(format!("the body is no UTF-8: {cause}")))
    }

    /// Reads a JSON object of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// Those of [`Request::json_text`] and of [`object`].
    pub async fn json_object<T: for<'de> Deserialize<'de>>(&mut self, limit: usize) -> Result<T, HttpError> {
        object(&self.json_text(limit).await?)
    }
}

/// The memory that a body gets before any of it has arrived.
const FIRST_BYTES: usize = 16 * 1024;

fn require_json(headers: &HeaderMap) -> Result<(), HttpError> {
    let Some(given) = headers.get(CONTENT_TYPE) else {
        return Err(HttpError::unsupported_media_type(
            "the body has no content type; application/json is taken",
        ));
    };
    let given = given.to_str().unwrap_or("(no text)");
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(HttpError::unsupported_media_type(format!(
        "the body is {given:?}; application/json is taken"
    )))
}

/// Parses a JSON object. Fields that `T` does not know are ignored.
///
/// # Errors
///
/// 400 where the text is no JSON or gives a field twice; 422 where it is no object, or a field is missing or of the
/// wrong type.
pub fn object<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, HttpError> {
    if text.trim_start_matches(JSON_SPACE).starts_with('{') {
        return serde_json::from_str(text).map_err(|cause| json_error(text, &cause));
    }
    // The library would take an array in the order of the fields, and would call an object by the name that it has here.
    Err(match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => HttpError::unprocessable("the body is no JSON object"),
        Err(cause) => json_error(text, &cause),
    })
}

/// What JSON takes for white space.
pub const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Which error a text is that could not be parsed: malformed (400), or not what was asked for (422).
pub fn json_error(text: &str, cause: &serde_json::Error) -> HttpError {
    let malformed = |cause: &dyn std::fmt::Display| HttpError::bad_request(format!("the body is no JSON: {cause}"));
    let said = cause.to_string();
    // The library takes it for a fault of syntax, but JSON has numbers of any size.
    let is_data = cause.is_data() || said.starts_with("number out of range");
    if !is_data {
        return malformed(cause);
    }
    // Parsing stops at the first field of a wrong type; what follows may be malformed all the same.
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(cause) => malformed(&cause),
        Ok(_) if said.starts_with("duplicate field") => {
            HttpError::bad_request(format!("the body is ambiguous: {said}"))
        }
        Ok(_) => HttpError::unprocessable(format!("the body does not fit: {said}")),
    }
}

/// The parameters of a query, decoded, in the order in which they came.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The parameters of a query as it stands in a URI.
    ///
    /// # Errors
    ///
    /// 400 where any of them is no valid percent-encoding of UTF-8.
    pub fn parse(raw: &str) -> Result<Query, HttpError> {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        Ok(Query(pairs.collect::<Result<_, HttpError>>()?))
    }

    /// The value of a parameter, or `None` where there is no such parameter.
    ///
    /// # Errors
    ///
    /// 400 where it is given more than once.
    pub fn get(&self, name: &str) -> Result<Option<&str>, HttpError> {
        let mut values = self
            .0
            .iter()
            .filter(|(given, _)| given == name)
            .map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(HttpError::bad_request(format!(
                "the parameter {name} is given more than once"
            ))),
        }
    }

    /// A parameter that is `true` or `false`, and false where it is not given.
    ///
    /// # Errors
    ///
    /// 400 where it is anything else, or given more than once.
    pub fn flag(&self, name: &str) -> Result<bool, HttpError> {
        match self.get(name)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(HttpError::bad_request(format!(
                "the parameter {name} is neither true nor false"
            ))),
        }
    }
}

/// Decodes one name or value of a query: `+` is a space, `%` and two hex digits are a byte, all bytes are UTF-8.
fn decode(raw: &str) -> Result<String, HttpError> {
    // The library leaves a malformed escape as it stands.
    let escapes = raw.as_bytes().split(|byte| *byte == b'%').skip(1);
    for escape in escapes {
        if !matches!(escape, [first, second, ..] if first.is_ascii_hexdigit() && second.is_ascii_hexdigit()) {
            return Err(HttpError::bad_request(
                "the query has a % that is not followed by two hex digits",
            ));
        }
    }
    let spaced = if raw.contains('+') {
        Cow::Owned(raw.replace('+', " "))
    } else {
        Cow::Borrowed(raw)
    };
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(cause) => Err(HttpError::bad_request(format!(
            "the query is no UTF-8 once decoded: {cause}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};
    use hyper::StatusCode;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Named {
        name: String,
        size: u32,
    }

    fn status<T: std::fmt::Debug>(result: Result<T, HttpError>) -> StatusCode {
        result.unwrap_err().status()
    }

    fn query(raw: &str) -> Result<Query, HttpError> {
        Query::parse(raw)
    }

    fn post(content_type: Option<&str>, body: &'static [u8]) -> Request {
        let mut request = hyper::Request::post("/log");
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        Request::new(
            request.body(Full::from(body)).unwrap(),
            Duration::from_secs(5),
            BodyRoom::new(1000),
        )
    }

    #[test]
    fn a_query_is_decoded() {
        let query = query("text=a%20b+c%2B%26&empty=&bare&n%61me=%D1%82").unwrap();
        assert_eq!(query.get("text").unwrap(), Some("a b c+&"));
        assert_eq!(query.get("empty").unwrap(), Some(""));
        assert_eq!(query.get("bare").unwrap(), Some(""));
        assert_eq!(query.get("name").unwrap(), Some("т"));
        assert_eq!(query.get("other").unwrap(), None);
    }

    #[test]
    fn a_malformed_escape_is_a_400_in_any_parameter() {
        for raw in [
            "text=%",
            "text=%4",
            "text=a%zzb",
            "text=%+1",
            "text=%%41",
            "x%=1",
            "text=ok&other=%e",
        ] {
            assert_eq!(status(query(raw)), StatusCode::BAD_REQUEST, "{raw}");
        }
    }

    #[test]
    fn a_query_that_is_no_utf_8_is_a_400() {
        for raw in ["text=%FF", "text=%C3", "text=%ED%A0%80", "text=%C0%80"] {
            assert_eq!(status(query(raw)), StatusCode::BAD_REQUEST, "{raw}");
        }
    }

    #[test]
    fn a_parameter_that_is_given_twice_is_a_400() {
        assert_eq!(
            status(query("text=a&text=a").unwrap().get("text")),
            StatusCode::BAD_REQUEST
        );
    }

    #[test]
    fn a_flag_is_true_or_false_and_nothing_else() {
        assert!(query("full=true").unwrap().flag("full").unwrap());
        assert!(!query("full=false").unwrap().flag("full").unwrap());
        assert!(!query("other=1").unwrap().flag("full").unwrap());
        for raw in ["full", "full=", "full=1", "full=True", "full=true&full=true"] {
            assert_eq!(
                status(query(raw).unwrap().flag("full")),
                StatusCode::BAD_REQUEST,
                "{raw}"
            );
        }
    }

    #[test]
    fn an_object_is_taken_with_fields_that_nobody_knows() {
        let named = object::<Named>(" {\"name\":\"a\",\"extra\":[{}],\"size\":1}\n").unwrap();
        assert_eq!(
            named,
            Named {
                name: "a".to_owned(),
                size: 1
            }
        );
    }

    #[test]
    fn json_that_is_malformed_is_a_400_wherever_the_fault_stands() {
        let texts = [
            "",
            " ",
            "{",
            "{\"name\":\"a\"",
            "{\"name\":\"a\",\"size\":1}}",
            "{\"name\":5,\"size\":1",
            "{\"name\":5,\"size\":1}x",
            "{\"name\":1e999,\"size\":1",
            "{\"name\":\"\\ud800\",\"size\":1}",
            "{name:\"a\"}",
            "{\"name\":\"a\",\"name\":\"a\",\"size\":1}",
        ];
        for text in texts {
            assert_eq!(status(object::<Named>(text)), StatusCode::BAD_REQUEST, "{text}");
        }
    }

    #[test]
    fn what_is_no_object_is_called_so_and_in_no_words_of_this_program() {
        for text in ["null", "1", "1e999", "\"a\"", "[]", "[5]", "[\"a\",1]", " [[]]"] {
            let refused = object::<Named>(text).unwrap_err();
            let told = (refused.status(), refused.message());
            assert_eq!(
                told,
                (StatusCode::UNPROCESSABLE_ENTITY, "the body is no JSON object"),
                "{text}"
            );
        }
    }

    #[test]
    fn json_that_does_not_fit_is_a_422() {
        let texts = [
            "{}",
            "null",
            "1",
            "\"a\"",
            "[\"a\",1]",
            "{\"name\":\"a\"}",
            "{\"name\":null,\"size\":1}",
            "{\"name\":\"a\",\"size\":-1}",
            "{\"name\":1e999,\"size\":1}",
            "{\"name\":\"a\",\"size\":1e999}",
            "{\"name\":{\"a\":\"b\"},\"size\":1}",
        ];
        for text in texts {
            assert_eq!(
                status(object::<Named>(text)),
                StatusCode::UNPROCESSABLE_ENTITY,
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn a_json_body_has_the_content_type_of_json() {
        let body = b"{\"name\":\"a\",\"size\":1}";
        for content_type in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json ;x=y",
        ] {
            assert!(
                post(Some(content_type), body).json_object::<Named>(100).await.is_ok(),
                "{content_type}"
            );
        }
        for content_type in [
            None,
            Some("text/plain"),
            Some("application/jsonp"),
            Some(""),
            Some("application/json-seq"),
        ] {
            let refused = post(content_type, body).json_object::<Named>(100).await;
            assert_eq!(status(refused), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type:?}");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_no_utf_8_is_a_400() {
        let refused = post(Some("application/json"), b"{\"name\":\"\xFF\",\"size\":1}")
            .json_object::<Named>(100)
            .await;
        assert_eq!(status(refused), StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_a_413_and_one_at_the_limit_is_not() {
        assert_eq!(post(None, b"12345").bytes(5).await.unwrap(), b"12345");
        assert_eq!(
            status(post(None, b"123456").bytes(5).await),
            StatusCode::PAYLOAD_TOO_LARGE
        );
    }

    #[test]
    fn a_head_is_handled_as_a_get() {
        let request = hyper::Request::head("/logs").body(Empty::<Bytes>::new()).unwrap();
        let request = Request::new(request, Duration::from_secs(1), BodyRoom::new(0));
        assert_eq!(request.method(), Method::GET);
    }

    #[tokio::test]
    async fn bodies_that_together_exceed_the_room_are_a_503_until_one_is_done() {
        let room = BodyRoom::new(10);
        let post = |body: &'static [u8]| {
            let request = hyper::Request::post("/log").body(Full::from(body)).unwrap();
            Request::new(request, Duration::from_secs(5), room.clone())
        };
        let (mut first, mut second, mut third) = (post(b"123456"), post(b"12345"), post(b"1234"));
        assert_eq!(first.bytes(10).await.unwrap(), b"123456");
        assert_eq!(status(second.bytes(10).await), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(third.bytes(10).await.unwrap(), b"1234");
        drop(first);
        assert_eq!(post(b"123456").bytes(10).await.unwrap(), b"123456");
    }
}
