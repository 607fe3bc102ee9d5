//! A node inside the test's process, on ports of its own.

use std::net::SocketAddr;
use std::pin::Pin;

use echocast::broker::Broker;
use echocast::config::Config;
use echocast::node::Node;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{set_up, soon};

/// Ends when the node is to stop.
type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A running node.
pub struct TestNode {
    pub address: SocketAddr,
    pub ops: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    run: JoinHandle<anyhow::Result<()>>,
}

impl TestNode {
    /// A node with these flags beside its ports; it is ready when this returns.
    pub async fn start(flags: &[&str]) -> Self {
        let node = Self::start_unready(flags).await;
        node.wait_ready().await;
        node
    }

    /// The same without waiting: for nodes whose broker is away.
    pub async fn start_unready(flags: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", flags).await
    }

    /// The same on a public address of the test's choice.
    pub async fn start_at(listen: &str, flags: &[&str]) -> Self {
        Self::begin(listen, flags, |node, stop| node.run(stop))
    }

    /// A node with a broker of the test's own; not ready yet.
    pub fn start_with(broker: impl Broker, flags: &[&str]) -> Self {
        Self::begin("127.0.0.1:0", flags, |node, stop| {
            node.run_with(broker, stop)
        })
    }

    fn begin<F>(listen: &str, flags: &[&str], run: impl FnOnce(Node, Stop) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let ports = [
            "--listen",
            listen,
            "--ops-listen",
            "127.0.0.1:0",
            "--log-messages",
            "off",
        ];
        let config = Config::from_args(ports.into_iter().chain(flags.iter().copied())).unwrap();
        let node = Node::bind(config).unwrap();
        let (address, ops) = (node.address().unwrap(), node.ops_address().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped: Stop = Box::pin(async move {
            // A test that ends without stopping its node drops the sender, which stops it too.
            let _ = stopped.await;
        });
        let run = tokio::spawn(run(node, stopped));
        Self {
            address,
            ops,
            stop: Some(stop),
            run,
        }
    }

    /// The WebSocket address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// Tells it to stop; it drains in its own time.
    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).expect("the node still runs");
        }
    }

    /// Stops it and waits until it has ended.
    pub async fn stop(mut self) {
        self.begin_stop();
        soon("the node ends", self.run).await.unwrap().unwrap();
    }

    /// Waits for the end of one that was told to stop.
    pub async fn ended(self) {
        soon("the node ends", self.run).await.unwrap().unwrap();
    }

    pub async fn wait_ready(&self) {
        set_up("the node is ready", async || {
            self.get_ops("/readyz").await.0 == 200
        })
        .await;
    }

    /// Status and body of a path of the ops port.
    pub async fn get_ops(&self, path: &str) -> (u16, String) {
        super::client::http_get(self.ops, path, &[]).await
    }

    /// The value of a metric, as `name` or `name{label="value"}`; 0 for one that is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        metric(&self.get_ops("/metrics").await.1, name)
    }
}

/// The value of a metric in Prometheus' text.
pub fn metric(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}
