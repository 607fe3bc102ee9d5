//! The compose file brought up under a name of its own, on ports that are free; what has to be
//! asked of Docker about it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::support::client::http_get;
use crate::support::node::metric;

/// Building the image from nothing takes minutes, and so does pulling the others.
const COMMAND_DEADLINE: Duration = Duration::from_secs(20 * 60);

/// Before a subcommand: Prometheus is meant, too.
pub const OBSERVE: &[&str] = &["--profile", "observe"];

/// A project of the compose file. Dropping it takes it down with all its data and leaves what its
/// services logged in `target/tmp/compose.log`.
pub struct Project {
    name: String,
}

/// A replica.
pub struct Replica {
    pub id: String,
    /// Where it listens inside the project's network, which a Linux host reaches.
    pub ops: SocketAddr,
    /// What `docker inspect` says.
    pub details: Value,
}

impl Project {
    /// Builds, starts and waits until the services are healthy.
    pub async fn up() -> Self {
        // The prefix is what tests/run removes if this process is killed.
        let project = Self {
            name: format!("echocast-test-{}", std::process::id()),
        };
        project
            .compose(&["up", "--build", "--detach", "--wait", "--scale", "node=3"])
            .await;
        project
    }

    /// Runs `docker compose` for this project; returns what it prints.
    pub async fn compose(&self, args: &[&str]) -> String {
        let output = run(self.command(args)).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "docker compose {args:?}: {}\n{stderr}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a program in a container of a service.
    pub async fn exec(&self, service: &str, program: &[&str]) -> Output {
        run(self.command(&[OBSERVE, &["exec", "-T", service], program].concat())).await
    }

    /// Where a port of a service is reached from outside.
    pub async fn published(&self, service: &str, port: u16) -> SocketAddr {
        let address = self
            .compose(&[OBSERVE, &["port", service, &port.to_string()]].concat())
            .await;
        let address: SocketAddr = address.trim().parse().unwrap();
        ([127, 0, 0, 1], address.port()).into()
    }

    /// The replicas that run.
    pub async fn replicas(&self) -> Vec<Replica> {
        let inspected = self.inspect("node").await;
        inspected.into_iter().map(Replica::new).collect()
    }

    /// What `docker inspect` says about the running containers of a service.
    pub async fn inspect(&self, service: &str) -> Vec<Value> {
        let ids = self.compose(&["ps", "--quiet", service]).await;
        let ids: Vec<&str> = ids.lines().collect();
        serde_json::from_str(&docker(&[&["inspect"], &*ids].concat()).await).unwrap()
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        compose_command(&[&["--project-name", &self.name], args].concat())
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compose.log");
        if let Ok(log) = std::fs::File::create(log) {
            // Only to read afterwards; without it, the panic that brought us here still tells what
            // failed.
            let _ = self
                .command(&[OBSERVE, &["logs", "--no-color", "--timestamps"]].concat())
                .stdout(log)
                .status();
        }
        // tests/run removes what this leaves.
        let _ = self
            .command(
                &[
                    OBSERVE,
                    &["down", "--volumes", "--remove-orphans", "--timeout", "1"],
                ]
                .concat(),
            )
            .output();
    }
}

impl Replica {
    fn new(details: Value) -> Self {
        let networks = details["NetworkSettings"]["Networks"].as_object().unwrap();
        let ip = networks.values().next().unwrap()["IPAddress"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        Self {
            id: details["Id"].as_str().unwrap().into(),
            ops: SocketAddr::new(ip, 8081),
            details,
        }
    }

    /// How many WebSockets it has.
    pub async fn connections(&self) -> usize {
        self.metric("echocast_connections{transport=\"websocket\"}")
            .await as usize
    }

    pub async fn metric(&self, name: &str) -> f64 {
        metric(&http_get(self.ops, "/metrics", &[]).await.1, name)
    }
}

/// Runs `docker`, which must succeed; returns what it prints.
pub async fn docker(args: &[&str]) -> String {
    let mut command = std::process::Command::new("docker");
    command.args(args);
    let output = run(command).await;
    assert!(
        output.status.success(),
        "docker {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What images built here say of the commit; tests/run builds with the same, so that the layers are
/// there.
pub const COMMIT: &str = "tested";

/// `docker compose` at the root of the repository, with any free ports in place of the usual ones.
pub fn compose_command(args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new("docker");
    command
        .args(["compose", "--ansi", "never"])
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null());
    command.envs([
        ("ECHOCAST_PORT", "0"),
        ("ECHOCAST_PROMETHEUS_PORT", "0"),
        ("ECHOCAST_COMMIT", COMMIT),
    ]);
    command
}

/// Runs a command to its end.
pub async fn run(command: std::process::Command) -> Output {
    let what = format!("{command:?}");
    let output = Command::from(command).kill_on_drop(true).output();
    tokio::time::timeout(COMMAND_DEADLINE, output)
        .await
        .unwrap_or_else(|_| panic!("no end of {what}"))
        .unwrap()
}
