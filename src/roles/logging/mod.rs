//! `svc logging`: one instance of the log, in front of the log store that all of them share.
//!
//! What it waits for at its start is here, what it answers in `routes`.

mod post;
mod routes;

use std::sync::Arc;

use tokio::net::TcpListener;

use self::routes::Logging;
use super::LOGGING_SERVICE;
use super::followed::{Followed, LOG_STORE};
use super::instance::{Bound, Identity};
use crate::cli::InstanceOptions;
use crate::engine::{Engines, LogStore, Registration, Registry};
use crate::http::health::Health;

/// The role's name, in `GET /health` and in the log.
const ROLE: &str = "logging";

/// Runs one instance until `stop` is done.
///
/// # Errors
///
/// Where the options cannot work, the port cannot be bound, or an engine does not come in time.
pub async fn run(options: InstanceOptions, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let engines = Engines::at(options.engines()?)?;
    let registry = engines.registry()?;
    let identity = Identity {
        role: ROLE,
        service: LOGGING_SERVICE,
        listen: options.listen.clone(),
    };
    let bound = identity.bind().await?;
    let open = async |health: &Health| LOG_STORE.open(ROLE, engines, &options, health).await;
    live(bound, registry, open, stop).await
}

/// Runs one instance on `listener` until `stop` is done, registered by the address that is bound.
///
/// It answers from the start on: 503 until `open` has waited for the settings and opened the log store that they name.
/// What `open` waits for it tells by [`Health::waiting`].
///
/// # Errors
///
/// Those of `open`, and where the bound address is not known.
pub async fn serve_log(
    listener: TcpListener,
    registry: Arc<dyn Registry>,
    open: impl AsyncFnOnce(&Health) -> anyhow::Result<Arc<dyn LogStore>>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let open = async |health: &Health| open(health).await.map(Followed::fixed);
    live(Bound::on(ROLE, LOGGING_SERVICE, listener, None)?, registry, open, stop).await
}

async fn live(
    bound: Bound,
    registry: Arc<dyn Registry>,
    open: impl AsyncFnOnce(&Health) -> anyhow::Result<Followed<dyn LogStore>>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let logging = Arc::new(Logging::default());
    let open = async |health: &Health, _: &Registration| {
        logging.store.open(open(health).await?);
        Ok(())
    };
    let outcome = bound.run(registry, logging.clone(), open, stop).await;
    logging.store.close();
    outcome
}

#[cfg(test)]
mod tests;
