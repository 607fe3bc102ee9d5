//! What stands between a client and its node and sometimes fails: a TCP relay that can cut its
//! connections, let them go silent or deaf, and lead to another node, or to none.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A running relay. Dropping it closes its port and its connections.
pub struct Proxy {
    pub address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    fate: watch::Sender<Fate>,
    accepting: AbortHandle,
}

/// What becomes of the connections there are.
#[derive(Clone, Copy)]
enum Fate {
    Cut,
    /// They stay open, and nothing passes any more.
    Silent,
    /// What the node says is swallowed.
    Deaf,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(Some(target)));
        let fate = watch::Sender::new(Fate::Cut);
        let accepting =
            tokio::spawn(accept(listener, target.clone(), fate.subscribe())).abort_handle();
        Self {
            address,
            target,
            fate,
            accepting,
        }
    }

    /// The WebSocket address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// Where new connections lead; with `None` they are closed at once.
    pub fn lead_to(&self, target: Option<SocketAddr>) {
        *self.target.lock().unwrap() = target;
    }

    /// Ends the connections there are, in the middle of whatever they carry.
    pub fn cut(&self) {
        self.fate.send_replace(Fate::Cut);
    }

    /// Nothing passes any more on the connections there are, and neither end is told.
    pub fn silence(&self) {
        self.fate.send_replace(Fate::Silent);
    }

    /// What clients say passes, but no answer does, on the connections there are.
    pub fn swallow_answers(&self) {
        self.fate.send_replace(Fate::Deaf);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<Mutex<Option<SocketAddr>>>,
    fate: watch::Receiver<Fate>,
) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let target = *target.lock().unwrap();
        if let Some(target) = target {
            let mut fate = fate.clone();
            fate.mark_unchanged();
            tokio::spawn(relay(client, target, fate));
        }
    }
}

async fn relay(mut client: TcpStream, target: SocketAddr, mut fate: watch::Receiver<Fate>) {
    // A node that is gone refuses; its client then sees a connection that ends at once.
    let Ok(mut node) = TcpStream::connect(target).await else {
        return;
    };
    tokio::select! {
        // First, so that nothing said after it was decided still passes.
        biased;
        _ = fate.changed() => {}
        // An end that goes away without a word is what this relay is for.
        _ = tokio::io::copy_bidirectional(&mut client, &mut node) => return,
    }
    let deaf = matches!(*fate.borrow_and_update(), Fate::Deaf);
    let (mut answers, mut words) = node.split();
    let mut sink = tokio::io::sink();
    tokio::select! {
        // The end of the relay, an error here, is a cut like any other.
        _ = fate.wait_for(|fate| matches!(fate, Fate::Cut)) => {}
        _ = async { tokio::join!(copy(&mut client, &mut words), copy(&mut answers, &mut sink)) }, if deaf => {}
    }
}
