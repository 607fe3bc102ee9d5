//! Who may open a connection to whom, by the NetworkPolicies of a rendering, as Kubernetes defines
//! them. Who should is for the tests.

use serde_json::{Value, json};

/// A port as policies name it, and its number.
pub type Port = (&'static str, u16);

/// Any pod, here or in another namespace.
#[derive(Clone, Debug)]
pub struct Pod {
    namespace: Value,
    labels: Value,
}

impl Pod {
    /// One of this namespace with these labels.
    pub fn new(namespace: &str, labels: &Value) -> Self {
        Self {
            namespace: json!({ "kubernetes.io/metadata.name": namespace }),
            labels: labels.clone(),
        }
    }

    /// Whether both sides' policies let it.
    pub fn may_reach(&self, other: &Self, port: Port, resources: &[Value]) -> bool {
        other.allows("ingress", "from", self, port, resources)
            && self.allows("egress", "to", other, port, resources)
    }

    /// A pod that no policy selects allows everything; otherwise one rule of one policy must.
    fn allows(
        &self,
        direction: &str,
        side: &str,
        peer: &Self,
        port: Port,
        resources: &[Value],
    ) -> bool {
        let policies = resources
            .iter()
            .filter(|it| it["kind"] == "NetworkPolicy")
            .map(|it| (it, &it["spec"]));
        let mut mine = policies.filter(|(policy, spec)| {
            let types = spec["policyTypes"].as_array().unwrap();
            self.namespace["kubernetes.io/metadata.name"] == policy["metadata"]["namespace"]
                && types
                    .iter()
                    .any(|it| it.as_str().unwrap().eq_ignore_ascii_case(direction))
                && fits(&spec["podSelector"], &self.labels)
        });
        let Some(first) = mine.next() else {
            return true;
        };
        [first].into_iter().chain(mine).any(|(_, spec)| {
            spec[direction]
                .as_array()
                .into_iter()
                .flatten()
                .any(|rule| {
                    let peers = rule[side].as_array();
                    let ports = rule["ports"].as_array();
                    peers.is_none_or(|peers| peers.iter().any(|it| self.means(it, peer)))
                        && ports.is_none_or(|ports| {
                            ports
                                .iter()
                                .any(|it| it["port"] == port.0 || it["port"] == port.1)
                        })
                })
        })
    }

    /// Whether an entry of a policy of this pod's namespace means that pod.
    fn means(&self, entry: &Value, peer: &Self) -> bool {
        assert!(
            entry.get("ipBlock").is_none(),
            "addresses are not known here"
        );
        let namespace = match entry.get("namespaceSelector") {
            Some(selector) => fits(selector, &peer.namespace),
            None => self.namespace == peer.namespace,
        };
        namespace
            && entry
                .get("podSelector")
                .is_none_or(|selector| fits(selector, &peer.labels))
    }
}

/// Whether a selector, empty or of `matchLabels`, selects these labels.
fn fits(selector: &Value, labels: &Value) -> bool {
    assert!(selector.get("matchExpressions").is_none(), "{selector}");
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    wanted.is_none_or(|wanted| wanted.iter().all(|(key, value)| &labels[key] == value))
}
