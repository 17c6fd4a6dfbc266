//! A scripted member: does what every member does when a client connects, and leaves the rest to the test.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use uuid::Uuid;

use super::proxy::Cut;
use super::wire::{self, Builder, Message, kind};

/// How long a test waits for a request that must come.
const PATIENCE: Duration = Duration::from_secs(15);

/// Calls and bytes that may wait to be taken.
const QUEUE: usize = 16 * 1024;

/// A real member's answer to an authentication up to the member list. What differs is put in where it stands.
const ACCEPTED: &str = "\
    4400000000c0010100000100000000000000000000c74ca0b4a081ceb781a84d6791b3018a010f01000000154325b7e5756362b9\
    8913f5fad82d8f0001000000ffffffff0600000000100a0000000000951600000f00000000003132372e302e302e310600000000\
    080b0000000000352e372e30060000000000060000000004";

/// What came behind the list: no partition table yet, and the version of the cluster.
const AFTER_MEMBERS: &str = "\
    060000000010060000000008060000000000060000000010140000000000636c757374657256657273696f6e090000000000352e\
    37060000000028";

/// Where the parameters of [`ACCEPTED`] stand.
mod offset {
    pub(super) const CORRELATION_ID: usize = 10;
    pub(super) const STATUS: usize = 19;
    pub(super) const MEMBER_UUID: usize = 20;
    pub(super) const PARTITION_COUNT: usize = 38;
    pub(super) const CLUSTER_ID: usize = 42;
    pub(super) const MEMBERS_VERSION: usize = 60;
}

/// Who a member says it is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster_name: String,
    pub(crate) cluster_id: Uuid,
    pub(crate) member: Uuid,
    pub(crate) partition_count: i32,
}

impl Identity {
    /// A new member of a new cluster called `dev`.
    pub(crate) fn new() -> Self {
        Self {
            cluster_name: "dev".into(),
            cluster_id: Uuid::new_v4(),
            member: Uuid::new_v4(),
            partition_count: 271,
        }
    }

    /// Another member of the same cluster.
    pub(crate) fn sibling(&self) -> Self {
        Self {
            member: Uuid::new_v4(),
            ..self.clone()
        }
    }
}

/// What a member tells of its cluster.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) version: i32,
    pub(crate) members: Vec<(Uuid, SocketAddr)>,
    /// Owners of the partitions, in turn.
    pub(crate) owners: Vec<Uuid>,
}

pub(crate) struct Member {
    pub(crate) uuid: Uuid,
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    calls: tokio::sync::Mutex<mpsc::Receiver<Call>>,
    accepting: JoinHandle<()>,
}

type Handler = Arc<dyn Fn(Call) + Send + Sync>;

struct Shared {
    identity: Identity,
    view: watch::Sender<View>,
    pings: AtomicBool,
    handler: Mutex<Handler>,
    received: Mutex<Vec<(usize, Message)>>,
    accepted: AtomicUsize,
    open: Mutex<HashMap<usize, Connection>>,
}

/// The member's end of a connection. It outlives that; what is sent later goes nowhere.
#[derive(Clone)]
pub(crate) struct Connection {
    /// Counts the connections that the member accepted, from 0.
    pub(crate) number: usize,
    out: mpsc::Sender<Out>,
    /// Correlation id of the registration for backups' confirmations.
    backup_listener: Arc<Mutex<Option<i64>>>,
}

enum Out {
    Bytes(Vec<u8>),
    End(Cut),
}

/// A request that the test answers. Dropped, it stays without an answer.
pub(crate) struct Call {
    pub(crate) message: Message,
    pub(crate) connection: Connection,
}

// === impl Member ===

