//! The life that facade, logging and messages share, from bind to exit.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::info;

use crate::cli::Listen;
use crate::engine::{Registration, Registry};
use crate::http::health::Health;
use crate::http::server::{self, Handler, Limits, serve};
use crate::registration::{Leaving, Patience, Registered};

/// How long a start waits for its registration. It goes on without, and the registration is tried further.
const REGISTER_LIMIT: Duration = Duration::from_secs(3);

/// How long a stop tries to take the instance out of the registry, and waits for that before it goes on.
const DEREGISTER_DEADLINE: Duration = Duration::from_secs(2);

/// How long the registry may take to do so, while the stop goes on: what it got in time it may answer late.
const DEREGISTER_LIMIT: Duration = Duration::from_secs(8);

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

/// [`Identity::bind`], then [`Bound::run`].
///
/// # Errors
/// Those of both.
pub(super) async fn run<H: Handler>(
    identity: Identity,
    registry: Arc<dyn Registry>,
    handler: Arc<H>,
    open: impl AsyncFnOnce(&Health, &Registration) -> anyhow::Result<()>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    identity.bind().await?.run(registry, handler, open, stop).await
}

impl Identity {
    /// Binds the port.
    ///
    /// # Errors
    /// Where it cannot be had: why, and what to do.
    pub(super) async fn bind(self) -> anyhow::Result<Bound> {
        let listener = server::listen(self.role, &self.listen.host, self.listen.port).await?;
        Bound::on(self.role, self.service, listener, self.listen.advertise.as_deref())
    }
}

/// An instance that has its port.
pub(super) struct Bound {
    role: &'static str,
    listener: TcpListener,
    registration: Registration,
}

impl Bound {
    /// The instance that listens on `listener`, and is called by the bound address where `advertise` is not given.
    ///
    /// # Errors
    /// Where that address is not known.
    pub(super) fn on(
        role: &'static str,
        service: &'static str,
        listener: TcpListener,
        advertise: Option<&str>,
    ) -> anyhow::Result<Self> {
        let address = listener
            .local_addr()
            .context("the address that was bound is not known")?;
        let registration = Registration {
            service: service.to_owned(),
            host: advertised(advertise, address),
            port: address.port(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: SystemTime::now(),
        };
        Ok(Self {
            role,
            listener,
            registration,
        })
    }

    /// Runs the instance until `stop` is done, or until `open` fails.
    ///
    /// It answers from the start on: 503 until `open` is done, which waits for settings and engines and hands them to
    /// the handler. What it waits for it tells by [`Health::waiting`]; the [`Registration`] is what others will know the
    /// instance by. At the stop it first leaves the registry, and serves on until that is known; then it finishes what is
    /// in flight.
    ///
    /// # Errors
    /// Those of `open`.
    pub(super) async fn run<H: Handler>(
        self,
        registry: Arc<dyn Registry>,
        handler: Arc<H>,
        open: impl AsyncFnOnce(&Health, &Registration) -> anyhow::Result<()>,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let Self {
            role,
            listener,
            registration,
        } = self;
        let health = Health::starting(role, "waiting for the settings");
        let (stop_serving, serving_stopped) = oneshot::channel::<()>();
        let limits = Limits {
            grace: GRACE,
            ..Limits::default()
        };
        let server = serve(listener, handler, health.clone(), limits, serving_stopped.map(drop));
        let life = async {
            let outcome = live(role, registry, registration, &health, open, stop).await;
            health.draining();
            drop(stop_serving);
            if let Some(leaving) = outcome? {
                leaving.over().await;
            }
            Ok(())
        };
        let (outcome, ()) = tokio::join!(life, server);
        info!(role, "stopped");
        outcome
    }
}

/// From the start of the server until it is time to stop it; the instance may still be on its way out of the registry.
async fn live(
    role: &'static str,
    registry: Arc<dyn Registry>,
    registration: Registration,
    health: &Health,
    open: impl AsyncFnOnce(&Health, &Registration) -> anyhow::Result<()>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Option<Leaving>> {
    let mut stop = pin!(stop);
    tokio::select! {
        opened = open(health, &registration) => opened?,
        () = &mut stop => return Ok(None),
    }
    // Before it is registered, since whoever finds it in the registry may send at once.
    health.ready();
    let registration = Registration {
        since: SystemTime::now(),
        ..registration
    };
    let registered = Registered::keep(registry, registration);
    tokio::select! {
        _ = registered.first(REGISTER_LIMIT) => {
            info!(role, "ready");
            stop.await;
        }
        () = &mut stop => {}
    }
    health.draining();
    let mut leaving = registered.leave(Patience {
        tries: DEREGISTER_DEADLINE,
        limit: DEREGISTER_LIMIT,
    });
    leaving.wait(DEREGISTER_DEADLINE).await;
    tokio::time::sleep(NOTICE).await;
    Ok(Some(leaving))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_called_by_what_is_given_else_by_the_bound_address_else_by_the_hosts_name() {
        let bound = |address: &str| address.parse::<SocketAddr>().unwrap();
        assert_eq!(advertised(Some("logging-1"), bound("127.0.0.1:1")), "logging-1");
        assert_eq!(advertised(None, bound("127.0.0.1:1")), "127.0.0.1");
        assert_eq!(advertised(None, bound("[::1]:1")), "::1");
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        for all in ["0.0.0.0:1", "[::]:1"] {
            assert_eq!(advertised(None, bound(all)), name.trim());
        }
    }
}
