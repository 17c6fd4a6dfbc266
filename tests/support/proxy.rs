//! A TCP proxy between a client and a member, or between two roles, that makes the network's faults at exactly the wrong
//! moment.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::wire::Message;

/// What happens to everything that passes, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Pass,
    /// Nothing is read: what the peers write stays in their kernels until those are full.
    Stall,
    /// All is read and nothing forwarded: a cable that was pulled. Of a connection that lost something nothing more is
    /// forwarded in that direction, also later: TCP has no holes.
    Swallow,
    /// Each message, or piece of HTTP, waits this long before it goes on.
    Delay(Duration),
    /// One byte at a time, each in a segment of its own.
    Dribble,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// FIN: the peer was closed in good order.
    Fin,
    /// RST: the peer's process was killed, or its machine is another one now.
    Rst,
}

/// What happens to one request and its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The connection ends before any of the request is forwarded.
    BeforeRequest(Cut),
    /// The connection ends after so many bytes of the request were forwarded.
    InRequest(usize, Cut),
    /// The request is forwarded, and the connection ends when its answer arrives: the member has done what was asked.
    BeforeAnswer(Cut),
    /// The same, after so many bytes of the answer were forwarded.
    InAnswer(usize, Cut),
    /// The request is forwarded and its answer goes nowhere; the connection stays.
    SwallowAnswer,
}

/// Kinds of HTTP requests, for [`Proxy::arm`].
pub(crate) mod http {
    /// Any `POST`.
    pub(crate) const POST: i32 = -1;
    /// A list as a facade asks for it: `GET /logs`, `GET /messages`.
    pub(crate) const LIST: i32 = -2;
    /// Anything else, and the pieces of a request after its first.
    pub(super) const OTHER: i32 = -3;
}

/// What is spoken on the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    /// The protocol of Hazelcast's members.
    Hazelcast,
    /// HTTP/1.1, one request at a time. `GET /health` at the beginning of a connection passes whatever is done to the
    /// others: what Consul thinks of an instance stays as it is.
    Http,
}

/// Listens on a port of its own; every task of it ends when this is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    speech: Speech,
    /// Connections are closed as soon as they are accepted while it is not known.
    upstream: OnceLock<SocketAddr>,
    flow: watch::Sender<Flow>,
    /// How many times all connections were cut, and how the last time.
    cut: watch::Sender<(usize, Cut)>,
    refuse: watch::Sender<bool>,
    armed: Mutex<Vec<Armed>>,
    seen: Mutex<HashMap<i32, usize>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    bytes: AtomicUsize,
}

struct Armed {
    kind: i32,
    /// Requests of this kind that still pass before.
    skip: usize,
    fault: Fault,
}

impl Proxy {
    /// One before a member.
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let proxy = Self::start_first().await;
        proxy.lead_to(upstream);
        proxy
    }

    /// One before a member that is told its address at its start: [`Proxy::lead_to`] says where it is then.
    pub(crate) async fn start_first() -> Self {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), Speech::Hazelcast).await
    }

    /// One at `address` that leads to who speaks HTTP at `upstream`.
    pub(crate) async fn start_http(address: SocketAddr, upstream: SocketAddr) -> Self {
        let proxy = Self::listen(address, Speech::Http).await;
        proxy.lead_to(upstream);
        proxy
    }

    async fn listen(address: SocketAddr, speech: Speech) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            speech,
            upstream: OnceLock::new(),
            flow: watch::Sender::new(Flow::Pass),
            cut: watch::Sender::new((0, Cut::Fin)),
            refuse: watch::Sender::new(false),
            armed: Mutex::default(),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accepting,
        }
    }

    pub(crate) fn lead_to(&self, upstream: SocketAddr) {
        self.shared.upstream.set(upstream).expect("it leads nowhere yet");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set_flow(&self, flow: Flow) {
        self.shared.flow.send_replace(flow);
    }

    /// From now on connections are closed as soon as they are accepted, or no longer.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.shared.refuse.send_replace(refuse);
    }

    /// Makes this fault of the next request of the kind.
    pub(crate) fn arm(&self, kind: i32, fault: Fault) {
        self.arm_after(0, kind, fault);
    }

    /// Makes this fault of the request of the kind that comes after `skip` others.
    pub(crate) fn arm_after(&self, skip: usize, kind: i32, fault: Fault) {
        self.shared.armed.lock().unwrap().push(Armed { kind, skip, fault });
    }

    /// Faults that no request has met yet.
    pub(crate) fn armed(&self) -> usize {
        self.shared.armed.lock().unwrap().len()
    }

    pub(crate) fn cut_all(&self, cut: Cut) {
        self.shared.cut.send_modify(|(times, how)| {
            *times += 1;
            *how = cut;
        });
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Bytes that were read so far, from either side.
    pub(crate) fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Requests of this kind that a client sent whole, whether they were forwarded or not.
    pub(crate) fn requests(&self, kind: i32) -> usize {
        self.shared.seen.lock().unwrap().get(&kind).copied().unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Owns the connections: they end with this task.
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted.unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                if !*shared.refuse.borrow() {
                    let cuts = shared.cut.subscribe();
                    links.spawn(link(client, Arc::clone(&shared), cuts));
                }
            }
            Some(_) = links.join_next() => {}
        }
    }
}

