//! Listeners: two kinds that come back and resume, by `echocast.v1` and by server-sent events, and
//! plain ones that do not.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::journal::{Event, Hearing, Journal};
use super::wire::{Addresses, Backoff, PATIENCE, Wire, any};

/// A server says something every 15 s on an event stream; what is silent longer is dead.
const SSE_PATIENCE: Duration = Duration::from_secs(20);

/// Listens by WebSocket to a node, until the connection ends.
pub async fn plain(hearing: Journal<Hearing>, address: SocketAddr, channel: String) {
    let (mut socket, _) = connect_async(format!("ws://{address}{channel}"))
        .await
        .unwrap();
    hearing.lock().connections += 1;
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) => hearing.lock().hear(&text, None),
            Message::Close(_) => break,
            _ => {}
        }
    }
    hearing.lock().to_end = false;
}

/// Listens by `echocast.v1`, for ever; first to this node, then to any.
pub async fn resuming(
    hearing: Journal<Hearing>,
    first: SocketAddr,
    channel: String,
    addresses: Addresses,
) {
    let mut place = None;
    let mut backoff = Backoff::default();
    let mut address = first;
    loop {
        let path = place
            .as_ref()
            .map_or(channel.clone(), |place| format!("{channel}?since={place}"));
        if let Ok(wire) = Wire::open(address, &path).await {
            // However it ended, it is resumed.
            let Err(_) = follow(wire, &hearing, &mut place, &mut backoff).await;
        }
        backoff.wait().await;
        address = any(&addresses);
    }
}

async fn follow(
    mut wire: Wire,
    hearing: &Journal<Hearing>,
    place: &mut Option<String>,
    backoff: &mut Backoff,
) -> anyhow::Result<std::convert::Infallible> {
    let welcome = wire.next().await?;
    assert_eq!(welcome["event"], "welcome", "comes first: {welcome}");
    // A resumed connection that has missed something is told right behind the welcome.
    let mut gap_due = place.is_some() && welcome["recovered"] == false;
    assert!(
        place.is_some() || welcome["recovered"] == false,
        "nothing was asked for: {welcome}"
    );
    // Until something is heard, the place to resume from is the one at which it came in.
    place.get_or_insert_with(|| {
        welcome["id"]
            .as_str()
            .expect("with history there is an id")
            .to_owned()
    });
    hearing.lock().connections += 1;
    backoff.reset();
    loop {
        let said = wire.next().await?;
        assert!(
            !gap_due || said["event"] == "gap",
            "not recovered, so a gap is due: {said}"
        );
        match said["event"].as_str() {
            Some("gap") => {
                hearing.lock().events.push(Event::Gap {
                    missed: said["missed"].as_u64(),
                });
                gap_due = false;
            }
            Some("drain") => backoff.ask(said["retry_ms"].as_u64().unwrap()),
            _ => {
                let (Some(text), Some(id)) = (said["data"].as_str(), said["id"].as_str()) else {
                    bail!("what is {said}?")
                };
                hearing.lock().hear(text, Some(id));
                *place = Some(id.to_owned());
            }
        }
    }
}

/// Listens by server-sent events as a browser's `EventSource` does, for ever; first to this node,
/// then to any.
pub async fn events(
    hearing: Journal<Hearing>,
    first: SocketAddr,
    channel: String,
    addresses: Addresses,
) {
    let mut stream = EventStream {
        hearing,
        id: None,
        backoff: Backoff::default(),
    };
    let mut address = first;
    loop {
        // However it ended, it is resumed.
        let _: anyhow::Result<()> = stream.follow(address, &channel).await;
        stream.backoff.wait().await;
        address = any(&addresses);
    }
}

struct EventStream {
    hearing: Journal<Hearing>,
    /// The last id, which the server wants to hear when we come back.
    id: Option<String>,
    backoff: Backoff,
}

impl EventStream {
    async fn follow(&mut self, address: SocketAddr, channel: &str) -> anyhow::Result<()> {
        let mut body = timeout(PATIENCE, self.open(address, channel))
            .await
            .context("no answer in time")??;
        self.hearing.lock().connections += 1;
        self.backoff.reset();
        let mut unread = String::new();
        while let Some(frame) = timeout(SSE_PATIENCE, body.frame())
            .await
            .context("silent")?
        {
            if let Ok(data) = frame?.into_data() {
                // Every message here is ASCII, so no character is cut in two.
                unread.push_str(std::str::from_utf8(&data)?);
            }
            while let Some((event, rest)) = unread.split_once("\n\n") {
                self.take(event);
                unread = rest.to_owned();
            }
        }
        Ok(())
    }

    async fn open(&self, address: SocketAddr, channel: &str) -> anyhow::Result<Incoming> {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = hyper::Request::get(channel).header("Host", address.to_string());
        request = request.header("Accept", "text/event-stream");
        if let Some(id) = &self.id {
            request = request.header("Last-Event-ID", id);
        }
        let response = sender
            .send_request(request.body(Empty::<Bytes>::new())?)
            .await?;
        ensure!(response.status() == 200, "refused: {}", response.status());
        Ok(response.into_body())
    }

    /// Takes one event.
    fn take(&mut self, event: &str) {
        let field = |name: &str| {
            event
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        if let Some(id) = field("id") {
            self.id = Some(id.to_owned());
        }
        if let Some(retry) = field("retry") {
            self.backoff.ask(retry.parse().unwrap());
        }
        let mut hearing = self.hearing.lock();
        match (field("event"), field("data")) {
            (None, Some(text)) => hearing.hear(text, field("id")),
            (Some("gap"), Some(data)) => {
                let gap: Value = serde_json::from_str(data).unwrap();
                hearing.events.push(Event::Gap {
                    missed: gap["missed"].as_u64(),
                });
            }
            (None, None) => {}
            _ => panic!("what is {event:?}?"),
        }
    }
}
