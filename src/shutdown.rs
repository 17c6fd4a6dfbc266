//! Stopping by signal: the first asks for a clean stop, the second ends the process at once.

use std::future::Future;
use std::pin::pin;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

/// Exit code of a process that a second signal ended: 128 and the number of SIGINT, as shells have it.
const EXIT_INTERRUPTED: i32 = 130;

/// Runs `role`, which gets the future that resolves when the process is asked to stop: by SIGINT (Ctrl-C) or by SIGTERM
/// (`docker stop`, `kill`).
///
/// # Errors
/// Those of the role, and where signals cannot be listened to.
pub async fn run<F>(role: impl FnOnce(BoxFuture<'static, ()>) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut signals = Signals::listen().context("listening to SIGINT and SIGTERM")?;
    let (ask, asked) = oneshot::channel::<()>();
    let watch = async move {
        let name = signals.next().await;
        info!(signal = name, "stopping; a second signal ends the process at once");
        // The receiver is gone where the role no longer waits for it: it is ending already.
        let _ = ask.send(());
        let name = signals.next().await;
        warn!(signal = name, "ended by a second signal");
        std::process::exit(EXIT_INTERRUPTED)
    };
    let role = pin!(role(asked.map(|_| ()).boxed()));
    tokio::select! {
        outcome = role => outcome,
        never = watch => never,
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