/// Counts a connection as open for as long as it lives.
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn new(open: &'a AtomicUsize) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn link(mut client: TcpStream, shared: Arc<Shared>, mut cuts: watch::Receiver<(usize, Cut)>) {
    let Some(upstream) = shared.upstream.get() else {
        return;
    };
    let Ok(mut member) = TcpStream::connect(upstream).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    member.set_nodelay(true).unwrap();
    if shared.speech == Speech::Http && is_check(&client).await {
        // Who leaves has its answer.
        let _ = copy_bidirectional(&mut client, &mut member).await;
        return;
    }
    let _open = Open::new(&shared.open);
    let cut = {
        let (from_client, to_client) = client.split();
        let (from_member, to_member) = member.split();
        // Answers that a fault waits for, by correlation id.
        let awaited = Mutex::default();
        tokio::select! {
            cut = requests(from_client, to_member, &shared, &awaited) => cut,
            cut = answers(from_member, to_client, &shared, &awaited) => cut,
            _ = cuts.changed() => cuts.borrow().1,
        }
    };
    if cut == Cut::Rst {
        // Fails where the client has gone already.
        let _ = client.set_zero_linger();
    }
}

/// Whether the first that comes is a check of Consul. It comes in one segment.
async fn is_check(client: &TcpStream) -> bool {
    const CHECK: &[u8] = b"GET /health ";
    let mut begin = [0; CHECK.len()];
    matches!(client.peek(&mut begin).await, Ok(length) if &begin[..length] == CHECK)
}

/// What passes as one: a message, or a piece of HTTP.
struct Unit {
    bytes: Bytes,
    kind: i32,
    /// Tells to which request an answer belongs. On a connection of HTTP there is one at a time.
    correlation_id: i64,
    /// Whether it would be an answer, if it came from there.
    answers: bool,
}

impl Speech {
    /// Takes the first that is there whole.
    fn take(self, buffer: &mut BytesMut) -> Option<Unit> {
        const EVENT_KINDS: u16 = super::wire::EVENT | super::wire::BACKUP_EVENT;
        match self {
            Self::Hazelcast => Message::take(buffer).map(|message| Unit {
                bytes: Bytes::copy_from_slice(message.bytes()),
                kind: message.kind(),
                correlation_id: message.correlation_id(),
                answers: message.flags() & EVENT_KINDS == 0,
            }),
            Self::Http => (!buffer.is_empty()).then(|| Unit {
                kind: kind_of_http(buffer),
                bytes: buffer.split().freeze(),
                correlation_id: 0,
                answers: true,
            }),
        }
    }

    /// Bytes that a client sends before its first message.
    fn greeting(self) -> usize {
        match self {
            Self::Hazelcast => 3,
            Self::Http => 0,
        }
    }
}

fn kind_of_http(piece: &[u8]) -> i32 {
    if piece.starts_with(b"POST ") {
        http::POST
    } else if piece.starts_with(b"GET /logs HTTP") || piece.starts_with(b"GET /messages HTTP") {
        http::LIST
    } else {
        http::OTHER
    }
}

type Awaited = Mutex<HashMap<i64, Fault>>;

