//! A TCP proxy that passes everything on, whatever it is, and can hold it for as long as a test says.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Pieces on their way in one direction.
const PIECES: usize = 1024;

/// Ends with this value, and its connections too.
pub(crate) struct Hold {
    address: SocketAddr,
    held: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Hold {
    /// A proxy before `upstream`, which holds nothing yet.
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let held = watch::Sender::new(false);
        let holds = held.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                links.spawn(link(client, upstream, holds.clone()));
            }
        });
        Self {
            address,
            held,
            _tasks: tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds what is on its way and what comes, both ways, until [`Hold::release`].
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Passes on what was held, and all that comes.
    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }
}

async fn link(client: TcpStream, upstream: SocketAddr, held: watch::Receiver<bool>) {
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
    mut held: watch::Receiver<bool>,
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
            if held.wait_for(|held| !held).await.is_err() || to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
