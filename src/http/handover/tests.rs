//! The HTTP server on real sockets: what a handover leaves behind, and who is given up for not
//! reading.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Handover;
use crate::http::connection::Service;
use crate::http::keep_alive::KeepAlive;
use crate::http::listener::bind;
use crate::http::server::Server;

/// More than the kernel takes of an answer that nobody reads.
const LARGE: usize = 12 * 1024 * 1024;

/// A server with a large answer, and a path on which it hands its socket over and says so with the
/// early bytes.
fn start() -> (SocketAddr, TaskTracker) {
    let hand_over = async |mut request: Request| -> StatusCode {
        let handover = request
            .extensions_mut()
            .remove::<Handover>()
            .expect("the connection offers it");
        let run = |mut stream: TcpStream, early: Bytes| {
            let going_on = async move {
                let said = [b"taken, early: ", &early[..]].concat();
                stream.write_all(&said).await.expect("the socket is open");
            };
            Box::pin(going_on) as futures_util::future::BoxFuture<'static, ()>
        };
        match handover.take(run).await {}
    };
    let router = Router::new()
        .route("/large", get(async || vec![b'x'; LARGE]))
        .route("/take", get(hand_over));
    let listener = bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = listener.local_addr().expect("an address");
    let connections = TaskTracker::new();
    let keep_alive = KeepAlive::new(Duration::from_secs(75));
    let stop = CancellationToken::new();
    let server = Server {
        service: Service {
            router,
            keep_alive,
            stop,
            connections: connections.clone(),
            counters: None,
        },
        admission: None,
    };
    tokio::spawn(server.serve(listener));
    (address, connections)
}

/// A connection whose kernel buffers little.
async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .set_recv_buffer_size(16 * 1024)
        .expect("a small buffer");
    socket.connect(address).await.expect("a connection")
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_socket_is_handed_over_after_earlier_answers_and_with_early_bytes() {
    let (address, connections) = start();
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let together = [request("/large"), request("/take"), b"and more".to_vec()].concat();
    client.write_all(&together).await.expect("the server reads");
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.expect("closed in order");
    let body = all
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head")
        + 4;
    assert!(
        all[..body].starts_with(b"HTTP/1.1 200"),
        "{:?}",
        String::from_utf8_lossy(&all[..body])
    );
    assert!(all[body..body + LARGE].iter().all(|byte| *byte == b'x'));
    assert_eq!(
        String::from_utf8_lossy(&all[body + LARGE..]),
        "taken, early: and more"
    );
    connections.close();
    connections.wait().await;
}

#[tokio::test]
async fn a_request_that_is_handed_over_by_itself_is_not_answered() {
    let (address, _) = start();
    let mut client = TcpStream::connect(address).await.expect("a connection");
    client
        .write_all(&request("/take"))
        .await
        .expect("the server reads");
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.expect("closed in order");
    assert_eq!(String::from_utf8_lossy(&all), "taken, early: ");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_answer_is_reset() {
    let (address, connections) = start();
    let mut client = connect(address).await;
    client
        .write_all(&request("/large"))
        .await
        .expect("the server reads");
    client.readable().await.expect("the answer begins");
    connections.close();
    connections.wait().await;
    let mut all = Vec::new();
    let error = client
        .read_to_end(&mut all)
        .await
        .expect_err("a reset, not an end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(
        all.len() < 1024 * 1024,
        "{} bytes were kept for it",
        all.len()
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_side_and_does_not_read_is_reset_too() {
    let (address, connections) = start();
    let mut client = connect(address).await;
    client
        .write_all(&request("/large"))
        .await
        .expect("the server reads");
    client.readable().await.expect("the answer begins");
    client.shutdown().await.expect("half closed");
    connections.close();
    connections.wait().await;
    let mut all = Vec::new();
    client
        .read_to_end(&mut all)
        .await
        .expect_err("a reset, not an end");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_all_the_time_gets_its_whole_answer() {
    let (address, _connections) = start();
    let mut client = connect(address).await;
    client
        .write_all(&request("/large"))
        .await
        .expect("the server reads");
    let mut buffer = vec![0; 64 * 1024];
    let mut got = 0;
    while got < LARGE {
        got += client.read(&mut buffer).await.expect("it is not cut off");
        // The clock is the test's own: 64 KiB at most in 8 s are about twice the least rate.
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
}