async fn requests(mut from: ReadHalf<'_>, to: WriteHalf<'_>, shared: &Shared, awaited: &Awaited) -> Cut {
    let mut to = Way::new(to, shared);
    let mut buffer = BytesMut::new();
    let mut greeting = shared.speech.greeting();
    while read(&mut from, &mut buffer, shared).await {
        if greeting > 0 {
            if buffer.len() < greeting {
                continue;
            }
            let greeting = buffer.split_to(std::mem::take(&mut greeting));
            if to.forward(&greeting).await.is_err() {
                return Cut::Fin;
            }
        }
        while let Some(request) = shared.speech.take(&mut buffer) {
            let passed = match shared.fault_of(request.kind) {
                None => to.forward(&request.bytes).await,
                Some(Fault::BeforeRequest(cut)) => return cut,
                Some(Fault::InRequest(bytes, cut)) => {
                    let _ = to.forward(&request.bytes[..bytes]).await;
                    return cut;
                }
                Some(of_answer) => {
                    awaited.lock().unwrap().insert(request.correlation_id, of_answer);
                    to.forward(&request.bytes).await
                }
            };
            if passed.is_err() {
                return Cut::Fin;
            }
        }
    }
    Cut::Fin
}

async fn answers(mut from: ReadHalf<'_>, to: WriteHalf<'_>, shared: &Shared, awaited: &Awaited) -> Cut {
    let mut to = Way::new(to, shared);
    let mut buffer = BytesMut::new();
    while read(&mut from, &mut buffer, shared).await {
        while let Some(answer) = shared.speech.take(&mut buffer) {
            let fault = if answer.answers {
                awaited.lock().unwrap().remove(&answer.correlation_id)
            } else {
                None
            };
            match fault {
                Some(Fault::BeforeAnswer(cut)) => return cut,
                Some(Fault::InAnswer(bytes, cut)) if bytes <= answer.bytes.len() => {
                    let _ = to.forward(&answer.bytes[..bytes]).await;
                    return cut;
                }
                // The next piece of it.
                Some(Fault::InAnswer(bytes, cut)) => {
                    let rest = Fault::InAnswer(bytes - answer.bytes.len(), cut);
                    awaited.lock().unwrap().insert(answer.correlation_id, rest);
                    if to.forward(&answer.bytes).await.is_err() {
                        return Cut::Fin;
                    }
                }
                Some(Fault::SwallowAnswer) => {}
                _ if to.forward(&answer.bytes).await.is_err() => return Cut::Fin,
                _ => {}
            }
        }
    }
    Cut::Fin
}

/// Reads what there is; false at the end.
async fn read(from: &mut ReadHalf<'_>, buffer: &mut BytesMut, shared: &Shared) -> bool {
    const PIECE: usize = 16 * 1024;
    let mut flow = shared.flow.subscribe();
    let _ = flow.wait_for(|flow| *flow != Flow::Stall).await;
    buffer.reserve(PIECE);
    let read = from.read_buf(buffer).await.unwrap_or_default();
    shared.bytes.fetch_add(read, Ordering::SeqCst);
    let _ = flow.wait_for(|flow| *flow != Flow::Stall).await;
    read > 0
}

/// One direction of a connection.
struct Way<'a> {
    to: WriteHalf<'a>,
    shared: &'a Shared,
    has_swallowed: bool,
}

impl<'a> Way<'a> {
    fn new(to: WriteHalf<'a>, shared: &'a Shared) -> Self {
        Self {
            to,
            shared,
            has_swallowed: false,
        }
    }

    async fn forward(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let flow = *self.shared.flow.borrow();
        self.has_swallowed |= flow == Flow::Swallow;
        if self.has_swallowed {
            return Ok(());
        }
        match flow {
            Flow::Pass | Flow::Stall | Flow::Swallow => self.to.write_all(bytes).await,
            Flow::Delay(delay) => {
                tokio::time::sleep(delay).await;
                self.to.write_all(bytes).await
            }
            Flow::Dribble => {
                for byte in bytes {
                    self.to.write_all(std::slice::from_ref(byte)).await?;
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
        }
    }
}

impl Shared {
    /// Counts the request, and finds the fault that was armed for it.
    fn fault_of(&self, kind: i32) -> Option<Fault> {
        *self.seen.lock().unwrap().entry(kind).or_default() += 1;
        let mut armed = self.armed.lock().unwrap();
        let at = armed.iter().position(|armed| armed.kind == kind)?;
        match armed[at].skip.checked_sub(1) {
            Some(left) => {
                armed[at].skip = left;
                None
            }
            None => Some(armed.remove(at).fault),
        }
    }
}
