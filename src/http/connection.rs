//! One connection: driven to its end, and ended where the client holds it for nothing.
//!
//! hyper's own time-out for a head runs while a connection is idle, too. Here the two have their own: between requests
//! a client may keep a connection for long, but a head that has begun must come in one go.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use super::server::{Handler, Limits};
use super::service::Service;

/// Drives a connection until the client ends it, a time-out does, or `stopping` turns true and the request that is in
/// work then is answered.
pub(super) async fn drive<H: Handler>(
    stream: TcpStream,
    service: Arc<Service<H>>,
    limits: Limits,
    mut stopping: watch::Receiver<bool>,
) {
    let activity = Activity::new();
    let io = TokioIo::new(Io::new(stream, activity.clone(), &limits));
    let answer = service_fn(|request| {
        let (service, working) = (service.clone(), activity.work());
        async move { service.answer(request, working).await }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .header_read_timeout(None)
            .serve_connection(io, answer)
    );
    let mut timer = pin!(sleep(limits.head_read));
    let mut stopped = false;
    loop {
        tokio::select! {
            // The connection first: it changes what the others look at.
            biased;
            ended = connection.as_mut() => {
                if let Err(cause) = ended {
                    debug!(%cause, "a connection ended early");
                }
                return;
            }
            phase = poll_fn(|cx| activity.poll_overdue(cx, timer.as_mut(), &limits)) => {
                debug!(?phase, "closed a connection that the client held for nothing");
                return;
            }
            _ = stopping.wait_for(|stopping| *stopping), if !stopped => {
                stopped = true;
                activity.stop();
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between requests.
    Idle,
    /// A head has begun to arrive, or is due: the first of a connection.
    Head,
    /// A request is in work. The deadlines are those of its body, its handler, and its answer being written.
    Work,
}

/// What a connection is at, since when. Shared by the three that see a part of it: the socket, the service, the timer.
/// All three are polled by the connection's one task, so nobody ever waits for the lock.
#[derive(Debug)]
struct Activity(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    phase: Phase,
    since: Instant,
    /// There is no need to wait for what the client may still be sending when the connection ends.
    end_at_once: bool,
}

impl Activity {
    fn new() -> Arc<Activity> {
        Arc::new(Activity(Mutex::new(Seen {
            phase: Phase::Head,
            since: Instant::now(),
            end_at_once: false,
        })))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let mut seen = self.seen();
        seen.phase = phase;
        seen.since = Instant::now();
    }

    /// A request is in work until the returned guard is dropped.
    fn work(self: &Arc<Activity>) -> Working {
        self.enter(Phase::Work);
        Working(self.clone())
    }

    /// Bytes came from the client.
    fn read(&self) {
        if self.seen().phase == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    /// Bytes went to the client. An answer that is still on its way after its body was handed over is no idleness.
    fn wrote(&self) {
        if self.seen().phase == Phase::Idle {
            self.enter(Phase::Idle);
        }
    }

    /// The connection is to end with the request that it is at. Without one there is no answer the client could miss.
    fn stop(&self) {
        let mut seen = self.seen();
        seen.end_at_once = seen.phase != Phase::Work;
    }

    /// Ready with the phase that took too long.
    fn poll_overdue(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, limits: &Limits) -> Poll<Phase> {
        let (phase, due) = {
            let seen = self.seen();
            match seen.phase {
                Phase::Idle => (seen.phase, seen.since + limits.idle),
                Phase::Head => (seen.phase, seen.since + limits.head_read),
                Phase::Work => return Poll::Pending,
            }
        };
        // A timer that is set too early is left so and looked at when it fires: most phases are over long before.
        if due < timer.deadline() {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(phase);
            }
            timer.as_mut().reset(due);
        }
    }
}

/// A request is in work as long as this lives.
pub(super) struct Working(Arc<Activity>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// The socket: tells what it sees, gives up on a client that takes nothing, and ends a connection so that the client
/// gets its last answer.
struct Io {
    stream: TcpStream,
    activity: Arc<Activity>,
    write_stall: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    linger: Duration,
    /// Runs once nothing more will be written.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Io {
    fn new(stream: TcpStream, activity: Arc<Activity>, limits: &Limits) -> Io {
        let (write_stall, linger) = (limits.write_stall, limits.linger);
        Io {
            stream,
            activity,
            write_stall,
            stalled: None,
            linger,
            lingering: None,
        }
    }

    /// What a write came to, or an error where none has come to anything for too long.
    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.stalled = None;
            self.activity.wrote();
            return result;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.write_stall)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing of its answer",
        )))
    }

    /// Ready once the client has sent all it wanted to, or has had its time for it.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self.linger;
        let lingering = self.lingering.get_or_insert_with(|| Box::pin(sleep(linger)));
        let mut scratch = [0; 4096];
        loop {
            let mut unwanted = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut unwanted) {
                Poll::Ready(Ok(())) if !unwanted.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        ready!(lingering.as_mut().poll(cx));
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.activity.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if self.activity.seen().end_at_once {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_linger(cx)
    }
}
