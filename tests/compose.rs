//! The compose file as people use it: balancer, replicas and Redis brought up for real, and what
//! happens to clusters happening to this one. One project for all stories, because starting one
//! takes a while.

mod crowd;
mod project;

use std::time::Duration;

use echocast::config::Config;

use crate::compose::crowd::{Crowd, End};
use crate::compose::project::{COMMIT, OBSERVE, Project, Replica, compose_command, docker, run};
use crate::manifests::memory::{assert_node_fits, assert_redis_fits, bytes};
use crate::support::client::http_get;
use crate::support::program::Program;

/// Balancer, DNS, Docker and Prometheus each look again every few seconds only, and the machine may
/// be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Of the replicas, the one that is killed.
const VICTIM: usize = 0;

/// With the profile, sorted.
const SERVICES: [&str; 5] = ["balancer", "grafana", "node", "prometheus", "redis"];

/// So many clients on each replica, at least.
const EACH: usize = 3;

#[tokio::test]
async fn the_compose_file_is_clean_with_and_without_its_profile() {
    for profile in [&[], OBSERVE] {
        let output = run(compose_command(&[profile, &["config", "--quiet"]].concat())).await;
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(
            output.status.success() && said.is_empty(),
            "{profile:?}: {said}"
        );
    }
}

#[test]
fn the_balancer_keeps_its_clients_for_longer_than_the_nodes_tell_them() {
    let told = Config::from_args([]).unwrap().keepalive.idle_timeout;
    let haproxy = include_str!("../deploy/balancer/haproxy.cfg");
    for timeout in ["timeout http-keep-alive ", "timeout client "] {
        let kept: Vec<_> = haproxy
            .lines()
            .filter_map(|line| line.trim().strip_prefix(timeout))
            .collect();
        assert_eq!(kept.len(), 1, "{timeout}");
        assert!(
            humantime::parse_duration(kept[0]).unwrap() > told,
            "{timeout}{}",
            kept[0]
        );
    }
}

