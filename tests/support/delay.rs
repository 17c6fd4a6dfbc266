//! A TCP proxy that passes everything on, and can hold it for as long as a test says.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Longer than any test holds anything.
const FOREVER: Duration = Duration::from_secs(3600);

/// Pieces on their way in one direction.
const PIECES: usize = 1024;

/// Ends with this value, and its connections too.
pub(crate) struct Delay {
    address: SocketAddr,
    held_until: watch::Sender<Instant>,
    _tasks: JoinSet<()>,
}

impl Delay {
    /// A proxy before `upstream`, which holds nothing yet.
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let held_until = watch::Sender::new(Instant::now());
        let held = held_until.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                links.spawn(link(client, upstream, held.clone()));
            }
        });
        Self {
            address,
            held_until,
            _tasks: tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds what is on its way and what comes, both ways, until [`Delay::release`].
    pub(crate) fn hold(&self) {
        self.held_until.send_replace(Instant::now() + FOREVER);
    }

    /// Passes on what was held, and all that comes.
    pub(crate) fn release(&self) {
        self.held_until.send_replace(Instant::now());
    }
}

async fn link(client: TcpStream, upstream: SocketAddr, held: watch::Receiver<Instant>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        pass(from_client, to_server, held.clone()),
        pass(from_server, to_client, held)
    );
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut held: watch::Receiver<Instant>,
) {
    let (pieces, mut waiting) = mpsc::channel::<Vec<u8>>(PIECES);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if pieces.send(buffer[..length].to_vec()).await.is_err() {
                return;
            }
        }
    };
    let write = async {
        while let Some(piece) = waiting.recv().await {
            if held.wait_for(|until| *until <= Instant::now()).await.is_err() || to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
