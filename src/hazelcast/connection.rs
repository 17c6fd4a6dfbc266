//! One connection to one member, after its handshake: three futures in one task, the writer, the reader and the heartbeat.
//!
//! The task ends when the first of them does, and then fails every call of the connection. What matters to the
//! caller is whether a byte of its request was written, so the writer keeps count of what the kernel took.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::codec::client;
use super::error::{Error, Kind, Result};
use super::inbox::Inbox;
use super::message::Request;
use super::outbox::{Outbox, Outgoing, Waiting, outbox};
use super::pending::{ConnectionId, PendingCalls};

/// Requests that may wait for a connection's writer; a caller past that waits for a place, within its deadline.
const PLACES: usize = 1024;

/// What the writer gathers for one write, in bytes. Enough for some hundred small requests.
const WRITE_BATCH_BYTES: usize = 64 * 1024;

/// Frames larger than this, in bytes, are written from where they are; smaller ones are copied into the batch.
const COPY_LIMIT_BYTES: usize = 16 * 1024;

/// A handle to a live connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    /// The member at the other end, as it named itself.
    pub(super) member: Uuid,
    /// Where it was reached.
    pub(super) address: SocketAddr,
    /// Whether the member was told to send the backups' confirmations of other members' calls here.
    pub(super) backup_acks: bool,
    outbox: Outbox,
    closing: Arc<Notify>,
}

/// The other side of a [`Connection`]: what its task needs. [`Driver::run`] is the task.
#[derive(Debug)]
pub(super) struct Driver {
    id: ConnectionId,
    stream: TcpStream,
    inbox: Inbox,
    waiting: Waiting,
    heartbeat: Heartbeat,
    closing: Arc<Notify>,
}

/// When a silent connection is pinged, and when it is given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
}

/// Makes the two sides of a connection of an authenticated stream.
pub(super) struct Established {
    pub(super) stream: TcpStream,
    /// With what arrived behind the last message of the handshake.
    pub(super) inbox: Inbox,
    pub(super) address: SocketAddr,
    pub(super) member: Uuid,
    pub(super) backup_acks: bool,
}

impl Established {
    pub(super) fn into_connection(self, id: ConnectionId, heartbeat: Heartbeat) -> (Connection, Driver) {
        let (outbox, waiting) = outbox(PLACES);
        let closing = Arc::new(Notify::new());
        let connection = Connection {
            id,
            member: self.member,
            address: self.address,
            backup_acks: self.backup_acks,
            outbox,
            closing: Arc::clone(&closing),
        };
        let driver = Driver {
            id,
            stream: self.stream,
            inbox: self.inbox,
            waiting,
            heartbeat,
            closing,
        };
        (connection, driver)
    }
}

// === impl Connection ===

impl Connection {
    /// Hands a request to the writer. Waits for a place in its queue.
    ///
    /// # Errors
    /// [`Kind::NotWritten`] where the connection has ended.
    pub(super) async fn send(&self, outgoing: Outgoing) -> Result<()> {
        self.outbox.send(outgoing).await.map_err(|_| self.ended())
    }

    /// Hands a request of the client itself to the writer, however many wait there.
    ///
    /// # Errors
    /// [`Kind::NotWritten`] where the connection has ended.
    pub(super) fn send_at_once(&self, outgoing: Outgoing) -> Result<()> {
        self.outbox.send_at_once(outgoing).map_err(|_| self.ended())
    }

    /// Ends the connection; calls on their way fail.
    pub(super) fn close(&self) {
        self.closing.notify_one();
    }

    /// What a call gets whose connection ended before its request was written.
    fn ended(&self) -> Error {
        Error::new(
            Kind::NotWritten,
            format!(
                "the connection to {} had ended before the request was written",
                self.address
            ),
        )
    }
}

// === impl Driver ===

impl Driver {
    /// Serves the connection until it ends; the reason is what every call on its way is told.
    pub(super) async fn run(mut self, calls: &PendingCalls) -> Error {
        let activity = Activity::new();
        let begun = AtomicI64::new(0);
        let ping = Notify::new();
        let (read_half, write_half) = self.stream.split();
        let mut reader = Reader {
            stream: read_half,
            inbox: self.inbox,
            calls,
            activity: &activity,
        };
        let mut writer = Writer {
            stream: write_half,
            connection: self.id,
            waiting: &mut self.waiting,
            ping: &ping,
            calls,
            activity: &activity,
            begun: &begun,
            batch: Batch::default(),
        };
        let reason = tokio::select! {
            reason = reader.run() => reason,
            reason = writer.run() => reason,
            reason = heartbeat(self.heartbeat, &activity, &ping) => reason,
            () = self.closing.notified() => Error::new(Kind::ShutDown, "the connection was closed by the client"),
        };
        drop(self.stream);
        calls.connection_ended(self.id, begun.load(Ordering::Relaxed), &reason);
        self.waiting.end(&reason).await;
        reason
    }
}

// === Reader ===

struct Reader<'a> {
    stream: ReadHalf<'a>,
    inbox: Inbox,
    calls: &'a PendingCalls,
    activity: &'a Activity,
}

