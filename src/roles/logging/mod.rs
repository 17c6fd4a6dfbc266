//! `svc logging`: one instance of the log, in front of the log store that all of them share.
//!
//! | request | answer |
//! |---|---|
//! | `POST /log`, one message or an array of them | 201, 207 where only a part could be stored: see `post` |
//! | `GET /logs` | 200, all texts, streamed; with `?full=true` all messages |
//! | `DELETE /logs` | 200, and the log is empty |
//! | `GET /health` | 200 while it can take requests, also when the log store is away, which shows in the body |

mod post;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::FutureExt;
use futures_util::stream::{Stream, StreamExt, TryStreamExt};
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::cli::LoggingOptions;
use crate::config::LoggingSettings;
use crate::engine::{self, LogStore, Page, Settings, Unavailable};
use crate::http::health::Health;
use crate::http::reply::{self, HttpError, Reply};
use crate::http::request::Request;
use crate::http::server::{Handler, Limits, serve};
use crate::message::Message;
use crate::wait::{NotYet, Wait};

/// The role's name, in `GET /health` and in the log.
const ROLE: &str = "logging";

/// How long the log store may take for all that one request asks of it, or for one page of a list. A client is to have
/// its 503 within 5 s.
const STORE_DEADLINE: Duration = Duration::from_millis(4500);

/// Runs one instance until `stop` is done.
///
/// # Errors
///
/// Where the options cannot work, the port cannot be bound, or an engine does not come in time.
pub async fn run(options: LoggingOptions, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let settings = engine::connect_settings(&options.consul.options()?)?;
    let open = async |health: &Health| open_log(&*settings, &options, health).await;
    serve_log(&options.listen.host, options.listen.port, open, stop).await
}

/// Waits for the settings, and for the log store that they name.
async fn open_log(
    settings: &dyn Settings,
    options: &LoggingOptions,
    health: &Health,
) -> anyhow::Result<Arc<dyn LogStore>> {
    let wait = Wait::up_to(options.start.wait);
    health.waiting(format!("waiting for {}", settings.describe()));
    let found = LoggingSettings::wait_for(settings, &options.start.ready_key, &wait).await?;
    let members = options.hazelcast.as_ref().unwrap_or(&found.members);
    let store = engine::connect_log(&found.cluster_name, &found.map_name, members)?;
    health.waiting(format!("waiting for {}", store.describe()));
    let not_yet = |error: Unavailable| NotYet {
        subject: store.describe(),
        answer: format!("{:#}", error.cause),
        advice: store.advice(),
    };
    wait.until(async || store.ready().await.map_err(not_yet)).await?;
    Ok(store)
}

/// Runs one instance on `host` and `port` (0 takes a free one) until `stop` is done.
///
/// It answers from the start on: 503 until `open` has waited for the settings and opened the log store that they name.
/// What `open` waits for it tells by [`Health::waiting`].
///
/// # Errors
///
/// Where the port cannot be bound, and those of `open`.
pub async fn serve_log(
    host: &str,
    port: u16,
    open: impl AsyncFnOnce(&Health) -> anyhow::Result<Arc<dyn LogStore>>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let listener = bind(host, port).await?;
    let health = Health::starting(ROLE, "waiting for the settings");
    let logging = Arc::new(Logging::default());

    let (stop_serving, serving_stopped) = oneshot::channel::<()>();
    let server = serve(
        listener,
        logging.clone(),
        health.clone(),
        Limits::default(),
        serving_stopped.map(drop),
    );
    let life = async {
        let outcome = live(&logging, &health, open, stop).await;
        health.draining();
        drop(stop_serving);
        outcome
    };
    let (outcome, ()) = tokio::join!(life, server);

    logging.close();
    info!(role = ROLE, "stopped");
    outcome
}

async fn bind(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((host, port))
        .await
        .with_context(|| format!("cannot listen on {host}:{port}; name another port, or 0 for a free one"))?;
    let address = listener
        .local_addr()
        .context("the address that was bound is not known")?;
    info!(role = ROLE, %address, "listening");
    Ok(listener)
}

