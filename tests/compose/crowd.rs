//! Clients that stay: each is read in the background, so that a test can ask at any time what it
//! heard and how it ended.

use std::sync::{Arc, Mutex};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::eventually;
use crate::support::client::TestClient;
use crate::support::soon;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The clients of one channel.
pub struct Crowd {
    url: String,
    members: Vec<Member>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this code.
    Closed(u16),
    /// Without a word.
    Lost,
}

struct Member {
    sink: SplitSink<Socket, Message>,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    heard: Vec<String>,
    end: Option<End>,
}

impl Crowd {
    pub fn new(url: String) -> Self {
        Self {
            url,
            members: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Some more connect; whoever is refused comes again, as clients do.
    pub async fn join(&mut self, newcomers: usize) {
        let wanted = self.len() + newcomers;
        eventually("the balancer lets everybody in", async || {
            if let Ok(client) = TestClient::try_connect(&self.url, &[]).await {
                self.members.push(Member::new(client.into_inner()));
            }
            self.len() == wanted
        })
        .await;
    }

    /// Everybody says something, and everybody hears all of it, once, in one order, and nothing
    /// else.
    pub async fn everybody_hears_everybody(&mut self, occasion: &str) {
        let mut said: Vec<String> = (0..self.len())
            .map(|number| format!("{occasion} {number}"))
            .collect();
        for (member, text) in self.members.iter_mut().zip(&said) {
            soon("sending", member.sink.send(Message::text(text)))
                .await
                .unwrap();
        }
        eventually(
            &format!("everybody hears everybody {occasion}"),
            async || {
                self.members
                    .iter()
                    .all(|member| member.with(|record| record.heard.len() >= said.len()))
            },
        )
        .await;
        let mut heard = self
            .members
            .iter()
            .map(|member| member.with(|record| std::mem::take(&mut record.heard)));
        let mut first = heard.next().unwrap();
        assert!(heard.all(|other| other == first), "one order {occasion}");
        first.sort();
        said.sort();
        assert_eq!(first, said);
    }

    /// So many lose their connections; returns how. They are members no more.
    pub async fn lose(&mut self, leavers: usize) -> Vec<End> {
        eventually("the clients notice", async || self.ends().len() >= leavers).await;
        let ends = self.ends();
        assert_eq!(
            ends.len(),
            leavers,
            "those who lost their connections: {ends:?}"
        );
        self.members
            .retain(|member| member.with(|record| record.end.is_none()));
        ends
    }

    /// How those ended who did.
    pub fn ends(&self) -> Vec<End> {
        self.members
            .iter()
            .filter_map(|member| member.with(|record| record.end))
            .collect()
    }
}

impl Member {
    fn new(socket: Socket) -> Self {
        let (sink, stream) = socket.split();
        let record = Arc::default();
        tokio::spawn(listen(stream, Arc::clone(&record)));
        Self { sink, record }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Record) -> T) -> T {
        look(&mut self.record.lock().unwrap())
    }
}

/// Notes what comes until the connection ends.
async fn listen(mut stream: SplitStream<Socket>, record: Arc<Mutex<Record>>) {
    let end = loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => record.lock().unwrap().heard.push(text.to_string()),
            Some(Ok(Message::Ping(_))) => {}
            Some(Ok(Message::Close(Some(frame)))) => break End::Closed(frame.code.into()),
            Some(Ok(other)) => panic!("nobody said {other:?}"),
            Some(Err(_)) | None => break End::Lost,
        }
    };
    record.lock().unwrap().end = Some(end);
    // The close is answered while reading on.
    while let Some(Ok(_)) = stream.next().await {}
}
