//! Rests of bodies, on real sockets and a clock of the test's own.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::connection::Service;
use crate::http::keep_alive::KeepAlive;
use crate::http::listener::bind;
use crate::http::server::Server;

/// A server that wants no bodies, its connections and its stop.
fn start() -> (SocketAddr, TaskTracker, CancellationToken) {
    let router = Router::new().route("/", get(async || "hi"));
    let listener = bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (keep_alive, stop) = (
        KeepAlive::new(Duration::from_secs(75)),
        CancellationToken::new(),
    );
    let connections = TaskTracker::new();
    let server = Server {
        service: Service {
            router,
            keep_alive,
            stop: stop.clone(),
            connections: connections.clone(),
            counters: None,
        },
        admission: None,
    };
    tokio::spawn(server.serve(listener));
    connections.close();
    (address, connections, stop)
}

/// Sends a head and reads the answer to its end; whole seconds it took.
async fn ask(address: SocketAddr, head: &str) -> (TcpStream, String, u64) {
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let start = Instant::now();
    client
        .write_all(format!("POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n").as_bytes())
        .await
        .expect("it is read");
    let mut answer = String::new();
    client
        .read_to_string(&mut answer)
        .await
        .expect("an end in order");
    assert!(
        answer.starts_with("HTTP/1.1 405 ") && answer.contains("connection: close\r\n"),
        "{answer}"
    );
    (client, answer, start.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_a_second_for_a_small_rest_and_not_for_a_large_one() {
    let (address, ..) = start();
    assert_eq!(ask(address, "Content-Length: 1000").await.2, 1);
    assert_eq!(ask(address, "Transfer-Encoding: chunked").await.2, 1);
    assert_eq!(ask(address, "Content-Length: 1000000").await.2, 0);
    assert_eq!(
        ask(address, "Content-Length: 1000\r\nExpect: 100-continue")
            .await
            .2,
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_sending_or_does_not_hang_up_is_left_after_half_a_minute() {
    let (address, connections, _stop) = start();
    let start = Instant::now();
    let (mut client, ..) = ask(address, "Content-Length: 1000000").await;
    for _ in 0..25 {
        sleep(Duration::from_secs(1)).await;
        client.write_all(b"some").await.expect("it is read");
        assert_eq!(connections.len(), 1);
    }
    connections.wait().await;
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_is_not_waited_for() {
    let (address, connections, _stop) = start();
    let start = Instant::now();
    drop(ask(address, "Content-Length: 1000000").await);
    connections.wait().await;
    assert_eq!(start.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_waits_two_seconds_for_it() {
    let (address, connections, stop) = start();
    let start = Instant::now();
    let _client = ask(address, "Content-Length: 1000000").await;
    stop.cancel();
    connections.wait().await;
    assert_eq!(start.elapsed().as_secs(), 2);
}