#[tokio::test]
async fn every_service_has_a_limit_of_memory_that_holds_what_is_put_into_it() {
    let output = run(compose_command(
        &[OBSERVE, &["config", "--format", "json"]].concat(),
    ))
    .await;
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let services = config["services"].as_object().unwrap();
    let limit = |service: &str| {
        let limit = services[service]["deploy"]["resources"]["limits"]["memory"].as_str();
        bytes(limit.unwrap_or_else(|| panic!("{service} has no limit")))
    };
    let mut limits: Vec<(&str, u64)> = services
        .keys()
        .map(|name| (name.as_str(), limit(name)))
        .collect();
    limits.sort_unstable();
    assert_eq!(
        limits.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        SERVICES
    );

    let haproxy = include_str!("../deploy/balancer/haproxy.cfg");
    let connections = haproxy
        .lines()
        .find_map(|line| line.trim().strip_prefix("maxconn "))
        .unwrap()
        .parse()
        .unwrap();
    let memory = bytes(
        services["node"]["environment"]["ECHOCAST_MEMORY"]
            .as_str()
            .unwrap(),
    );
    assert_node_fits("a node", memory, connections, limit("node"));
    // Each connection with both buffers, of 16 KiB by default, and its two sockets.
    let [needed, given] = [connections * (32 + 2 * 5) * 1024, limit("balancer")];
    assert!(
        needed <= given && given < 2 * needed,
        "the balancer needs {needed} of {given} bytes"
    );
    let redis: Vec<&str> = services["redis"]["command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    assert_redis_fits("redis", &redis, limit("redis"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_composed_cluster_survives_what_happens_to_clusters() {
    let project = Project::up().await;
    replicas_are_healthy_and_locked_in(&project).await;
    only_the_balancer_is_reachable(&project).await;

    let balancer = project.published("balancer", 8080).await;
    let mut crowd = Crowd::new(format!("ws://{balancer}/compose"));
    everybody_on_every_replica_hears_everybody(&project, &mut crowd).await;
    prometheus_sees_every_replica(&project, &crowd).await;
    let mut top = Top::watch(&project).await;
    a_killed_replica_costs_only_its_own_clients_a_reconnect(&project, &mut crowd).await;
    top.sees(2, 1).await;
    new_replicas_get_clients(&project, &mut crowd).await;
    top.sees(5, 0).await;
    a_stopped_replica_sends_its_clients_to_the_others(&project, &mut crowd).await;
    a_restart_of_redis_costs_nobody_a_connection(&project, &mut crowd).await;
    the_balancer_carries_the_goodbyes(&project, &mut crowd).await;
}

async fn replicas_are_healthy_and_locked_in(project: &Project) {
    let replicas = project.replicas().await;
    assert_eq!(replicas.len(), 3);
    for service in ["balancer", "node", "redis"] {
        for details in project.inspect(service).await {
            assert!(
                details["HostConfig"]["Memory"].as_u64().unwrap() > 0,
                "{service} runs without its limit"
            );
        }
    }
    for Replica { details, .. } in &replicas {
        assert_eq!(details["State"]["Health"]["Status"], "healthy");
        assert_eq!(details["Config"]["User"], "65532:65532");
        assert_eq!(details["HostConfig"]["ReadonlyRootfs"], true);
        assert_eq!(details["HostConfig"]["CapDrop"][0], "ALL");
        assert_eq!(
            details["Config"]["Labels"]["org.opencontainers.image.revision"],
            COMMIT
        );
    }
    let version = project.exec("node", &["echocast", "--version"]).await;
    let expected = format!("echocast {} ({COMMIT})\n", echocast::VERSION);
    assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
    let shell = project.exec("node", &["sh", "-c", "true"]).await;
    let said = String::from_utf8([shell.stdout, shell.stderr].concat()).unwrap();
    assert!(
        !shell.status.success() && said.contains("executable file not found"),
        "{said}"
    );
}

async fn only_the_balancer_is_reachable(project: &Project) {
    for service in ["node", "redis"] {
        for details in project.inspect(service).await {
            let ports = details["NetworkSettings"]["Ports"].as_object().unwrap();
            assert!(
                ports.values().all(|published| published.is_null()),
                "{service}: {ports:?}"
            );
        }
    }
    let balancer = project.published("balancer", 8080).await;
    for path in ["/metrics", "/readyz"] {
        // To the public port these are channels like any other, so a browser gets the page.
        let (status, body) = http_get(balancer, path, &[("Accept", "text/html")]).await;
        assert!(
            status == 200 && body.contains("<html") && !body.contains("echocast_connections"),
            "{path}: {body}"
        );
    }
}

async fn everybody_on_every_replica_hears_everybody(project: &Project, crowd: &mut Crowd) {
    join_until_every_replica_has_some(project, crowd).await;
    crowd
        .everybody_hears_everybody("through the balancer")
        .await;
}

async fn prometheus_sees_every_replica(project: &Project, crowd: &Crowd) {
    // Named, because the profile's other service, Grafana, has nothing to do with this.
    project
        .compose(&[OBSERVE, &["up", "--detach", "--no-recreate", "prometheus"]].concat())
        .await;
    // Asked from inside, because a published port accepts connections before anybody listens behind
    // it.
    eventually("prometheus is ready", async || {
        project
            .exec("prometheus", &["promtool", "check", "ready"])
            .await
            .status
            .success()
    })
    .await;
    let prometheus = project.published("prometheus", 9090).await;
    let ask = async |query: &str| -> Vec<f64> {
        let (_, body) = http_get(prometheus, &format!("/api/v1/query?query={query}"), &[]).await;
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        let series = answer["data"]["result"].as_array().unwrap();
        series
            .iter()
            .map(|series| series["value"][1].as_str().unwrap().parse().unwrap())
            .collect()
    };
    eventually("prometheus finds the replicas", async || {
        ask("up").await == [1.0; 3]
    })
    .await;
    eventually("it has the rules", async || {
        ask("echocast:replicas:up").await == [3.0]
    })
    .await;
    eventually("it has counted the clients", async || {
        ask("sum(echocast_connections)").await == [crowd.len() as f64]
    })
    .await;
}

async fn a_killed_replica_costs_only_its_own_clients_a_reconnect(
    project: &Project,
    crowd: &mut Crowd,
) {
    let victim = project.replicas().await.remove(VICTIM);
    let clients = victim.connections().await;
    docker(&["kill", &victim.id]).await;
    let ends = crowd.lose(clients).await;
    assert!(ends.iter().all(|end| *end == End::Lost), "{ends:?}");
    crowd.everybody_hears_everybody("among the others").await;
    crowd.join(clients).await;
    crowd.everybody_hears_everybody("reconnected").await;
}

/// `echocast top` in a replica, asked for all of the service by its name.
struct Top(Program);

impl Top {
    async fn watch(project: &Project) -> Self {
        let mut replicas = project.replicas().await;
        // Not in the one that will be killed.
        let id = replicas.remove((VICTIM + 1) % replicas.len()).id;
        let mut command = tokio::process::Command::new("docker");
        command.args(["exec", &id, "echocast", "top", "--json", "node"]);
        let mut top = Self(Program::start(command));
        top.sees(3, 0).await;
        top
    }

    /// Reads on until so many replicas answer and do not.
    async fn sees(&mut self, answering: usize, silent: usize) {
        loop {
            let report: serde_json::Value = serde_json::from_str(&self.0.line().await).unwrap();
            let replicas = report["replicas"].as_array().unwrap();
            let failed = replicas
                .iter()
                .filter(|replica| replica.get("error").is_some())
                .count();
            if (replicas.len() - failed, failed) == (answering, silent) {
                return;
            }
        }
    }
}

async fn new_replicas_get_clients(project: &Project, crowd: &mut Crowd) {
    project
        .compose(&[
            "up",
            "--detach",
            "--wait",
            "--no-recreate",
            "--scale",
            "node=5",
            "node",
        ])
        .await;
    assert_eq!(project.replicas().await.len(), 5);
    join_until_every_replica_has_some(project, crowd).await;
    crowd.everybody_hears_everybody("on five replicas").await;
}

async fn a_stopped_replica_sends_its_clients_to_the_others(project: &Project, crowd: &mut Crowd) {
    let leaving = project.replicas().await.remove(0);
    let clients = leaving.connections().await;
    let stop = tokio::spawn({
        let id = leaving.id.clone();
        async move { docker(&["stop", &id]).await }
    });
    let ends = crowd.lose(clients).await;
    assert!(ends.iter().all(|end| *end == End::Closed(1012)), "{ends:?}");
    crowd.join(clients).await;
    crowd.everybody_hears_everybody("sent elsewhere").await;
    stop.await.unwrap();
    let exit_code = docker(&["inspect", "--format", "{{.State.ExitCode}}", &leaving.id]).await;
    assert_eq!(exit_code.trim(), "0");
}

async fn a_restart_of_redis_costs_nobody_a_connection(project: &Project, crowd: &mut Crowd) {
    let replicas = project.replicas().await;
    project.compose(&["stop", "redis"]).await;
    all_brokers(&replicas, 0.0).await;
    project
        .compose(&["up", "--detach", "--wait", "--no-recreate", "redis"])
        .await;
    all_brokers(&replicas, 1.0).await;
    crowd
        .everybody_hears_everybody("after redis came back")
        .await;
    assert_eq!(crowd.ends(), []);
}

async fn the_balancer_carries_the_goodbyes(project: &Project, crowd: &mut Crowd) {
    project.compose(&[OBSERVE, &["down"]].concat()).await;
    let ends = crowd.lose(crowd.len()).await;
    assert!(ends.iter().all(|end| *end == End::Closed(1012)), "{ends:?}");
}

/// The balancer gives newcomers to whoever has least, as soon as it knows them.
async fn join_until_every_replica_has_some(project: &Project, crowd: &mut Crowd) {
    let replicas = project.replicas().await;
    eventually("every replica has clients", async || {
        crowd.join(1).await;
        for replica in &replicas {
            if replica.connections().await < EACH {
                return false;
            }
        }
        true
    })
    .await;
}

async fn all_brokers(replicas: &[Replica], up: f64) {
    eventually("the replicas notice", async || {
        for replica in replicas {
            if replica.metric("echocast_broker_up").await != up {
                return false;
            }
        }
        true
    })
    .await;
}

/// Asks again until it is so.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}
