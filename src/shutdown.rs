//! Stopping: the first ask is for a clean stop, the second ends the process at once.

use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{info, warn};

/// Exit code of a process that a second signal ended: 128 and the number of SIGINT, as shells have it.
pub const EXIT_INTERRUPTED: i32 = 130;

/// How long a stop may take where the parent is gone, since nobody is left to end what hangs.
pub const ORPHAN_LIMIT: Duration = Duration::from_secs(12);

/// Runs `role`, which gets the future that resolves when the process is asked to stop: by SIGINT (Ctrl-C), by SIGTERM
/// (`docker stop`, `kill`) or, `with_parent`, by the end of standard input.
///
/// # Errors
/// Those of the role, and of [`Asks::listen`].
pub async fn run<F>(with_parent: bool, role: impl FnOnce(BoxFuture<'static, ()>) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut asks = Asks::listen(with_parent)?;
    let (ask, asked) = oneshot::channel::<()>();
    let watch = async move {
        let first = asks.next().await;
        info!("stopping, asked by {first}; a second signal ends the process at once");
        // The receiver is gone where the role no longer waits for it: it is ending already.
        let _ = ask.send(());
        let limit = match first {
            Ask::ParentEnded => ORPHAN_LIMIT,
            Ask::Interrupt | Ask::Terminate => Duration::MAX,
        };
        end_at_once(timeout(limit, asks.next()).await.ok())
    };
    let role = pin!(role(asked.map(|_| ()).boxed()));
    tokio::select! {
        outcome = role => outcome,
        never = watch => never,
    }
}

/// Ends the process at once, asked so or because its clean stop took too long.
pub fn end_at_once(ask: Option<Ask>) -> ! {
    match ask {
        Some(ask) => warn!("ended at once, asked a second time by {ask}"),
        None => warn!("ended at once: the clean stop took longer than {ORPHAN_LIMIT:?}"),
    }
    std::process::exit(EXIT_INTERRUPTED)
}

/// Who asks the process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// Standard input ended, which a parent held open for as long as it lived.
    ParentEnded,
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::ParentEnded => "the end of standard input",
        })
    }
}

/// What asks the process to stop, one ask after the other.
pub struct Asks {
    interrupt: Signal,
    terminate: Signal,
    /// Standard input, until it ends.
    parent: Option<pipe::Receiver>,
}

impl Asks {
    /// Listens from now on: to SIGINT, to SIGTERM and, `with_parent`, for the end of standard input.
    ///
    /// # Errors
    /// Where signals cannot be listened to, and where standard input is no pipe and should be one.
    pub fn listen(with_parent: bool) -> anyhow::Result<Self> {
        const SIGNALS: &str = "listening to SIGINT and SIGTERM";
        let parent = with_parent
            .then(standard_input)
            .transpose()
            .context("--with-parent needs a pipe as standard input, which whoever starts the process holds open")?;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context(SIGNALS)?,
            terminate: signal(SignalKind::terminate()).context(SIGNALS)?,
            parent,
        })
    }

    /// The next ask.
    pub async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.interrupt.recv() => Ask::Interrupt,
            _ = self.terminate.recv() => Ask::Terminate,
            () = end(&mut self.parent) => Ask::ParentEnded,
        }
    }
}

fn standard_input() -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)
}

/// Waits for the end of a pipe, which counts once. What comes through it says nothing here.
async fn end(parent: &mut Option<pipe::Receiver>) {
    let Some(pipe) = parent else {
        return pending().await;
    };
    let mut ignored = [0; 64];
    while let Ok(1..) = pipe.read(&mut ignored).await {}
    *parent = None;
}
