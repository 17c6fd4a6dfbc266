//! The life that facade, logging and messages share, from bind to exit.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::info;

use crate::cli::Listen;
use crate::engine::{Registration, Registry};
use crate::http::health::Health;
use crate::http::server::{Handler, Limits, serve};
use crate::registration::Registered;

/// How long a start waits for its registration. It goes on without, and the registration is tried further.
const REGISTER_LIMIT: Duration = Duration::from_secs(3);

/// How long a stop tries to take the instance out of the registry.
const DEREGISTER_DEADLINE: Duration = Duration::from_secs(2);

/// How long a stop goes on serving after that, so that whoever watches the registry sends no more.
const NOTICE: Duration = Duration::from_secs(1);

/// How long what is in flight may take after that: with the two above it leaves a second of the 10 s that a container
/// usually has for its end.
const GRACE: Duration = Duration::from_secs(6);

/// Which instance this is.
pub(super) struct Identity {
    /// Its role, in `GET /health` and in the log: `logging`.
    pub(super) role: &'static str,
    /// Its service in the registry: `logging-service`.
    pub(super) service: &'static str,
    /// Where it listens, and what others call it by.
    pub(super) listen: Listen,
}

/// Runs one instance until `stop` is done, or until `open` fails.
///
/// It answers from the start on: 503 until `open` is done, which waits for settings and engines and hands them to the
/// handler. What it waits for it tells by [`Health::waiting`]; the [`Registration`] is what others will know the instance
/// by. At the stop it first leaves the registry, and serves on until that is known; then it finishes what is in flight.
///
/// # Errors
/// Where the port cannot be bound, and those of `open`.
pub(super) async fn run<H: Handler>(
    identity: Identity,
    registry: Arc<dyn Registry>,
    handler: Arc<H>,
    open: impl AsyncFnOnce(&Health, &Registration) -> anyhow::Result<()>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (listener, registration) = bind(&identity).await?;
    let health = Health::starting(identity.role, "waiting for the settings");
    let (stop_serving, serving_stopped) = oneshot::channel::<()>();
    let limits = Limits {
        grace: GRACE,
        ..Limits::default()
    };
    let server = serve(listener, handler, health.clone(), limits, serving_stopped.map(drop));
    let life = async {
        let outcome = live(&identity, registry, registration, &health, open, stop).await;
        health.draining();
        drop(stop_serving);
        outcome
    };
    let (outcome, ()) = tokio::join!(life, server);
    info!(role = identity.role, "stopped");
    outcome
}

/// From the start of the server until it is time to stop it.
async fn live(
    identity: &Identity,
    registry: Arc<dyn Registry>,
    registration: Registration,
    health: &Health,
    open: impl AsyncFnOnce(&Health, &Registration) -> anyhow::Result<()>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut stop = pin!(stop);
    tokio::select! {
        opened = open(health, &registration) => opened?,
        () = &mut stop => return Ok(()),
    }
    // Before it is registered, since whoever finds it in the registry may send at once.
    health.ready();
    let registered = Registered::keep(registry, registration);
    tokio::select! {
        _ = registered.first(REGISTER_LIMIT) => {
            info!(role = identity.role, "ready");
            stop.await;
        }
        () = &mut stop => {}
    }
    health.draining();
    registered.deregister(DEREGISTER_DEADLINE).await;
    tokio::time::sleep(NOTICE).await;
    Ok(())
}

async fn bind(identity: &Identity) -> anyhow::Result<(TcpListener, Registration)> {
    let Listen { host, port, .. } = &identity.listen;
    let listener = TcpListener::bind((host.as_str(), *port))
        .await
        .with_context(|| format!("cannot listen on {host}:{port}; name another port, or 0 for a free one"))?;
    let address = listener
        .local_addr()
        .context("the address that was bound is not known")?;
    let registration = Registration {
        service: identity.service.to_owned(),
        host: advertised(identity.listen.advertise.as_deref(), address),
        port: address.port(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    info!(role = identity.role, %address, id = registration.id(), "listening");
    Ok((listener, registration))
}

/// What others call the instance by: what was given, else the bound address, or the host's name where that is all of them.
fn advertised(given: Option<&str>, bound: SocketAddr) -> String {
    match (given, bound.ip()) {
        (Some(given), _) => given.to_owned(),
        (None, ip) if ip.is_unspecified() => host_name(),
        (None, IpAddr::V6(ip)) => ip.to_canonical().to_string(),
        (None, ip) => ip.to_string(),
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
