//! HTTP connections: how long they are kept, and how they end.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use crate::support::client::RawClient;
use crate::support::node::TestNode;
use crate::support::soon;

/// The head of an answer and its body, of which the head gives the length.
async fn answer(client: &mut RawClient) -> (String, String) {
    let head = client.read_head().await;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    soon("a body", client.stream.read_exact(&mut body)).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ports_tell_how_long_an_idle_connection_is_kept_and_keep_it_so_long() {
    const IDLE: Duration = Duration::from_secs(4);
    let node = TestNode::start(&["--idle-timeout", "4s"]).await;
    let kept = async |address, request: String, status: u16| {
        let mut client = RawClient::connect(address).await;
        for _ in 0..2 {
            client.send(request.as_bytes()).await;
            let (head, _) = answer(&mut client).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(head.contains("\r\nconnection: keep-alive\r\nkeep-alive: timeout=4\r\n"), "{head}");
            let closed = tokio::time::timeout(IDLE / 2, client.stream.read_u8()).await;
            assert!(closed.is_err(), "closed although it was told");
        }
        let begun = Instant::now();
        client.read_to_end().await;
        // Half of the time was over before.
        assert!(begun.elapsed() > IDLE / 2 - Duration::from_millis(500), "closed after {:?}", begun.elapsed());
    };
    tokio::join!(
        kept(node.address, post("/a", "hi"), 200),
        kept(node.address, post("/no//channel", "hi"), 400),
        kept(node.ops, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 200),
    );
}
