//! A slow way to a node: a TCP relay that passes so many bytes a second each way, each after a
//! delay. Little lies in its own buffers, as on a link whose queues are short.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// The kernel's buffers of each of its sockets, in bytes.
const BUFFER: u32 = 4 * 1024;

/// Bytes that are passed at once.
const CHUNK: usize = 1024;

/// Chunks on the way: with a delay of 300 ms, 200 kB a second at most.
const ON_THE_WAY: usize = 64;

/// A running relay. Dropping it closes its port.
pub struct Link {
    pub address: SocketAddr,
    accepting: AbortHandle,
}

/// How bytes pass.
#[derive(Clone, Copy)]
pub struct Pace {
    pub bytes_per_second: f64,
    pub delay: Duration,
}

impl Link {
    pub async fn start(target: SocketAddr, pace: Pace) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Accepted sockets inherit it.
        socket.set_send_buffer_size(BUFFER).unwrap();
        socket.set_recv_buffer_size(BUFFER).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        Self {
            address,
            accepting: tokio::spawn(accept(listener, target, pace)).abort_handle(),
        }
    }

    /// The WebSocket address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, pace: Pace) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(BUFFER).unwrap();
        socket.set_recv_buffer_size(BUFFER).unwrap();
        let node = socket.connect(target).await.unwrap();
        for stream in [&client, &node] {
            TcpStream::set_nodelay(stream, true).unwrap();
        }
        let ((client_read, client_write), (node_read, node_write)) =
            (client.into_split(), node.into_split());
        tokio::spawn(pass(client_read, node_write, pace));
        tokio::spawn(pass(node_read, client_write, pace));
    }
}

/// Passes bytes one way until an end is gone, and then the end.
async fn pass(mut from: OwnedReadHalf, to: OwnedWriteHalf, pace: Pace) {
    let (chunks, on_the_way) = mpsc::channel(ON_THE_WAY);
    tokio::spawn(arrive(on_the_way, to));
    let mut free = Instant::now();
    loop {
        let mut chunk = vec![0; CHUNK];
        let Ok(bytes @ 1..) = from.read(&mut chunk).await else {
            return;
        };
        chunk.truncate(bytes);
        free = free.max(Instant::now())
            + Duration::from_secs_f64(bytes as f64 / pace.bytes_per_second);
        if chunks.send((free + pace.delay, chunk)).await.is_err() {
            return;
        }
        sleep_until(free).await;
    }
}

async fn arrive(mut on_the_way: mpsc::Receiver<(Instant, Vec<u8>)>, mut to: OwnedWriteHalf) {
    while let Some((due, chunk)) = on_the_way.recv().await {
        sleep_until(due).await;
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}
