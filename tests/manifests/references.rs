//! What resources say by name of each other and of what a node counts, and what they promise its
//! clients.

use serde_json::Value;

use super::pod;
use super::rendered::{RENDERED, find};
use crate::support::node::TestNode;

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[tokio::test]
async fn names_lead_to_what_is_there() {
    let node = TestNode::start(&[]).await;
    let metrics = node.get_ops("/metrics").await.1;
    let is_counted = |name: &str| assert!(metrics.contains(&format!("\n{name}{{")), "{name}");
    for resources in RENDERED.values() {
        let services = || resources.iter().filter(|it| it["kind"] == "Service");
        for resource in resources {
            let spec = &resource["spec"];
            match resource["kind"].as_str().unwrap() {
                "HorizontalPodAutoscaler" | "ScaledObject" => {
                    find(
                        resources,
                        "Deployment",
                        spec["scaleTargetRef"]["name"].as_str().unwrap(),
                    );
                    list(&spec["metrics"])
                        .filter_map(|it| it["pods"]["metric"]["name"].as_str())
                        .for_each(is_counted);
                    for query in
                        list(&spec["triggers"]).filter_map(|it| it["metadata"]["query"].as_str())
                    {
                        let (metric, labels) =
                            query.strip_prefix("sum(").unwrap().split_once('{').unwrap();
                        is_counted(metric);
                        assert_eq!(labels, "job=\"echocast\",namespace=\"echocast\"})");
                    }
                }
                "HTTPRoute" => {
                    for rule in list(&spec["rules"]) {
                        let backend = &rule["backendRefs"][0];
                        let service = find(resources, "Service", backend["name"].as_str().unwrap());
                        assert_eq!(service["spec"]["ports"][0]["port"], backend["port"]);
                        // Without these, what implements the route chooses how long a client may
                        // stay.
                        assert!(
                            ["request", "backendRequest"]
                                .iter()
                                .all(|it| rule["timeouts"][it] == "0s")
                        );
                    }
                }
                "ServiceMonitor" => {
                    let wanted = spec["selector"]["matchLabels"].as_object().unwrap();
                    let mut watched = services().filter(|it| {
                        wanted
                            .iter()
                            .all(|(key, value)| &it["metadata"]["labels"][key] == value)
                    });
                    let (service, others) = (watched.next().unwrap(), watched.count());
                    assert_eq!(
                        (&service["metadata"]["name"], others),
                        (&"echocast-ops".into(), 0)
                    );
                    // As rules and dashboard have it.
                    assert_eq!(
                        service["metadata"]["labels"][spec["jobLabel"].as_str().unwrap()],
                        "echocast"
                    );
                }
                _ => {}
            }
        }
    }
}

#[test]
fn clients_are_moved_a_few_at_a_time_and_operators_see_every_pod() {
    for (name, resources) in RENDERED.iter() {
        let rollout =
            &find(resources, "Deployment", "echocast")["spec"]["strategy"]["rollingUpdate"];
        assert_eq!(rollout["maxUnavailable"], 0, "{name}");
        // None would keep machines from being drained.
        assert_eq!(
            find(resources, "PodDisruptionBudget", "echocast")["spec"]["maxUnavailable"],
            1,
            "{name}"
        );
        assert_eq!(
            pod(resources)["spec"]["enableServiceLinks"],
            false,
            "{name}: variables that look like settings"
        );
        let ops = &find(resources, "Service", "echocast-ops")["spec"];
        assert_eq!(
            (&ops["clusterIP"], &ops["publishNotReadyAddresses"]),
            (&"None".into(), &true.into()),
            "{name}"
        );
    }
}
