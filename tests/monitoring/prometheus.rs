//! A Prometheus that reads every second what nodes count, with the rules of `deploy/prometheus`:
//! what it finds, and which alerts fire. Faults and their timing are the tests' business.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;
use testcontainers::core::{Mount, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

use crate::support::client::http;
use crate::support::redis::free_port;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");

/// The rules as they are deployed.
pub const RULES: &str = include_str!("../../deploy/prometheus/rules/echocast.rules.yml");

/// What is deployed, but for where the nodes are and how often it looks.
const CONFIG: &str = "
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs:
  - job_name: echocast
    file_sd_configs: [{files: [targets.json]}]
";

/// A running Prometheus. Dropping it removes its container.
pub struct Prometheus {
    address: SocketAddr,
    /// Its configuration, which it reads again when it changes.
    config: TempDir,
    _container: ContainerAsync<GenericImage>,
}

impl Prometheus {
    /// One that looks at these ops ports, and for which alerts need not last before they fire.
    pub async fn start(nodes: &[SocketAddr]) -> Self {
        let config = tempfile::tempdir().unwrap();
        // It is another user there.
        std::fs::set_permissions(config.path(), Permissions::from_mode(0o755)).unwrap();
        let without_for = RULES
            .lines()
            .filter(|line| !line.trim_start().starts_with("for: "));
        std::fs::write(config.path().join("prometheus.yml"), CONFIG).unwrap();
        std::fs::write(
            config.path().join("rules.yml"),
            without_for.collect::<Vec<_>>().join("\n"),
        )
        .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let image = image().with_wait_for(WaitFor::message_on_stderr(
            "Server is ready to receive web requests",
        ));
        let container = image
            .with_network("host")
            .with_mount(Mount::bind_mount(
                config.path().to_str().unwrap(),
                "/etc/prometheus",
            ))
            .with_cmd([
                "--config.file=/etc/prometheus/prometheus.yml".to_owned(),
                "--storage.tsdb.path=/prometheus".to_owned(),
                format!("--web.listen-address={address}"),
            ])
            .start();
        let prometheus = Self {
            address,
            _container: container.await.unwrap(),
            config,
        };
        prometheus.discover(nodes);
        prometheus
    }

    /// Service discovery from now on finds these.
    pub fn discover(&self, nodes: &[SocketAddr]) {
        std::fs::write(
            self.config.path().join("targets.json"),
            json!([{ "targets": nodes }]).to_string(),
        )
        .unwrap();
    }

    /// The values a query has now, one a series.
    pub async fn query(&self, query: &str) -> Result<Vec<f64>, String> {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let answer = self.get(&format!("/api/v1/query?query={query}")).await;
        let Some(series) = answer["data"]["result"].as_array() else {
            return Err(answer["error"].to_string());
        };
        Ok(series
            .iter()
            .map(|series| series["value"][1].as_str().unwrap().parse().unwrap())
            .collect())
    }

    /// The one number a query has, once it has one.
    pub async fn value(&self, query: &str) -> Option<f64> {
        match self.query(query).await.unwrap()[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// All rules, each as an object with `name`, `type`, `query` and `health`.
    pub async fn rules(&self) -> Vec<Value> {
        let mut answer = self.get("/api/v1/rules").await;
        let groups = answer["data"]["groups"].as_array_mut().unwrap();
        groups
            .iter_mut()
            .flat_map(|group| group["rules"].as_array_mut().unwrap())
            .map(Value::take)
            .collect()
    }

    /// The alerts of this name that fire.
    pub async fn firing(&self, name: &str) -> Vec<Value> {
        let mut answer = self.get("/api/v1/alerts").await;
        let alerts = answer["data"]["alerts"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .map(Value::take);
        alerts
            .filter(|alert| alert["state"] == "firing" && alert["labels"]["alertname"] == name)
            .collect()
    }

    async fn get(&self, path: &str) -> Value {
        let (_, head, body) = http(self.address, "GET", path, &[]).await;
        let body = if head.contains("chunked") {
            unchunked(&body)
        } else {
            body
        };
        serde_json::from_str(&body).unwrap()
    }
}

/// Runs promtool on what is deployed; returns its exit code and what it said.
pub async fn promtool(arguments: &[&str]) -> (i64, String) {
    let container = image()
        .with_entrypoint("promtool")
        .with_wait_for(WaitFor::exit(Default::default()))
        .with_mount(Mount::bind_mount(FOLDER, "/etc/prometheus"))
        .with_working_dir("/etc/prometheus")
        .with_cmd(arguments.iter().copied())
        .start()
        .await
        .unwrap();
    let said = [
        container.stdout_to_vec().await.unwrap(),
        container.stderr_to_vec().await.unwrap(),
    ]
    .concat();
    (
        container.exit_code().await.unwrap().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

/// As in the compose file.
fn image() -> GenericImage {
    GenericImage::new("prom/prometheus", "v2.53.3")
}

fn unchunked(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let (chunk, rest) = rest.split_at(usize::from_str_radix(size, 16).unwrap());
        body.push_str(chunk);
        chunks = rest.strip_prefix("\r\n").unwrap();
    }
    body
}
