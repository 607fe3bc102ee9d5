//! The Kubernetes manifests: every overlay and every choice of components renders, fits the API's
//! schemas, passes a policy checker, and means the same ports, paths, settings and times as the
//! program.

#[path = "manifests/dependencies.rs"]
mod dependencies;
#[path = "manifests/memory.rs"]
pub mod memory;
#[path = "manifests/reach.rs"]
mod reach;
#[path = "manifests/references.rs"]
mod references;
#[path = "manifests/rendered.rs"]
pub mod rendered;
#[path = "manifests/runbook.rs"]
mod runbook;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use echocast::config::Config;
use serde_json::{Value, json};

use self::reach::Pod;
use self::rendered::{
    CHECKERS, DEPLOY, RENDERED, Resources, checker, documents, find, parse_yaml, resources, run,
    scratch,
};
use crate::support::client::http_get;
use crate::support::node::TestNode;

/// From the oldest one that knows all we use to the newest one the checker knows.
const KUBERNETES: [&str; 8] = [
    "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37",
];

/// Where kinds live that are no part of Kubernetes.
const CUSTOM: [&str; 3] = [
    "gateway.networking.k8s.io/",
    "keda.sh/",
    "monitoring.coreos.com/",
];

fn is_custom(resource: &Value) -> bool {
    CUSTOM
        .iter()
        .any(|group| resource["apiVersion"].as_str().unwrap().starts_with(group))
}

/// The pod template of the nodes.
fn pod(resources: &[Value]) -> &Value {
    &find(resources, "Deployment", "echocast")["spec"]["template"]
}

#[test]
fn every_resource_fits_the_schemas_of_many_kubernetes_versions() {
    let built_in: Resources = resources()
        .into_iter()
        .filter(|it| !is_custom(it))
        .collect();
    let directory = scratch();
    let path = directory.path().join("all.yaml");
    fs::write(&path, documents(&built_in)).unwrap();
    for version in KUBERNETES {
        let mut validate = checker("kubernetes-validate");
        validate.args(["--strict", "-k", version]).arg(&path);
        let said = run(validate, "");
        let passed = said
            .lines()
            .filter(|line| line.contains(" passed for resource "))
            .count();
        assert_eq!(
            (passed, said.contains("WARN")),
            (built_in.len(), false),
            "{version}: {said}"
        );
    }
}

#[test]
fn every_custom_resource_fits_its_definition() {
    let custom: Resources = resources().into_iter().filter(is_custom).collect();
    let mut node = Command::new("node");
    node.arg(format!("{CHECKERS}/custom-resources.mjs"));
    let kinds: BTreeSet<_> = custom
        .iter()
        .map(|it| it["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        BTreeSet::from([
            "HTTPRoute",
            "PrometheusRule",
            "ScaledObject",
            "ServiceMonitor"
        ])
    );
    let said = run(node, &Value::from(custom.clone()).to_string());
    assert_eq!(
        said.trim(),
        format!("{} checked, 0 complaints", custom.len())
    );
}

#[test]
fn a_policy_checker_has_no_objections() {
    let directory = scratch();
    for name in ["local", "production", "+gateway+keda+prometheus+redis"] {
        fs::write(
            directory.path().join(format!("{name}.yaml")),
            documents(&RENDERED[name]),
        )
        .unwrap();
    }
    let mut checkov = checker("checkov");
    checkov.args([
        "--framework",
        "kubernetes",
        "--skip-download",
        "--compact",
        "--quiet",
        "--output",
        "json",
    ]);
    checkov
        .arg("--config-file")
        .arg(format!("{CHECKERS}/checkov.yaml"))
        .arg("--directory")
        .arg(directory.path());
    let said: Value = serde_json::from_str(&run(checkov, "")).unwrap();
    let summary = &said["summary"];
    assert!(
        summary["failed"] == 0 && summary["passed"].as_u64() > Some(300),
        "{said}"
    );
}

/// The variables of a rendering's node, secret ones too.
fn settings(resources: &[Value]) -> Vec<(String, String)> {
    let container = &pod(resources)["spec"]["containers"][0];
    let mut settings = Vec::new();
    for source in container["envFrom"].as_array().unwrap() {
        let name = |kind: &str| source[kind]["name"].as_str();
        if let Some(name) = name("configMapRef") {
            let data = find(resources, "ConfigMap", name)["data"]
                .as_object()
                .unwrap();
            settings.extend(
                data.iter()
                    .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())),
            );
        }
        // Without the component the Secret is made by hand.
        let secret = name("secretRef").filter(|name| *name != "echocast-redis");
        if let Some(secret) = secret {
            for (key, value) in find(resources, "Secret", secret)["data"]
                .as_object()
                .unwrap()
            {
                let value = STANDARD.decode(value.as_str().unwrap()).unwrap();
                settings.push((key.clone(), String::from_utf8(value).unwrap()));
            }
        }
    }
    assert!(
        container.get("env").is_none(),
        "all settings are in the ConfigMap or the Secret"
    );
    settings
}

