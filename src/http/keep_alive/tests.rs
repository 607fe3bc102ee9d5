//! Connections between requests, on real sockets and a clock of the test's own.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::KeepAlive;
use crate::http::connection::Service;
use crate::http::listener::bind;
use crate::http::server::Server;

const IDLE: Duration = Duration::from_secs(75);

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const POST: &str = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
const CHUNKED: &str =
    "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
const HALF: &str = "GET / HTTP/1.1\r\nHo";

fn start() -> SocketAddr {
    let router = Router::new()
        .route("/", get(async || "hi"))
        .route("/echo", post(async |body: String| body));
    let listener = bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
    let server = Server {
        service: Service {
            router,
            keep_alive: KeepAlive::new(IDLE),
            stop,
            connections,
            counters: None,
        },
        admission: None,
    };
    tokio::spawn(server.serve(listener));
    address
}

struct Client(TcpStream);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("a connection"))
    }

    async fn send(&mut self, bytes: &str) {
        self.0
            .write_all(bytes.as_bytes())
            .await
            .expect("the connection is open");
    }

    /// The head of an answer, whose body is two bytes.
    async fn answer(&mut self) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhi") {
            answer.push(self.0.read_u8().await.expect("the connection is open"));
        }
        String::from_utf8(answer).expect("text")
    }

    /// Whole seconds until the server closes it without another word.
    async fn closed_after(&mut self) -> u64 {
        let start = Instant::now();
        let mut rest = Vec::new();
        self.0
            .read_to_end(&mut rest)
            .await
            .expect("closed in order");
        assert_eq!(String::from_utf8_lossy(&rest), "");
        start.elapsed().as_secs()
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_for_as_long_as_its_client_was_told() {
    let mut client = Client::connect(start()).await;
    for request in [GET, POST, CHUNKED, GET] {
        client.send(request).await;
        let answer = client.answer().await;
        assert!(
            answer.contains("connection: keep-alive\r\nkeep-alive: timeout=75\r\n"),
            "{answer}"
        );
        sleep(IDLE).await;
    }
    client.send(POST).await;
    client.answer().await;
    assert_eq!(client.closed_after().await, 76);
}

#[tokio::test(start_paused = true)]
async fn an_answer_after_which_the_connection_ends_does_not_say_how_long_it_is_kept() {
    let address = start();
    for (request, kept) in [
        (
            GET.replace("\r\n\r\n", "\r\nConnection: x, Close\r\n\r\n"),
            false,
        ),
        (GET.replace("1.1", "1.0"), false),
        (
            GET.replace("1.1", "1.0")
                .replace("\r\n\r\n", "\r\nConnection: Keep-Alive\r\n\r\n"),
            true,
        ),
    ] {
        let mut client = Client::connect(address).await;
        client.send(&request).await;
        let answer = client.answer().await;
        assert_eq!(
            answer.contains("keep-alive: timeout=75\r\n"),
            kept,
            "{request}: {answer}"
        );
        assert_eq!(client.closed_after().await, if kept { 76 } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_has_begun_has_ten_seconds_however_it_began() {
    let address = start();
    for request in [GET, POST, CHUNKED] {
        // After a while, in pieces.
        let mut client = Client::connect(address).await;
        client.send(request).await;
        client.answer().await;
        sleep(Duration::from_secs(30)).await;
        client.send(HALF).await;
        sleep(Duration::from_secs(6)).await;
        client.send("st: ").await;
        assert_eq!(client.closed_after().await, 4);

        // Together with the request before it.
        let mut client = Client::connect(address).await;
        client.send(&format!("{request}{HALF}")).await;
        client.answer().await;
        assert_eq!(client.closed_after().await, 10);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_head_has_ten_seconds_from_the_beginning_of_the_connection() {
    let address = start();
    let mut client = Client::connect(address).await;
    assert_eq!(client.closed_after().await, 10);
    let mut client = Client::connect(address).await;
    sleep(Duration::from_secs(7)).await;
    client.send(HALF).await;
    assert_eq!(client.closed_after().await, 3);
}
