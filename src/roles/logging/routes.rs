//! What a logging instance answers, from the log store behind it.
//!
//! | request | answer |
//! |---|---|
//! | `POST /log`, one message or an array of them | 201, 207 where only a part could be stored: see `post` |
//! | `GET /logs` | 200, all texts, streamed; with `?full=true` all messages |
//! | `GET /logs?after=…&limit=N` | 200, a page of the messages in the order of their identifiers, and `Link` to the next one |
//! | `DELETE /logs` | 200, and the log is empty; it is noted in the settings first, see `cleared` |
//! | `GET /health` | 200 while it can take requests, also when the log store is away, which shows in the body |
//!
//! Where the log store is known to be away, the 503 comes at once and names it: a facade tries elsewhere before the
//! store's time is up, and would not hear what is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::{Stream, StreamExt, TryStreamExt};
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::cleared::ClearedAt;
use super::post;
use super::restore::Log;
use crate::engine::{self, LogStore, PageRange};
use crate::http::reply::{self, HttpError, Reply};
use crate::http::request::Request;
use crate::http::server::Handler;
use crate::message::Message;
use crate::roles::deadline::within;
use crate::roles::followed::Slot;
use crate::roles::listing::LeftOut;
use crate::roles::page;
use crate::roles::repair::{Side, Status};

/// What all requests of an instance share.
pub(super) struct Logging {
    pub(super) store: Slot<dyn LogStore>,
    pub(super) repair: Arc<Status>,
    /// Where it is noted that the log was cleared.
    cleared_at: Option<ClearedAt>,
    /// Entries that were left out of answers since the start, because they are no messages.
    skipped: Arc<AtomicU64>,
}

impl Logging {
    /// Without a store so far. That it was cleared is noted by `cleared_at`.
    pub(super) fn noting(cleared_at: Option<ClearedAt>) -> Self {
        Self {
            store: Slot::default(),
            repair: Arc::new(Status::of(Log::LIST)),
            cleared_at,
            skipped: Arc::default(),
        }
    }

    /// `GET /logs`: the texts, or with `full=true` the messages.
    async fn list(&self, store: Arc<dyn LogStore>, full: bool) -> Result<Reply, HttpError> {
        let messages = messages(store, self.skipped.clone());
        if full {
            return reply::json_array(messages).await;
        }
        let text = |message: Message| message.text;
        reply::json_array(messages.map_ok(move |page| page.into_iter().map(text).collect::<Vec<String>>())).await
    }

    /// `GET /logs?after=…&limit=N`: a page of the messages.
    async fn page(&self, store: &dyn LogStore, range: &PageRange) -> Result<Reply, HttpError> {
        store.check_readable()?;
        let page = within(store, store.page(range)).await??;
        LeftOut::of("the log", self.skipped.clone()).count(page.skipped);
        page::answer("/logs", range, page).await
    }

    /// `DELETE /logs`: noted first, or a log that is rebuilt would have again what was cleared.
    async fn clear(&self, store: &dyn LogStore) -> engine::Result<()> {
        store.check()?;
        if let Some(cleared_at) = &self.cleared_at
            && !store.keeps_all()
        {
            cleared_at.note().await?;
        }
        store.clear().await
    }
}

impl Handler for Logging {
    async fn handle(&self, request: Request) -> Result<Reply, HttpError> {
        let store = self
            .store
            .now()
            .ok_or_else(|| HttpError::unavailable("the log store is not open"))?;
        // For every path, also those that look at no parameter: what is malformed is not acted on.
        let query = request.query()?;
        match (request.path(), request.method()) {
            ("/log", &Method::POST) => post::log(&*store, request).await,
            ("/log", _) => Err(HttpError::method_not_allowed("POST")),
            ("/logs", &Method::GET) => {
                let is_full = query.flag("full")?;
                match page::asked(&query)? {
                    Some(range) => self.page(&*store, &range).await,
                    None => self.list(store, is_full).await,
                }
            }
            ("/logs", &Method::DELETE) => {
                within(&*store, self.clear(&*store)).await??;
                Ok(reply::json(StatusCode::OK, &json!({})))
            }
            ("/logs", _) => Err(HttpError::method_not_allowed("GET, HEAD, DELETE")),
            _ => Err(HttpError::not_found()),
        }
    }

    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        if let Some(store) = self.store.details() {
            details.insert("log_store".to_owned(), store);
        }
        details.insert("repair".to_owned(), self.repair.details());
        details.insert(
            "skipped_entries".to_owned(),
            self.skipped.load(Ordering::Relaxed).into(),
        );
        details
    }
}

/// All messages of the log, page by page. A page that does not come within its deadline is an error.
fn messages(
    store: Arc<dyn LogStore>,
    skipped: Arc<AtomicU64>,
) -> impl Stream<Item = engine::Result<Vec<Message>>> + Send + 'static {
    async_stream::try_stream! {
        store.check_readable()?;
        let mut left_out = LeftOut::of("the log", skipped);
        let mut pages = store.all();
        while let Some(page) = within(&*store, pages.next()).await?.transpose()? {
            left_out.count(page.skipped);
            yield page.messages;
        }
    }
}
