//! A TCP proxy in front of a node, for what networks do: connections that are cut, and answers that never arrive.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// A running proxy. Dropping it ends its connections.
pub struct Proxy {
    pub address: SocketAddr,
    state: watch::Sender<State>,
    cut: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    /// What the server says is swallowed.
    Deaf,
    /// New connections are ended at once.
    Shut,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, states) = watch::channel(State::Open);
        let cut = Arc::new(Notify::new());
        let cuts = Arc::clone(&cut);
        tokio::spawn(async move {
            // Ends when the proxy is dropped and with it the last connection that could be cut.
            while let Ok((client, _)) = listener.accept().await {
                if *states.borrow() == State::Shut {
                    continue;
                }
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(relay(client, server, states.clone(), Arc::clone(&cuts)));
            }
        });
        Self { address, state, cut }
    }

    pub fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// From now on nothing that the server says arrives; what clients say does.
    pub fn swallow_answers(&self) {
        self.state.send_replace(State::Deaf);
    }

    /// Ends all connections, and new ones until [`Self::open`].
    pub fn cut(&self) {
        self.state.send_replace(State::Shut);
        self.cut.notify_waiters();
    }

    pub fn open(&self) {
        self.state.send_replace(State::Open);
    }
}

async fn relay(client: TcpStream, server: TcpStream, mut states: watch::Receiver<State>, cut: Arc<Notify>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let answers = states.clone();
    tokio::select! {
        () = copy(from_client, to_server, || true) => {}
        () = copy(from_server, to_client, || *answers.borrow() == State::Open) => {}
        () = cut.notified() => {}
        // The proxy is gone.
        () = async { while states.changed().await.is_ok() {} } => {}
    }
}

/// Copies until one side ends; what must not pass is read and dropped.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passes: impl Fn() -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if passes() && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