impl Member {
    /// A cluster of one, which owns all partitions.
    pub(crate) async fn start(identity: Identity) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), identity).await
    }

    pub(crate) async fn start_at(address: SocketAddr, identity: Identity) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, calls) = mpsc::channel(QUEUE);
        let uuid = identity.member;
        let shared = Arc::new(Shared {
            identity,
            view: watch::Sender::new(View {
                version: 1,
                members: vec![(uuid, address)],
                owners: vec![uuid],
            }),
            pings: AtomicBool::new(true),
            handler: Mutex::new(to_queue(sender)),
            received: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            uuid,
            address,
            shared,
            calls: tokio::sync::Mutex::new(calls),
            accepting,
        }
    }

    /// A cluster of so many members, which own the partitions in turn.
    pub(crate) async fn start_cluster(count: usize) -> Vec<Self> {
        let first = Identity::new();
        let mut members = vec![Self::start(first.clone()).await];
        while members.len() < count {
            members.push(Self::start(first.sibling()).await);
        }
        let listed: Vec<_> = members.iter().map(|member| (member.uuid, member.address)).collect();
        for member in &members {
            member.publish(&listed);
        }
        members
    }

    /// Ends the member and its connections: its port is free afterwards.
    pub(crate) async fn stop(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        while self.open() > 0 {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Tells clients, those that come later too, of these members, each of which owns its share of the partitions.
    pub(crate) fn publish(&self, members: &[(Uuid, SocketAddr)]) {
        self.shared.view.send_modify(|view| {
            view.version += 1;
            view.members = members.to_vec();
            view.owners = members.iter().map(|(uuid, _)| *uuid).collect();
        });
    }

    pub(crate) fn answer_pings(&self, answer: bool) {
        self.shared.pings.store(answer, Ordering::SeqCst);
    }

    /// From now on requests go to this function in place of [`Member::next`].
    pub(crate) fn on_call(&self, handler: impl Fn(Call) + Send + Sync + 'static) {
        *self.shared.handler.lock().unwrap() = Arc::new(handler);
    }

    /// The next request that the script has to answer, which must be of this kind.
    pub(crate) async fn next(&self, kind: i32) -> Call {
        let call = timeout(PATIENCE, async { self.calls.lock().await.recv().await }).await;
        let call = call
            .unwrap_or_else(|_| panic!("no request came where 0x{kind:06X} was due"))
            .unwrap();
        assert_eq!(
            call.message.kind(),
            kind,
            "0x{:06X} came where 0x{kind:06X} was due",
            call.message.kind()
        );
        call
    }

    /// A request that has come and was not asked for yet.
    pub(crate) async fn unexpected(&self) -> Option<Call> {
        self.calls.lock().await.try_recv().ok()
    }

    /// Confirms a call as its backup, on every connection that asked for confirmations.
    pub(crate) fn confirm(&self, call_id: i64) {
        for connection in self.shared.open.lock().unwrap().values() {
            if let Some(listener) = *connection.backup_listener.lock().unwrap() {
                connection.send(wire::backup_event(listener, call_id));
            }
        }
    }

    /// Every message of this kind so far, and the number of the connection that it came over.
    pub(crate) fn received(&self, kind: i32) -> Vec<(usize, Message)> {
        let received = self.shared.received.lock().unwrap();
        received
            .iter()
            .filter(|(_, message)| message.kind() == kind)
            .cloned()
            .collect()
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Ends every open connection.
    pub(crate) fn end_all(&self, cut: Cut) {
        for connection in self.shared.open.lock().unwrap().values() {
            connection.end(cut);
        }
    }

    /// Sends these bytes, whatever they are, on every open connection.
    pub(crate) fn send_all(&self, bytes: &[u8]) {
        for connection in self.shared.open.lock().unwrap().values() {
            connection.send(bytes.to_vec());
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn to_queue(sender: mpsc::Sender<Call>) -> Handler {
    Arc::new(move |call| {
        // Fails where the test has ended.
        let _ = sender.try_send(call);
    })
}

// === impl Connection ===

impl Connection {
    pub(crate) fn send(&self, bytes: Vec<u8>) {
        // Fails where the connection has ended.
        let _ = self.out.try_send(Out::Bytes(bytes));
    }

    /// Ends the connection once all is written that was sent before.
    pub(crate) fn end(&self, cut: Cut) {
        let _ = self.out.try_send(Out::End(cut));
    }
}

// === impl Call ===

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "0x{:06X} on connection {}",
            self.message.kind(),
            self.connection.number
        )
    }
}

impl Call {
    pub(crate) fn id(&self) -> i64 {
        self.message.correlation_id()
    }

    pub(crate) fn backup_aware(&self) -> bool {
        self.message.flags() & wire::BACKUP_AWARE != 0
    }

    /// The usual answer: nothing, null, zero, true or a new UUID, as its kind has it.
    pub(crate) fn answer(&self) {
        self.answer_owing(0);
    }

    /// The usual answer, which names so many backups that will confirm.
    pub(crate) fn answer_owing(&self, backup_acks: u8) {
        self.connection.send(self.usual_answer(backup_acks));
    }

    pub(crate) fn usual_answer(&self, backup_acks: u8) -> Vec<u8> {
        let kind = self.message.kind();
        let response = Builder::response(kind + 1, self.id(), backup_acks);
        match kind {
            kind::PING | kind::MAP_SET | kind::CLUSTER_VIEW_LISTENER => response.finish(),
            kind::MAP_GET | kind::QUEUE_POLL => response.null().finish(),
            kind::MAP_SIZE => response.fixed([0; 4]).finish(),
            kind::QUEUE_OFFER => response.fixed([1]).finish(),
            kind::QUEUE_DRAIN => response.begin().end().finish(),
            kind::BACKUP_LISTENER | kind::PARTITION_LOST_LISTENER | kind::QUEUE_ITEM_LISTENER => {
                response.uuid(Uuid::new_v4()).finish()
            }
            other => panic!("a scripted member has no usual answer to 0x{other:06X}"),
        }
    }

    /// A value for a `Map.Get` or a `Queue.Poll`, serialized by the caller.
    pub(crate) fn answer_value(&self, value: &[u8]) {
        let response = Builder::response(self.message.kind() + 1, self.id(), 0);
        self.connection.send(response.frame(0, value).finish());
    }

    pub(crate) fn error(&self, code: i32) {
        self.connection.send(wire::error(
            self.id(),
            code,
            "com.example.ScriptedException",
            "as the script says",
        ));
    }

    /// No answer: the connection ends.
    pub(crate) fn end(&self, cut: Cut) {
        self.connection.end(cut);
    }
}

// === the task behind it ===

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Owns the connections: they end with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                let (out, outgoing) = mpsc::channel(QUEUE);
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                let connection = Connection { number, out, backup_listener: Arc::default() };
                let registered = Registered::new(&shared, connection.clone());
                connections.spawn(async move { serve(stream, outgoing, registered).await });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Keeps a connection in the member's list for as long as its task lives.
struct Registered {
    shared: Arc<Shared>,
    connection: Connection,
}

impl Registered {
    fn new(shared: &Arc<Shared>, connection: Connection) -> Self {
        shared
            .open
            .lock()
            .unwrap()
            .insert(connection.number, connection.clone());
        Self {
            shared: Arc::clone(shared),
            connection,
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.open.lock().unwrap().remove(&self.connection.number);
    }
}

async fn serve(mut stream: TcpStream, mut outgoing: mpsc::Receiver<Out>, registered: Registered) {
    let Registered { shared, connection } = &registered;
    stream.set_nodelay(true).unwrap();
    let mut greeting = [0; 3];
    if stream.read_exact(&mut greeting).await.is_err() {
        return;
    }
    assert_eq!(&greeting, b"CP2");
    let mut buffer = BytesMut::new();
    let mut views = shared.view.subscribe();
    let mut view_listener = None;
    loop {
        tokio::select! {
            read = stream.read_buf(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    while let Some(message) = Message::take(&mut buffer) {
                        if message.kind() == kind::CLUSTER_VIEW_LISTENER {
                            view_listener = Some(message.correlation_id());
                            views.mark_changed();
                        }
                        take(message, shared, connection);
                    }
                }
            },
            out = outgoing.recv() => match out {
                Some(Out::Bytes(bytes)) => if stream.write_all(&bytes).await.is_err() { return },
                Some(Out::End(Cut::Rst)) => return stream.set_zero_linger().unwrap(),
                Some(Out::End(Cut::Fin)) | None => return,
            },
            Ok(()) = views.changed(), if view_listener.is_some() => {
                let view = views.borrow_and_update().clone();
                send_view(&view, view_listener.unwrap_or_default(), shared.identity.partition_count, connection);
            }
        }
    }
}

fn send_view(view: &View, listener: i64, partition_count: i32, connection: &Connection) {
    connection.send(wire::members_view(listener, view.version, &view.members));
    let mut owners: Vec<(Uuid, Vec<i32>)> = view.owners.iter().map(|owner| (*owner, vec![])).collect();
    for partition in 0..partition_count {
        let turn = usize::try_from(partition).unwrap() % owners.len();
        owners[turn].1.push(partition);
    }
    connection.send(wire::partitions_view(listener, view.version, &owners));
}

/// Does what every member does at once, and hands the rest to the script.
fn take(message: Message, shared: &Shared, connection: &Connection) {
    shared
        .received
        .lock()
        .unwrap()
        .push((connection.number, message.clone()));
    let call = Call {
        message,
        connection: connection.clone(),
    };
    match call.message.kind() {
        kind::AUTHENTICATION => {
            let view = shared.view.borrow();
            connection.send(authenticated(
                &call.message,
                &shared.identity,
                view.version,
                &view.members,
            ));
        }
        kind::BACKUP_LISTENER => {
            *connection.backup_listener.lock().unwrap() = Some(call.id());
            call.answer();
        }
        kind::CLUSTER_VIEW_LISTENER => call.answer(),
        kind::PING if shared.pings.load(Ordering::SeqCst) => call.answer(),
        kind::PING => {}
        _ => {
            let handler = Arc::clone(&shared.handler.lock().unwrap());
            handler(call);
        }
    }
}

/// The answer to an authentication by the cluster's name alone.
pub(crate) fn authenticated(
    request: &Message,
    identity: &Identity,
    members_version: i32,
    members: &[(Uuid, SocketAddr)],
) -> Vec<u8> {
    let mut head = from_hex(ACCEPTED);
    let mut put = |offset: usize, bytes: &[u8]| head[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(offset::CORRELATION_ID, &request.correlation_id().to_le_bytes());
    put(
        offset::STATUS,
        &[u8::from(request.frames()[0] != identity.cluster_name.as_bytes())],
    );
    put(offset::MEMBER_UUID, &wire::uuid_bytes(identity.member));
    put(offset::PARTITION_COUNT, &identity.partition_count.to_le_bytes());
    put(offset::CLUSTER_ID, &wire::uuid_bytes(identity.cluster_id));
    put(offset::MEMBERS_VERSION, &members_version.to_le_bytes());
    let mut answer = wire::member_list(Builder::after(head), members).bytes();
    answer.extend(from_hex(AFTER_MEMBERS));
    answer
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|digit| !digit.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}