/// What a node of this rendering makes of its settings.
fn config(resources: &[Value]) -> Config {
    let flags: Vec<String> = settings(resources)
        .iter()
        .map(|(name, value)| {
            let flag = name
                .strip_prefix("ECHOCAST_")
                .unwrap_or_else(|| panic!("{name} is no setting of ours"));
            format!("--{}={value}", flag.to_lowercase().replace('_', "-"))
        })
        .collect();
    Config::from_args(flags.iter().map(String::as_str))
        .unwrap_or_else(|complaints| panic!("{complaints}"))
}

#[test]
fn every_setting_is_one_a_node_knows_and_takes() {
    for (name, resources) in RENDERED.iter() {
        let with_redis = name == "local" || name.contains("+redis");
        assert_eq!(config(resources).redis.is_some(), with_redis, "{name}");
        // The same name without a hash: who installs it makes the Secret that the runbook
        // describes.
        let secret = &pod(resources)["spec"]["containers"][0]["envFrom"][1]["secretRef"];
        assert!(
            secret.get("optional").is_none(),
            "{name}: without Redis a pod must not start"
        );
        assert_eq!(secret["name"] == "echocast-redis", !with_redis, "{name}");
    }
}

#[test]
fn the_kubelet_waits_longer_than_a_drain_takes() {
    for (name, resources) in RENDERED.iter() {
        let config = config(resources);
        let seconds = pod(resources)["spec"]["terminationGracePeriodSeconds"]
            .as_u64()
            .unwrap();
        assert!(
            config.shutdown.drain_delay >= Duration::from_secs(5),
            "{name}: balancers need time to notice"
        );
        assert!(
            config.shutdown.drain_period <= config.shutdown.grace,
            "{name}"
        );
        assert!(
            Duration::from_secs(seconds) > config.shutdown.drain_delay + config.shutdown.grace,
            "{name}"
        );
    }
}

#[tokio::test]
async fn ports_and_probes_are_those_of_a_node() {
    let node = TestNode::start(&[]).await;
    for (name, resources) in RENDERED.iter() {
        let config = config(resources);
        let container = &pod(resources)["spec"]["containers"][0];
        let port = |wanted: &str| {
            let ports = container["ports"].as_array().unwrap();
            ports.iter().find(|port| port["name"] == wanted).unwrap()["containerPort"]
                .as_u64()
                .unwrap()
        };
        assert_eq!(
            port("http"),
            u64::from(config.network.listen.port()),
            "{name}"
        );
        assert_eq!(
            port("ops"),
            u64::from(config.network.ops_listen.port()),
            "{name}"
        );
        for (probe, path) in [
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/readyz"),
        ] {
            let get = &container[probe]["httpGet"];
            assert_eq!(
                (&get["path"], &get["port"]),
                (&path.into(), &"ops".into()),
                "{name}: {probe}"
            );
            assert_eq!(http_get(node.ops, path, &[]).await.0, 200);
        }
        for (service, port) in [("echocast", "http"), ("echocast-ops", "ops")] {
            assert_eq!(
                find(resources, "Service", service)["spec"]["ports"][0]["targetPort"],
                port,
                "{name}"
            );
        }
        let monitors = resources.iter().filter(|it| it["kind"] == "ServiceMonitor");
        for endpoint in
            monitors.flat_map(|monitor| monitor["spec"]["endpoints"].as_array().unwrap())
        {
            let path = endpoint["path"].as_str().unwrap();
            assert_eq!(
                endpoint["port"],
                find(resources, "Service", "echocast-ops")["spec"]["ports"][0]["name"]
            );
            assert!(
                http_get(node.ops, path, &[])
                    .await
                    .1
                    .contains("echocast_build_info"),
                "{path}"
            );
        }
    }
}