/// From the start of the server until it is time to stop.
async fn live(
    logging: &Logging,
    health: &Health,
    open: impl AsyncFnOnce(&Health) -> anyhow::Result<Arc<dyn LogStore>>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(stop);
    let store = tokio::select! {
        opened = open(health) => opened?,
        () = &mut stop => return Ok(()),
    };
    info!(role = ROLE, log_store = store.describe(), "ready");
    logging.open(store);
    health.ready();
    stop.await;
    Ok(())
}

/// What all requests of an instance share.
#[derive(Default)]
struct Logging {
    /// `None` before the log store is opened and after it is closed.
    store: RwLock<Option<Arc<dyn LogStore>>>,
    /// Entries that were left out of answers since the start, because they are no messages.
    skipped: Arc<AtomicU64>,
}

impl Logging {
    fn open(&self, store: Arc<dyn LogStore>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = Some(store);
    }

    fn close(&self) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn opened(&self) -> Option<Arc<dyn LogStore>> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
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
}

impl Handler for Logging {
    async fn handle(&self, request: Request) -> Result<Reply, HttpError> {
        let store = self
            .opened()
            .ok_or_else(|| HttpError::unavailable("the log store is not open"))?;
        match (request.path(), request.method()) {
            ("/log", &Method::POST) => post::log(&*store, request).await,
            ("/log", _) => Err(HttpError::method_not_allowed("POST")),
            ("/logs", &Method::GET) => {
                let full = request.query()?.flag("full")?;
                self.list(store, full).await
            }
            ("/logs", &Method::DELETE) => {
                within_deadline(&*store, store.clear()).await??;
                Ok(reply::json(StatusCode::OK, &json!({})))
            }
            ("/logs", _) => Err(HttpError::method_not_allowed("GET, HEAD, DELETE")),
            _ => Err(HttpError::not_found()),
        }
    }

    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        if let Some(store) = self.opened() {
            let away = store.check().err().map(|error| error.to_string());
            let state = json!({ "engine": store.describe(), "reachable": away.is_none(), "reason": away });
            details.insert("log_store".to_owned(), state);
        }
        details.insert(
            "skipped_entries".to_owned(),
            self.skipped.load(Ordering::Relaxed).into(),
        );
        details
    }
}

/// All messages of the log, page by page. A page that does not come within [`STORE_DEADLINE`] is an error.
fn messages(
    store: Arc<dyn LogStore>,
    skipped: Arc<AtomicU64>,
) -> impl Stream<Item = engine::Result<Vec<Message>>> + Send + 'static {
    async_stream::try_stream! {
        let mut skipped = Skipped { here: 0, total: skipped };
        let mut pages = store.all();
        while let Some(page) = within_deadline(&*store, pages.next()).await?.transpose()? {
            skipped.count(&page);
            yield page.messages;
        }
    }
}

/// The entries that one read left out. Said once, when the read ends, however it ends.
struct Skipped {
    here: u64,
    total: Arc<AtomicU64>,
}

impl Skipped {
    fn count(&mut self, page: &Page) {
        self.here = self.here.saturating_add(page.skipped);
        self.total.fetch_add(page.skipped, Ordering::Relaxed);
    }
}

impl Drop for Skipped {
    fn drop(&mut self) {
        if self.here > 0 {
            warn!(
                skipped = self.here,
                "left entries out of a list of the log: they are no texts, other clients wrote them"
            );
        }
    }
}

/// What the store answers, or that it does not.
async fn within_deadline<T>(store: &dyn LogStore, answer: impl Future<Output = T>) -> engine::Result<T> {
    tokio::time::timeout(STORE_DEADLINE, answer)
        .await
        .map_err(|_| Unavailable {
            engine: store.describe(),
            cause: anyhow!("no answer within {STORE_DEADLINE:?}"),
        })
}

#[cfg(test)]
mod tests;
