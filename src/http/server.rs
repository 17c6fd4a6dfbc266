//! [`listen`] and [`serve`]: accepts connections, bounds them in number, size and time, and drains them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::{Map, Value};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use super::connection;
use super::health::Health;
use super::reply::{HttpError, Reply};
use super::request::Request;
use super::service::Service;

/// What a role answers with. `GET /health` is answered by the server.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Called only while the process is ready or draining.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Reply, HttpError>> + Send;

    /// What `GET /health` tells beside status, role and version. Asked every few seconds: it must not wait for anything.
    fn details(&self) -> Map<String, Value> {
        Map::new()
    }
}

/// How much a server takes, and how long it waits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections. Further ones wait in the kernel's backlog. Default 768: a process may often open 1,024 files,
    /// and the connections to engines have to find one, too. Were every one to fill its read buffer of about 400 KiB,
    /// that would be 300 MiB.
    pub connections: usize,
    /// Requests in work, until the last byte of their answer is handed over. Further ones are answered 503. Default
    /// 512: less than the connections, so that it is reached before clients have to wait without an answer. `GET
    /// /health` does not count.
    pub requests: usize,
    /// Bytes of the bodies of all requests in work. What goes over it is answered 503. Default 128 MiB: 16 of the
    /// largest bodies that are taken. What is made of a body on its way to an engine is several times its size.
    pub body_bytes: usize,
    /// From the first byte of a request (or the connection's start) to the end of its head. Default 10 s: a head fits
    /// into a few packets, and whoever sends it slower holds a connection for nothing.
    pub head_read: Duration,
    /// For the whole body of a request. Default 30 s: 8 MiB at 2.2 Mbit/s.
    pub body_read: Duration,
    /// Without a request on a connection. Default 120 s: longer than the pools of common clients keep theirs (90 s), so
    /// that it is they who close, and no request meets a connection that is just being closed.
    pub idle: Duration,
    /// Without the client taking a single byte of an answer. Default 20 s.
    pub write_stall: Duration,
    /// For a handler, from the head of the request to the head of its answer. Default 40 s: the body's 30 s, the
    /// engines' 5 s, and some. Engines have deadlines of their own; this one is the last resort.
    pub handler: Duration,
    /// After the last answer of a connection, for what the client is still sending: to close at once would reset the
    /// connection, and the client might never see that answer. Default 1 s.
    pub linger: Duration,
    /// For all that is in flight when the server is told to stop. What is not done by then is cut. Default 8 s, which
    /// leaves 2 s of the 10 s that a container usually has for its end.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 768,
            requests: 512,
            body_bytes: 128 * 1024 * 1024,
            head_read: Duration::from_secs(10),
            body_read: Duration::from_secs(30),
            idle: Duration::from_secs(120),
            write_stall: Duration::from_secs(20),
            handler: Duration::from_secs(40),
            linger: Duration::from_secs(1),
            grace: Duration::from_secs(8),
        }
    }
}

/// Listens on `host` and `port`; 0 takes a free one. The log says where.
///
/// # Errors
/// Where that cannot be had: why, and what to do.
pub async fn listen(role: &str, host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let listener = bind(host, port).await.map_err(|cause| {
        let advice = match cause.kind() {
            io::ErrorKind::AddrInUse => "name another port with --port, or 0 for a free one",
            io::ErrorKind::PermissionDenied => "name a port from 1024 on with --port, or 0 for a free one",
            _ => "name this machine, or an address of it, with --host",
        };
        anyhow!("what to do: {advice}")
            .context(cause)
            .context(format!("cannot listen on {host}:{port}"))
    })?;
    let address = listener
        .local_addr()
        .context("the address that was bound is not known")?;
    info!(role, %address, "listening");
    Ok(listener)
}

/// Connections that the kernel keeps until they are accepted; Linux's default of most that it does. What goes over it has
/// to knock again after a second, and later than that. The usual 128 are fewer than clients that all come back at once.
const BACKLOG: u32 = 4096;