#[test]
fn selectors_find_what_they_are_for_and_one_autoscaler_decides() {
    for (name, resources) in RENDERED.iter() {
        let pods: Vec<&Value> = resources
            .iter()
            .filter(|it| it["kind"] == "Deployment")
            .collect();
        let matching = |selector: &Value| {
            let wanted = selector.as_object().unwrap();
            let labels = pods
                .iter()
                .map(|it| &it["spec"]["template"]["metadata"]["labels"]);
            labels
                .filter(|labels| wanted.iter().all(|(key, value)| &labels[key] == value))
                .count()
        };
        for resource in resources {
            let spec = &resource["spec"];
            let selector = match resource["kind"].as_str().unwrap() {
                "Service" => &spec["selector"],
                "PodDisruptionBudget" | "Deployment" => &spec["selector"]["matchLabels"],
                "NetworkPolicy" => &spec["podSelector"]["matchLabels"],
                _ => continue,
            };
            assert_eq!(
                matching(selector),
                1,
                "{name}: {}",
                resource["metadata"]["name"]
            );
        }
        for spread in pod(resources)["spec"]["topologySpreadConstraints"]
            .as_array()
            .unwrap()
        {
            assert_eq!(
                matching(&spread["labelSelector"]["matchLabels"]),
                1,
                "{name}"
            );
        }
        let scalers = ["HorizontalPodAutoscaler", "ScaledObject"];
        let scalers = resources
            .iter()
            .filter(|it| scalers.iter().any(|kind| it["kind"] == *kind))
            .count();
        // A number of replicas beside an autoscaler would be set again by every apply.
        let replicas = find(resources, "Deployment", "echocast")["spec"]
            .get("replicas")
            .is_some();
        assert_eq!(
            (scalers, replicas),
            if name == "local" {
                (0, true)
            } else {
                (1, false)
            },
            "{name}"
        );
        assert!(
            resources
                .iter()
                .all(|it| it["kind"] == "Namespace" || it["metadata"]["namespace"] == "echocast")
        );
    }
}

#[test]
fn nobody_reaches_a_node_who_should_not() {
    let [http, ops, redis] = [("http", 8080), ("ops", 8081), ("redis", 6379)];
    for (name, resources) in RENDERED.iter() {
        let of = |deployment| {
            let template = &find(resources, "Deployment", deployment)["spec"]["template"];
            Pod::new("echocast", &template["metadata"]["labels"])
        };
        let (node, neighbour, stranger) = (
            of("echocast"),
            Pod::new("echocast", &json!({})),
            Pod::new("elsewhere", &json!({})),
        );
        assert!(
            stranger.may_reach(&node, http, resources),
            "{name}: clients"
        );
        // `echocast top echocast-ops` in any of them.
        assert!(
            node.may_reach(&node, ops, resources),
            "{name}: nodes look at each other"
        );
        assert!(
            [&neighbour, &stranger]
                .iter()
                .all(|it| !it.may_reach(&node, ops, resources)),
            "{name}: others do not"
        );
        let monitored = Pod::new("monitoring", &json!({})).may_reach(&node, ops, resources);
        assert_eq!(
            monitored,
            name == "production" || name.contains("+prometheus"),
            "{name}"
        );
        assert!(
            node.may_reach(&Pod::new("data", &json!({})), redis, resources),
            "{name}: a Redis elsewhere"
        );
        assert!(
            !node.may_reach(&stranger, http, resources),
            "{name}: nodes call nobody else"
        );
        if name == "local" || name.contains("+redis") {
            let broker = of("echocast-redis");
            assert!(node.may_reach(&broker, redis, resources), "{name}");
            assert!(
                !neighbour.may_reach(&broker, redis, resources),
                "{name}: Redis is the nodes' own"
            );
            assert!(
                !broker.may_reach(&node, http, resources),
                "{name}: Redis calls nobody"
            );
        }
    }
}

#[test]
fn the_operator_gets_the_same_rules_as_prometheus() {
    let directory = format!("{DEPLOY}/kubernetes/components/prometheus");
    let wrapped = run(Command::new(format!("{directory}/wrap")), "");
    assert_eq!(
        fs::read_to_string(format!("{directory}/rules.yaml")).unwrap(),
        wrapped,
        "run {directory}/wrap"
    );
    let rules = parse_yaml(
        &fs::read_to_string(format!("{DEPLOY}/prometheus/rules/echocast.rules.yml")).unwrap(),
    );
    assert_eq!(
        find(&RENDERED["production"], "PrometheusRule", "echocast")["spec"],
        rules[0]
    );
}

#[test]
fn production_runs_the_version_of_this_tree() {
    let image = pod(&RENDERED["production"])["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap();
    assert_eq!(image.rsplit(':').next(), Some(echocast::VERSION));
}