impl Reader<'_> {
    async fn run(&mut self) -> Error {
        loop {
            // Messages first: some may have come along with the handshake's last.
            if let Err(error) = self.dispatch() {
                return error;
            }
            match self.inbox.read_from(&mut self.stream).await {
                Ok(0) => return Error::new(Kind::OutcomeUnknown, "the member closed the connection"),
                Ok(_) => self.activity.has_read(),
                Err(error) => {
                    return Error::new(Kind::OutcomeUnknown, format!("reading from the member failed: {error}"));
                }
            }
        }
    }

    fn dispatch(&mut self) -> Result<()> {
        while let Some(message) = self.inbox.next()? {
            if message.is_backup_event() {
                self.calls.backup_ack(client::decode_backup_event(&message)?);
            } else if message.is_event() {
                self.calls.event(message);
            } else {
                self.calls.answer(message);
            }
        }
        Ok(())
    }
}

// === Writer ===

struct Writer<'a> {
    stream: WriteHalf<'a>,
    connection: ConnectionId,
    waiting: &'a mut Waiting,
    ping: &'a Notify,
    calls: &'a PendingCalls,
    activity: &'a Activity,
    /// Correlation id of the last request of which the kernel took a byte.
    begun: &'a AtomicI64,
    batch: Batch,
}

/// What goes out next: small requests in one buffer, and behind them at most one large one's frames.
#[derive(Default)]
struct Batch {
    buffer: BytesMut,
    large: Bytes,
    /// Where each request begins in the buffer, and its correlation id.
    starts: Vec<(usize, i64)>,
}

impl Writer<'_> {
    async fn run(&mut self) -> Error {
        loop {
            tokio::select! {
                outgoing = self.waiting.recv() => match outgoing {
                    Some(outgoing) => self.gather(outgoing),
                    None => return Error::new(Kind::ShutDown, "nobody uses the connection any more"),
                },
                () = self.ping.notified() => match client::ping_request() {
                    // Nobody waits for the answer: that anything is read says that the member lives.
                    Ok(request) => self.batch_one(&request, self.calls.unanswered_id(), -1, false),
                    Err(error) => return error,
                },
            }
            // Callers that are ready to run go first: then one write takes all their requests, for the member as well.
            tokio::task::yield_now().await;
            self.gather_waiting();
            if let Err(error) = self.flush().await {
                return Error::new(Kind::OutcomeUnknown, format!("writing to the member failed: {error}"));
            }
        }
    }

    /// Takes the requests that wait, until the batch is full.
    fn gather_waiting(&mut self) {
        while self.batch.buffer.len() < WRITE_BATCH_BYTES && self.batch.large.is_empty() {
            let Some(outgoing) = self.waiting.try_recv() else {
                return;
            };
            self.gather(outgoing);
        }
    }

    /// Adds a request to the batch. It counts as not written until the kernel takes a byte of it.
    fn gather(&mut self, outgoing: Outgoing) {
        // A caller that gave up before its request was written: nothing is sent for it.
        if !outgoing.reply.is_closed() {
            let Outgoing {
                request,
                partition_id,
                backup_aware,
                reply,
                events,
            } = outgoing;
            let id = self.calls.register(self.connection, reply, events);
            self.batch_one(&request, id, partition_id, backup_aware);
        }
    }

    fn batch_one(&mut self, request: &Request, id: i64, partition_id: i32, backup_aware: bool) {
        let batch = &mut self.batch;
        batch.starts.push((batch.buffer.len(), id));
        request.write_first(id, partition_id, backup_aware, &mut batch.buffer);
        if request.rest().len() > COPY_LIMIT_BYTES {
            batch.large = request.rest().clone();
        } else {
            batch.buffer.extend_from_slice(request.rest());
        }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        let mut written = 0;
        let mut starts = self.batch.starts.iter().peekable();
        while let Some(rest) = self.batch.buffer.get(written..).filter(|rest| !rest.is_empty()) {
            written += self.stream.write(rest).await?;
            while let Some((_, id)) = starts.next_if(|(start, _)| *start < written) {
                self.begun.store(*id, Ordering::Relaxed);
            }
            self.activity.has_written();
        }
        let mut large = std::mem::take(&mut self.batch.large);
        while !large.is_empty() {
            self.stream.write_buf(&mut large).await?;
            self.activity.has_written();
        }
        self.batch.buffer.clear();
        self.batch.starts.clear();
        Ok(())
    }
}

// === Heartbeat ===

/// When the connection was last read from and written to, in milliseconds since it began.
struct Activity {
    began: Instant,
    read_ms: AtomicU64,
    written_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            read_ms: AtomicU64::new(0),
            written_ms: AtomicU64::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn has_read(&self) {
        self.read_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn has_written(&self) {
        self.written_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn since(&self, moment_ms: &AtomicU64) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(moment_ms.load(Ordering::Relaxed)))
    }
}

/// Asks for a ping when nothing was written for an interval, and ends when nothing was read for the time-out.
async fn heartbeat(settings: Heartbeat, activity: &Activity, ping: &Notify) -> Error {
    let tick = settings.interval.min(settings.timeout) / 2;
    loop {
        tokio::time::sleep(tick).await;
        if activity.since(&activity.read_ms) >= settings.timeout {
            let silence_ms = settings.timeout.as_millis();
            return Error::new(
                Kind::OutcomeUnknown,
                format!("the member was silent for {silence_ms} ms"),
            );
        }
        if activity.since(&activity.written_ms) >= settings.interval {
            ping.notify_one();
        }
    }
}