/// Listens on the first address of `host` where that can be had.
async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut failed = None;
    for address in lookup_host((host, port)).await? {
        match bind_to(address) {
            Ok(listener) => return Ok(listener),
            Err(cause) => failed = Some(cause),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name has no address")))
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Whoever is started again at its port need not wait for connections of before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `handler` on `listener` until `stop` is done and what is in flight by then is answered, or the grace is over.
///
/// When it returns, the listener and all connections are closed and no task is left. When it is dropped, all
/// connections are cut.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    health: Arc<Health>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let service = Arc::new(Service::new(handler, health, limits.clone()));
    let (stopping, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut acceptor = Acceptor::new(listener, limits.connections);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.join_next() => note_end(ended),
            (stream, slot) = acceptor.accept() => {
                let driven = connection::drive(stream, service.clone(), limits.clone(), stopping.subscribe());
                connections.spawn(async move {
                    driven.await;
                    drop(slot);
                });
            }
        }
    }
    drop(acceptor);
    drain(connections, &stopping, limits.grace).await;
}

/// Lets every connection finish the request that it is at, for so long, then cuts what is left.
async fn drain(mut connections: JoinSet<()>, stopping: &watch::Sender<bool>, grace: Duration) {
    stopping.send_replace(true);
    let finished = timeout(grace, async {
        while let Some(ended) = connections.join_next().await {
            note_end(ended);
        }
    });
    if finished.await.is_err() {
        warn!(
            connections = connections.len(),
            ?grace,
            "cut the connections that did not finish in time"
        );
        connections.shutdown().await;
    }
}

/// A connection's task ends well or was cut; anything else is a fault in this program, and no reason to end.
fn note_end(ended: Result<(), JoinError>) {
    if let Err(cause) = ended
        && cause.is_panic()
    {
        error!(%cause, "a connection was lost to a fault in this program");
    }
}

/// Takes connections from the kernel, as many as there are slots.
struct Acceptor {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    /// How long to wait after the next failure.
    pause: Duration,
    /// When to try again after a failure; `None` while all is well.
    retry_at: Option<Instant>,
}

/// First pause after a failure to accept. It doubles from there.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause after a failure to accept: files come free when connections end, so looking once a second is enough.
const MAX_PAUSE: Duration = Duration::from_secs(1);

impl Acceptor {
    fn new(listener: TcpListener, connections: usize) -> Acceptor {
        let slots = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        Acceptor {
            listener,
            slots,
            pause: MIN_PAUSE,
            retry_at: None,
        }
    }

    /// The next connection and its slot. May be dropped and called again at any time.
    async fn accept(&mut self) -> (TcpStream, OwnedSemaphorePermit) {
        loop {
            if let Some(retry_at) = self.retry_at {
                sleep_until(retry_at).await;
            }
            let Ok(slot) = self.slots.clone().acquire_owned().await else {
                // Nobody closes the semaphore.
                std::future::pending().await
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.recovered();
                    // Answers are written whole; to wait for more of them only delays them.
                    if let Err(cause) = stream.set_nodelay(true) {
                        debug!(%cause, "could not set TCP_NODELAY");
                    }
                    return (stream, slot);
                }
                Err(cause) if is_of_one_connection(&cause) => {
                    debug!(%cause, "a connection was gone before it was accepted");
                }
                Err(cause) => self.failed(&cause),
            }
        }
    }

    fn failed(&mut self, cause: &io::Error) {
        if self.retry_at.is_none() {
            warn!(%cause, "cannot accept connections; trying again until it works");
        }
        self.retry_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }

    fn recovered(&mut self) {
        if self.retry_at.take().is_some() {
            self.pause = MIN_PAUSE;
            info!("accepting connections again");
        }
    }
}

/// Whether a failure to accept is that of the connection itself and says nothing of the next one.
fn is_of_one_connection(cause: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(cause.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
