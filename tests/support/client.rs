//! Clients: a WebSocket client that speaks properly (tungstenite), one that says any bytes, and a
//! line of HTTP.

use std::net::SocketAddr;

use flate2::{Compress, Compression, FlushCompress};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{Error, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::soon;

/// A well-behaved client.
pub struct TestClient {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What the server answered to the handshake.
    pub response: http::Response<Option<Vec<u8>>>,
}

impl TestClient {
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url, &[])
            .await
            .unwrap_or_else(|refused| panic!("{url}: {refused:?}"))
    }

    /// Connects with these headers; a refusal is its status and body.
    pub async fn try_connect(
        url: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, (u16, String)> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(
                *name,
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        match soon("connecting", connect_async(request)).await {
            Ok((socket, response)) => Ok(Self { socket, response }),
            Err(Error::Http(response)) => {
                let body = response
                    .body()
                    .as_deref()
                    .map(String::from_utf8_lossy)
                    .unwrap_or_default()
                    .into_owned();
                Err((response.status().as_u16(), body))
            }
            Err(error) => panic!("{url}: {error}"),
        }
    }

    pub async fn send(&mut self, message: Message) {
        soon("sending", self.socket.send(message)).await.unwrap();
    }

    pub async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// The next message of any kind; pings are answered on the way and left out.
    pub async fn next(&mut self) -> Message {
        soon("a message", async {
            loop {
                match self
                    .socket
                    .next()
                    .await
                    .expect("the connection is open")
                    .unwrap()
                {
                    Message::Ping(_) => {}
                    message => return message,
                }
            }
        })
        .await
    }

    /// The next message, which is a text.
    pub async fn hear(&mut self) -> String {
        match self.next().await {
            Message::Text(text) => text.to_string(),
            other => panic!("heard {other:?} instead of a text"),
        }
    }

    /// Hears these texts, in this order, and nothing between them.
    pub async fn expect<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) {
        for text in texts {
            assert_eq!(self.hear().await, text);
        }
    }

    /// Whether nothing but pings comes for a while: only for what must not happen.
    pub async fn hears_nothing_for(&mut self, time: std::time::Duration) -> bool {
        let something =
            async { while let Some(Ok(Message::Ping(_))) = self.socket.next().await {} };
        tokio::time::timeout(time, something).await.is_err()
    }

    /// The close that comes next, with its code and reason; messages before it are left out.
    pub async fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            if let Message::Close(frame) = self.next().await {
                return frame.map(|CloseFrame { code, reason }| (code.into(), reason.to_string()));
            }
        }
    }

    /// Closes and waits for the answer.
    pub async fn close(&mut self, code: u16, reason: &str) -> Option<(u16, String)> {
        let frame = CloseFrame {
            code: code.into(),
            reason: reason.to_owned().into(),
        };
        self.send(Message::Close(Some(frame))).await;
        self.closed().await
    }

    /// The socket itself.
    pub fn into_inner(self) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        self.socket
    }
}

/// A client that says exactly these bytes.
pub struct RawClient {
    pub stream: TcpStream,
}

impl RawClient {
    /// A WebSocket whose messages are deflated, and which does not hear itself. `extra` are further
    /// headers.
    pub async fn deflating(address: SocketAddr, path: &str, extra: &str) -> Self {
        let mut client = Self::connect(address).await;
        let extra = format!("Sec-WebSocket-Extensions: permessage-deflate\r\n{extra}");
        client
            .send(handshake(address, &format!("{path}?echo=false"), &extra).as_bytes())
            .await;
        assert!(client.read_head().await.starts_with("HTTP/1.1 101 "));
        client
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self {
            stream: soon("connecting", TcpStream::connect(address))
                .await
                .unwrap(),
        }
    }

    /// Connects and shakes hands.
    pub async fn websocket(address: SocketAddr, path: &str) -> Self {
        let mut client = Self::connect(address).await;
        client.send(handshake(address, path, "").as_bytes()).await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        soon("sending", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Everything up to the empty line after an HTTP head.
    pub async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        soon("a head", async {
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.stream.read_u8().await.unwrap());
            }
        })
        .await;
        String::from_utf8(head).unwrap()
    }

    /// The head of a response and its body, whose length the head gives.
    pub async fn read_response(&mut self) -> (String, String) {
        let head = self.read_head().await;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap_or("0");
        let mut body = vec![0; length.parse().unwrap()];
        soon("a body", self.stream.read_exact(&mut body))
            .await
            .unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    /// The next frame: its first byte and its payload.
    pub async fn read_frame(&mut self) -> (u8, Vec<u8>) {
        soon("a frame", async {
            let first = self.stream.read_u8().await.unwrap();
            let len = match self.stream.read_u8().await.unwrap() {
                126 => usize::from(self.stream.read_u16().await.unwrap()),
                127 => self.stream.read_u64().await.unwrap() as usize,
                len => usize::from(len),
            };
            let mut payload = vec![0; len];
            self.stream.read_exact(&mut payload).await.unwrap();
            (first, payload)
        })
        .await
    }

    /// The code of the close frame that comes next, before which nothing comes.
    pub async fn close_code(&mut self) -> u16 {
        let (first, payload) = self.read_frame().await;
        assert_eq!(first, 0x88, "a close frame");
        u16::from_be_bytes([payload[0], payload[1]])
    }

    /// Everything until the server ends the connection.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        soon("the end", self.stream.read_to_end(&mut rest))
            .await
            .unwrap();
        rest
    }
}

/// A handshake's request; `extra` are more header lines, each with its line end.
pub fn handshake(host: SocketAddr, path: &str, extra: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    )
}

/// A payload as permessage-deflate has it.
pub fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut output = Vec::with_capacity(payload.len() + 1024);
    let mut state = Compress::new(Compression::best(), false);
    state
        .compress_vec(payload, &mut output, FlushCompress::Sync)
        .unwrap();
    // The end of a sync flush is left out.
    output.truncate(output.len() - 4);
    output
}

/// A frame as clients send it: first byte, mask, payload.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(key);
    frame.extend(
        payload
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ key[at % 4]),
    );
    frame
}

/// Status and body of a GET.
pub async fn http_get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (status, _, body) = http(address, "GET", path, headers).await;
    (status, body)
}

/// Status, head and body of a request.
pub async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String, String) {
    let mut client = RawClient::connect(address).await;
    let headers = header_lines(headers);
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
    );
    client.send(request.as_bytes()).await;
    let response = String::from_utf8(client.read_to_end().await).unwrap();
    let (head, body) = response
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {response:?}"));
    (status(head), head.to_owned(), body.to_owned())
}

/// Headers as they stand in the head of a request.
pub fn header_lines(headers: &[(&str, &str)]) -> String {
    headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect()
}

/// The status in the head of a response.
pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}
