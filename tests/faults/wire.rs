//! A client's connection by `echocast.v1`, as a careful client holds it: made to any node, proven
//! alive by pings of its own, given up when it brings nothing for too long.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use rand::seq::IndexedRandom;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::journal::Journal;

/// Time between a client's pings.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// How long a client waits for a sign of life, or for a connection, before it goes elsewhere.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The nodes there are, as far as clients know: some may be dead or on their way out.
pub type Addresses = Journal<Vec<SocketAddr>>;

/// Any of them.
pub fn any(addresses: &Addresses) -> SocketAddr {
    *addresses
        .lock()
        .choose(&mut rand::rng())
        .expect("there are nodes")
}

/// An open connection.
pub struct Wire {
    socket: WebSocketStream<TcpStream>,
    pings: Interval,
    heard_at: Instant,
}

impl Wire {
    pub async fn open(address: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let mut request = format!("ws://{address}{path}").into_client_request()?;
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", "echocast.v1".parse()?);
        let shake_hands = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            anyhow::Ok(client_async(request, stream).await?)
        };
        let (socket, response) = timeout(PATIENCE, shake_hands)
            .await
            .context("no handshake in time")??;
        let protocol = response.headers().get("Sec-WebSocket-Protocol");
        ensure!(
            protocol.is_some_and(|it| it == "echocast.v1"),
            "the server chose {protocol:?}"
        );
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            socket,
            pings,
            heard_at: Instant::now(),
        })
    }

    /// The next thing the server says; an error is the end of the connection. Nothing is lost if
    /// this is dropped.
    pub async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            tokio::select! {
                message = self.socket.next() => {
                    self.heard_at = Instant::now();
                    match message.ok_or_else(|| anyhow!("ended"))?? {
                        Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                        Message::Close(close) => bail!("closed: {close:?}"),
                        Message::Binary(_) => bail!("a binary frame"),
                        _ => {}
                    }
                }
                _ = self.pings.tick() => {
                    ensure!(self.heard_at.elapsed() < PATIENCE, "silent");
                    self.send(Message::Ping("alive?".into())).await?;
                }
            }
        }
    }

    pub async fn say(&mut self, what: &Value) -> anyhow::Result<()> {
        self.send(Message::text(what.to_string())).await
    }

    async fn send(&mut self, message: Message) -> anyhow::Result<()> {
        Ok(timeout(PATIENCE, self.socket.send(message))
            .await
            .context("takes nothing")??)
    }
}

/// Time before a client connects again: what a draining server asked for, else growing, and never
/// the same for all.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
    asked: Option<Duration>,
}

impl Backoff {
    /// The server said when to come back.
    pub fn ask(&mut self, milliseconds: u64) {
        self.asked = Some(Duration::from_millis(milliseconds));
    }

    pub fn reset(&mut self) {
        *self = Self::default();
    }

    pub async fn wait(&mut self) {
        let whole = Duration::from_millis(100 << self.tries.min(4)).min(Duration::from_secs(1));
        self.tries += 1;
        let own = whole.mul_f64(rand::random_range(0.5..1.0));
        tokio::time::sleep(self.asked.take().unwrap_or(own)).await;
    }
}
