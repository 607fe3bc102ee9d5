//! A broadcast server that treats one of its clients differently, once.

use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// What the first client gets instead of the tenth message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// The tenth message.
    None,
    Loses,
    Repeats,
    /// It gets it after the next one of the same client.
    Swaps,
    /// It gets it after the next one of another client.
    Interleaves,
    Damages,
    HangsUp,
}

pub(super) struct DishonestServer {
    pub(super) url: String,
}

#[derive(Default)]
struct Crowd {
    clients: Vec<UnboundedSender<Message>>,
    said: usize,
    /// What the first client does not get yet, and who said it.
    held: Vec<(usize, Message)>,
}

impl DishonestServer {
    /// It ends with the test's runtime.
    pub(super) async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let crowd = Arc::new(Mutex::new(Crowd::default()));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&crowd), fault));
            }
        });
        Self { url }
    }
}

async fn serve(stream: TcpStream, crowd: Arc<Mutex<Crowd>>, fault: Fault) {
    let (mut sink, mut stream) = accept_async(stream).await.unwrap().split();
    let (sender, mut messages) = unbounded_channel();
    let who = {
        let mut crowd = crowd.lock().unwrap();
        crowd.clients.push(sender);
        crowd.clients.len() - 1
    };
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    while let Some(Ok(message @ Message::Text(_))) = stream.next().await {
        crowd.lock().unwrap().say(who, message, fault);
    }
}

impl Crowd {
    fn say(&mut self, who: usize, message: Message, fault: Fault) {
        self.said += 1;
        for client in &self.clients[1..] {
            let _ = client.send(message.clone());
        }
        let to_first = if self.said == 10 {
            self.instead(who, message, fault)
        } else {
            self.after(who, message, fault)
        };
        for message in to_first {
            let _ = self.clients[0].send(message);
        }
    }

    /// What the first client gets for the tenth message.
    fn instead(&mut self, who: usize, message: Message, fault: Fault) -> Vec<Message> {
        match fault {
            Fault::None => vec![message],
            Fault::Loses => Vec::new(),
            Fault::Repeats => vec![message.clone(), message],
            Fault::Swaps | Fault::Interleaves => {
                self.held.push((who, message));
                Vec::new()
            }
            Fault::Damages => {
                let text = message.into_text().unwrap();
                vec![Message::text(format!("{}!", &text[..text.len() - 1]))]
            }
            Fault::HangsUp => vec![Message::Close(Some(CloseFrame {
                code: CloseCode::Error,
                reason: "".into(),
            }))],
        }
    }

    /// What the first client gets for any other.
    fn after(&mut self, who: usize, message: Message, fault: Fault) -> Vec<Message> {
        let Some((holder, held)) = self.held.pop() else {
            return vec![message];
        };
        match (fault, holder == who) {
            (Fault::Swaps, true) | (Fault::Interleaves, false) => vec![message, held],
            // It still waits for the next one of its own.
            (Fault::Swaps, false) => {
                self.held.push((holder, held));
                vec![message]
            }
            _ => {
                self.held.push((who, message));
                vec![held]
            }
        }
    }
}
