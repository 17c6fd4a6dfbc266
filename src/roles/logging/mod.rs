//! `svc logging`: one instance of the log, in front of the log store that all of them share.
//!
//! Its life is here, from start to stop; what it answers is in `routes`.

mod deadline;
mod post;
mod routes;

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::info;

use self::routes::Logging;
use crate::cli::LoggingOptions;
use crate::config::LoggingSettings;
use crate::engine::{self, LogStore, Settings, Unavailable};
use crate::http::health::Health;
use crate::http::server::{Limits, listen, serve};
use crate::wait::{NotYet, Wait};

/// The role's name, in `GET /health` and in the log.
const ROLE: &str = "logging";

/// Runs one instance until `stop` is done.
///
/// # Errors
///
/// Where the options cannot work, the port cannot be bound, or an engine does not come in time.
pub async fn run(options: LoggingOptions, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let settings = engine::connect_settings(&options.consul.options()?)?;
    let listener = listen(ROLE, &options.host, options.port).await?;
    let open = async |health: &Health| open_log(&*settings, &options, health).await;
    serve_log(listener, open, stop).await
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

/// Runs one instance on `listener` until `stop` is done.
///
/// It answers from the start on: 503 until `open` has waited for the settings and opened the log store that they name.
/// What `open` waits for it tells by [`Health::waiting`].
///
/// # Errors
///
/// Those of `open`.
pub async fn serve_log(
    listener: TcpListener,
    open: impl AsyncFnOnce(&Health) -> anyhow::Result<Arc<dyn LogStore>>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests;
