//! A broadcast server as one writes it with axum and `tokio::sync::broadcast`, after axum's chat
//! example: one channel, a reading and a writing task a connection, the sender included. It is here
//! to be measured, and leaves out what a service needs: limits, pings, a drain. Two things differ
//! from the example, both in its favour: the channel holds as many messages as echocast's history
//! instead of 100, and who fell behind goes on with what is left instead of ending.

use std::io;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use axum::serve::ListenerExt;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};

const CAPACITY: usize = 1000;

#[tokio::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let router = Router::new().route("/bench", any(upgrade)).with_state(broadcast::channel(CAPACITY).0);
    let listener = TcpListener::bind(address).await?.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("cannot set TCP_NODELAY: {error}");
        }
    });
    axum::serve(listener, router).await
}

async fn upgrade(request: WebSocketUpgrade, State(channel): State<Sender<Message>>) -> Response {
    // Before the answer, or what is said at once after it would not be heard.
    let messages = channel.subscribe();
    request.on_upgrade(|socket| converse(socket, channel, messages))
}

async fn converse(socket: WebSocket, channel: Sender<Message>, mut messages: Receiver<Message>) {
    let (mut sink, mut stream) = socket.split();
    let mut writing = tokio::spawn(async move {
        loop {
            match messages.recv().await {
                Ok(message) => {
                    if sink.send(message).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    let mut reading = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if matches!(message, Message::Text(_) | Message::Binary(_)) && channel.send(message).is_err() {
                return;
            }
        }
    });
    tokio::select! {
        _ = &mut writing => reading.abort(),
        _ = &mut reading => writing.abort(),
    }
}
