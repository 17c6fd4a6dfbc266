//! A TCP proxy that passes everything on, whatever it is, and can hold or delay it for as long as a test says.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Pieces on their way in one direction.
const PIECES: usize = 1024;

/// Ends with this value, and its connections too.
pub(crate) struct Hold {
    address: SocketAddr,
    how: watch::Sender<How>,
    _tasks: JoinSet<()>,
}

/// How things pass.
#[derive(Clone, Copy, Default)]
struct How {
    held: bool,
    /// What the server says goes on so much later.
    delay: Duration,
}

impl Hold {
    /// A proxy before `upstream`, which holds nothing yet.
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let how = watch::Sender::new(How::default());
        let passes = how.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                links.spawn(link(client, upstream, passes.clone()));
            }
        });
        Self {
            address,
            how,
            _tasks: tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds what is on its way and what comes, both ways, until [`Hold::release`].
    pub(crate) fn hold(&self) {
        self.how.send_modify(|how| how.held = true);
    }

    /// Passes on what was held, and all that comes.
    pub(crate) fn release(&self) {
        self.how.send_modify(|how| how.held = false);
    }

    /// Passes on so much later what the server says from now on.
    pub(crate) fn delay_answers(&self, delay: Duration) {
        self.how.send_modify(|how| how.delay = delay);
    }
}

async fn link(client: TcpStream, upstream: SocketAddr, how: watch::Receiver<How>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        pass(from_client, to_server, how.clone(), |_| Duration::ZERO),
        pass(from_server, to_client, how, |how| how.delay)
    );
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut how: watch::Receiver<How>,
    delay: impl Fn(&How) -> Duration,
) {
    let (pieces, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let now = how.clone();
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + delay(&now.borrow());
            if pieces.send((due, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async {
        while let Some((due, piece)) = waiting.recv().await {
            sleep_until(due).await;
            if how.wait_for(|how| !how.held).await.is_err() || to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
