//! A client of event streams, and requests with bodies.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::client::{RawClient, header_lines};
use super::soon;

/// An event stream that is being read.
pub struct EventStream {
    client: RawClient,
    /// What has come and is not read.
    text: String,
}

/// One event, as its fields say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub kind: String,
    pub id: String,
    pub data: String,
    pub retry: String,
}

impl EventStream {
    /// Opens one; the head of the answer is checked.
    pub async fn open(address: SocketAddr, path: &str, last_event_id: Option<&str>) -> Self {
        let last = last_event_id.map(|id| ("Last-Event-ID", id));
        Self::open_with(address, path, last.as_slice()).await
    }

    /// The same with these headers.
    pub async fn open_with(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut client = RawClient::connect(address).await;
        let headers = header_lines(headers);
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n{headers}\r\n"
        );
        client.send(head.as_bytes()).await;
        let head = client.read_head().await;
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: text/event-stream"),
            "{head}"
        );
        Self {
            client,
            text: String::new(),
        }
    }

    /// The next event; comments are left out. `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let event = Event::read(block);
                self.text = rest.to_owned();
                if event != Event::default() {
                    return Some(event);
                }
            }
            if !self.read_some().await {
                return None;
            }
        }
    }

    /// Events with these texts, and nothing between them; returns the id of the last.
    pub async fn expect<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) -> String {
        let mut id = String::new();
        for text in texts {
            let event = self.next().await.expect("the stream goes on");
            assert_eq!(
                (event.kind.as_str(), event.data.as_str()),
                ("", text),
                "{event:?}"
            );
            id = event.id;
        }
        id
    }

    /// Reads some of the response; false at its end.
    async fn read_some(&mut self) -> bool {
        let mut bytes = Vec::new();
        // More of a character may be on its way.
        while bytes.is_empty() || std::str::from_utf8(&bytes).is_err() {
            if soon(
                "some of the stream",
                self.client.stream.read_buf(&mut bytes),
            )
            .await
            .unwrap()
                == 0
            {
                return false;
            }
        }
        self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        true
    }
}

impl Event {
    fn read(block: &str) -> Self {
        let mut event = Self::default();
        let mut data = Vec::new();
        for line in block.lines() {
            let (field, value) = line.split_once(": ").unwrap_or((line, ""));
            match field {
                "event" => value.clone_into(&mut event.kind),
                "id" => value.clone_into(&mut event.id),
                "retry" => value.clone_into(&mut event.retry),
                "data" => data.push(value),
                comment => assert!(comment.starts_with(':'), "{line:?} is no line of an event"),
            }
        }
        event.data = data.join("\n");
        event
    }
}

/// Status, head and body of a POST.
pub async fn post(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String, String) {
    let mut client = RawClient::connect(address).await;
    let headers = header_lines(headers);
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    client.send(&[head.as_bytes(), body].concat()).await;
    let response = String::from_utf8(client.read_to_end().await).unwrap();
    let (head, body) = response
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {response:?}"));
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        head.to_owned(),
        body.to_owned(),
    )
}

/// Publishes and returns the message's id.
pub async fn publish(address: SocketAddr, path: &str, text: &str) -> String {
    let (status, _, body) = post(address, path, &[], text.as_bytes()).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned()
}
