//! `svc logging`: one instance of the log, in front of the log store that all of them share.
//!
//! What it waits for at its start is here, what it answers in `routes`.

mod cleared;
mod post;
mod restore;
mod routes;

use std::sync::Arc;

use tokio::net::TcpListener;

use self::cleared::ClearedAt;
use self::restore::Log;
use self::routes::Logging;
use super::followed::{Followed, LOG_STORE};
use super::instance::{Bound, Identity};
use super::repair::{OtherList, Peers, Repair};
use super::{LOGGING_SERVICE, MESSAGES_SERVICE};
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
    let (registry, settings) = (engines.registry()?, engines.settings()?);
    let identity = Identity {
        role: ROLE,
        service: LOGGING_SERVICE,
        listen: options.listen.clone(),
    };
    let bound = identity.bind().await?;
    let open = async |health: &Health| LOG_STORE.open(ROLE, engines, &options, health).await;
    live(bound, registry, open, Some(ClearedAt::new(settings)), stop).await
}

/// Runs one instance on `listener` until `stop` is done, registered by the address that is bound.
///
/// It answers from the start on: 503 until `open` has waited for the settings and opened the log store that they name.
/// What `open` waits for it tells by [`Health::waiting`]. It has no settings, so it rebuilds no log.
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
    let bound = Bound::on(ROLE, LOGGING_SERVICE, listener, None)?;
    live(bound, registry, open, None, stop).await
}

async fn live(
    bound: Bound,
    registry: Arc<dyn Registry>,
    open: impl AsyncFnOnce(&Health) -> anyhow::Result<Followed<dyn LogStore>>,
    cleared_at: Option<ClearedAt>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let logging = Arc::new(Logging::noting(cleared_at.clone()));
    let (mut repair, mut cleared) = (None, None);
    let open = async |health: &Health, registration: &Registration| {
        let store = open(health).await?;
        // A log that loses nothing is never rebuilt.
        cleared = cleared_at
            .as_ref()
            .filter(|_| !store.now().keeps_all())
            .map(ClearedAt::keep);
        repair = cleared_at.map(|cleared_at| {
            let peers = Peers {
                registry: registry.clone(),
                service: LOGGING_SERVICE,
                own: registration.id(),
            };
            let other = OtherList::new(registry.clone(), MESSAGES_SERVICE, "/messages?full=true");
            Repair::start(
                store.named(),
                Log::new(cleared_at),
                other,
                peers,
                logging.repair.clone(),
            )
        });
        logging.store.open(store);
        Ok(())
    };
    let outcome = bound.run(registry.clone(), logging.clone(), open, stop).await;
    drop((repair, cleared));
    logging.store.close();
    outcome
}

#[cfg(test)]
mod tests;
