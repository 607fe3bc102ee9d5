//! A node as people run it: the binary, a process of its own, that can be signalled and killed.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::soon;

/// The binary under test.
pub const ECHOCAST: &str = env!("CARGO_BIN_EXE_echocast");

/// A running node. Dropping it kills it.
pub struct NodeProcess {
    pub address: SocketAddr,
    pub ops: SocketAddr,
    child: Child,
    /// Read to its end all the time: a full pipe would stop the node.
    log: JoinHandle<Vec<String>>,
}

impl NodeProcess {
    /// Starts `echocast serve` with these flags beside its ports and waits until it says that it
    /// serves.
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, &[]).await
    }

    /// The same with these environment variables.
    pub async fn start_with(flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = super::program::node(&["--log-format", "json"])
            .args(flags)
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let (address, ops) = soon("the node serves", async {
            loop {
                let line = log
                    .next_line()
                    .await
                    .unwrap()
                    .expect("the node says that it serves before it ends");
                let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                if line["message"] == "serving" {
                    let address = |name: &str| line[name].as_str().unwrap().parse().unwrap();
                    return (address("listen"), address("ops"));
                }
            }
        })
        .await;
        let log = tokio::spawn(async move {
            let mut rest = Vec::new();
            while let Some(line) = log.next_line().await.unwrap() {
                rest.push(line);
            }
            rest
        });
        Self {
            address,
            ops,
            child,
            log,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Sends a signal by name, as `kill -NAME` does.
    pub async fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.id().to_string())
            .status()
            .await
            .unwrap();
        assert!(status.success(), "kill -{name}");
    }

    /// Waits for its end; returns how it ended and the rest of its log.
    pub async fn ended(mut self) -> (ExitStatus, Vec<String>) {
        soon("the process ends", async {
            (self.child.wait().await.unwrap(), self.log.await.unwrap())
        })
        .await
    }
}
