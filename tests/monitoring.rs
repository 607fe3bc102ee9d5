//! What operators look at and what calls them: the dashboard, the rules, and the runbook's chapter
//! on alerts, held against each other, against Grafana's types, and against a real Prometheus that
//! watches real nodes through faults.

mod dashboard;
mod prometheus;

use std::collections::BTreeSet;
use std::time::Duration;

use echocast::broker::envelope::MAGIC;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::monitoring::prometheus::{Prometheus, RULES, promtool};
use crate::node_clients::{passed, script};
use crate::support::client::TestClient;
use crate::support::events::publish;
use crate::support::process::NodeProcess;
use crate::support::redis::Redis;
use crate::support::until;

#[tokio::test]
async fn the_rules_pass_promtool() {
    let tests = std::fs::read_dir(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/deploy/prometheus/tests"
    ))
    .unwrap();
    let tests: Vec<String> = tests
        .map(|test| format!("tests/{}", test.unwrap().file_name().display()))
        .collect();
    let tests: Vec<&str> = ["test", "rules"]
        .into_iter()
        .chain(tests.iter().map(String::as_str))
        .collect();
    let lint = [
        "check",
        "rules",
        "--lint=all",
        "--lint-fatal",
        "rules/echocast.rules.yml",
    ];
    for arguments in [&["check", "config", "prometheus.yml"][..], &lint, &tests] {
        let (exit_code, said) = promtool(arguments).await;
        assert!(
            exit_code == 0 && said.contains("SUCCESS"),
            "promtool {arguments:?}: {said}"
        );
    }
}

#[test]
fn every_alert_says_what_it_is_and_has_a_test_and_a_heading_in_the_runbook() {
    let tests = ["replicas", "broker", "clients", "losses", "latency"].map(|name| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/tests");
        std::fs::read_to_string(format!("{folder}/{name}.yml")).unwrap()
    });
    let mut alerts = BTreeSet::new();
    for rule in RULES.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        let link = format!("runbook_url: deploy/README.md#{}\n", name.to_lowercase());
        for part in ["summary: ", "description: ", &link] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
        assert!(
            ["critical", "warning"]
                .iter()
                .any(|level| rule.contains(&format!("severity: {level}}}"))),
            "{name}"
        );
        let fires = format!("{{alertname=\"{name}\"}}");
        assert!(
            tests.iter().any(|test| test.contains(&fires)),
            "no test in which {name} fires"
        );
        alerts.insert(name);
    }
    assert_eq!(
        runbook_alerts()
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
            .collect::<BTreeSet<_>>(),
        alerts
    );
}

#[tokio::test]
async fn the_dashboard_is_what_grafana_takes() {
    passed("dashboard.mjs", script("dashboard.mjs", dashboard::FILE)).await;
}

#[test]
fn every_panel_has_a_unit_and_says_what_it_shows() {
    let dashboard = dashboard::read();
    let (rows, panels): (Vec<&Value>, Vec<&Value>) = dashboard::panels(&dashboard)
        .iter()
        .partition(|panel| panel["type"] == "row");
    let questions: Vec<&str> = rows
        .iter()
        .map(|row| row["title"].as_str().unwrap())
        .collect();
    let asked = [
        "Is it well?",
        "Who is connected?",
        "What flows?",
        "How late?",
        "What was lost?",
        "Why?",
    ];
    assert_eq!(questions, asked);
    let mut taken = BTreeSet::new();
    for panel in &panels {
        let title = panel["title"].as_str().unwrap();
        assert!(
            panel["description"]
                .as_str()
                .is_some_and(|text| text.ends_with('.')),
            "{title}: no description"
        );
        assert!(
            panel["fieldConfig"]["defaults"]["unit"].is_string(),
            "{title}: no unit"
        );
        let targets = panel["targets"].as_array().unwrap();
        let sources = targets
            .iter()
            .map(|target| &target["datasource"])
            .chain([&panel["datasource"]]);
        assert!(
            sources
                .into_iter()
                .all(|source| source["uid"] == "${datasource}"),
            "{title}: a fixed data source"
        );
        let [x, y, width, height] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + width <= 24, "{title}: too far right");
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies on another panel");
        }
    }
    let ids: BTreeSet<u64> = rows
        .iter()
        .chain(&panels)
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), rows.len() + panels.len(), "ids are unique");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_finds_something_and_faults_make_their_alerts_fire() {
    let redis = Redis::start().await;
    let url = redis.url();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(NodeProcess::start(&["--redis-url", &url, "--max-connections", "100"]).await);
    }
    let prometheus =
        Prometheus::start(&nodes.iter().map(|node| node.ops).collect::<Vec<_>>()).await;
    let load = load(&nodes).await;
    until("all are watched", async || {
        prometheus.value("sum(up)").await == Some(3.0)
    })
    .await;
    every_query_finds_something(&prometheus).await;
    drop(load);

    // A client stays on the channel, or nobody would read what comes there.
    let _listener = TestClient::connect(&nodes[0].url("/load")).await;
    for alert in [
        "EchocastMessagesLost",
        "EchocastReplicasDropped",
        "EchocastBrokerDown",
    ] {
        assert_eq!(prometheus.firing(alert).await, [] as [Value; 0]);
    }
    redis
        .publish("echocast:{load}", &[&MAGIC[..], b"junk"].concat())
        .await;
    let lost = fires(&prometheus, "EchocastMessagesLost").await;
    assert_eq!(lost["labels"]["cause"], "malformed");

    nodes.pop().unwrap().signal("KILL").await;
    prometheus.discover(&[nodes[0].ops, nodes[1].ops]);
    let dropped = fires(&prometheus, "EchocastReplicasDropped").await;
    assert!(
        dropped["annotations"]["description"]
            .as_str()
            .unwrap()
            .starts_with("1 replicas left"),
        "{dropped}"
    );

    redis.kill().await;
    let down = fires(&prometheus, "EchocastBrokerDown").await;
    assert_eq!(down["labels"]["severity"], "critical");
    redis.restart().await;
    until("the alert is over", async || {
        prometheus.firing("EchocastBrokerDown").await.is_empty()
    })
    .await;
}

/// Clients of every kind on every node, until it is dropped.
async fn load(nodes: &[NodeProcess]) -> JoinSet<()> {
    let mut load = JoinSet::new();
    for node in nodes {
        let mut listener = TestClient::connect(&node.url("/load")).await;
        load.spawn(async move { while !listener.hear().await.is_empty() {} });
        let address = node.address;
        load.spawn(async move {
            loop {
                publish(address, "/load", "said").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    load
}

/// Every panel, every variable and every rule; of alerts, which ask for what should not be,
/// everything they look at.
async fn every_query_finds_something(prometheus: &Prometheus) {
    let dashboard = dashboard::read();
    let mut queries = dashboard::queries(&dashboard);
    for rule in prometheus.rules().await {
        let name = rule["name"].as_str().unwrap();
        match rule["type"].as_str().unwrap() {
            "recording" => queries.push((name.to_owned(), name.to_owned())),
            _ => queries.extend(
                selectors(rule["query"].as_str().unwrap())
                    .map(|selector| (name.to_owned(), selector)),
            ),
        }
    }
    for query in runbook_queries() {
        prometheus
            .query(query)
            .await
            .unwrap_or_else(|error| panic!("the runbook's {query}: {error}"));
        queries.extend(selectors(query).map(|selector| ("the runbook".to_owned(), selector)));
    }
    assert!(queries.len() > 100, "only {} queries", queries.len());
    for (whose, query) in queries {
        until(&format!("{whose}: {query}"), async || {
            let found = prometheus
                .query(&query)
                .await
                .unwrap_or_else(|error| panic!("{whose}: {query}: {error}"));
            found.iter().any(|value| !value.is_nan())
        })
        .await;
    }
    for query in dashboard::annotations(&dashboard) {
        prometheus
            .query(&query)
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"));
    }
    until("every rule has been evaluated", async || {
        prometheus.rules().await.iter().all(|rule| {
            assert_ne!(rule["health"], "err", "{rule}");
            rule["health"] == "ok"
        })
    })
    .await;
}

/// What the runbook's chapter on alerts asks Prometheus: in backquotes, and of what a node or a
/// rule has.
fn runbook_queries() -> impl Iterator<Item = &'static str> {
    runbook_alerts()
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| selectors(code).next().is_some())
}

/// The runbook's chapter on alerts.
fn runbook_alerts() -> &'static str {
    let (_, chapter) = include_str!("../deploy/README.md")
        .split_once("## Alerts\n")
        .unwrap();
    chapter
        .split_once("\n## ")
        .map_or(chapter, |(chapter, _)| chapter)
}

/// The series a query looks at, each as `name` or `name{…}`.
fn selectors(query: &str) -> impl Iterator<Item = String> {
    let starts = query.match_indices(['e', 'p', 'u']).map(|(at, _)| at);
    starts.filter_map(|at| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let (before, rest) = query.split_at(at);
        let name = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
        let ours = ["echocast_", "echocast:", "process_"]
            .iter()
            .any(|start| name.starts_with(start))
            || name == "up";
        let labels = &rest[name.len()..];
        let labels = if labels.starts_with('{') {
            &labels[..=labels.find('}').unwrap()]
        } else {
            ""
        };
        (ours && !before.ends_with(is_part)).then(|| format!("{name}{labels}"))
    })
}

/// Waits until an alert fires; returns it, with its texts filled in.
async fn fires(prometheus: &Prometheus, name: &str) -> Value {
    until(name, async || !prometheus.firing(name).await.is_empty()).await;
    let alert = prometheus.firing(name).await.remove(0);
    let texts = alert["annotations"].to_string();
    assert!(
        !texts.contains("{{") && !texts.contains("<no value>") && !texts.contains("error"),
        "{texts}"
    );
    alert
}
