//! Limits of memory: what a container or a service may take holds what is put into it, and not much
//! more, so that neither number is changed without the other. The arithmetic is the runbook's, in
//! its chapter "Memory".

use std::collections::BTreeMap;

use serde_json::Value;

use super::rendered::{RENDERED, find};
use super::{pod, settings};

const MIB: u64 = 1 << 20;

/// The process without clients and messages.
const PROCESS: u64 = 100 * MIB;

/// A connection: 1 KiB in the process, 5 KiB in the kernel, before anything is in its buffers.
const CONNECTION: u64 = 6 * 1024;

/// Clients of a node that has no limit of them: a core's, by the runbook's chapter on capacity.
const CLIENTS: u64 = 50_000;

/// A size as Kubernetes, Compose, systemd, Redis and our own settings write it: all of them mean
/// powers of 1,024.
pub fn bytes(text: &str) -> u64 {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" => 1,
        "kib" => 1024,
        "m" | "mi" | "mib" | "mb" => MIB,
        "g" | "gi" | "gib" | "gb" => 1024 * MIB,
        other => panic!("{text}: {other} is no unit of these"),
    };
    text[..digits].parse::<u64>().unwrap() * unit
}

/// A node of that `--memory` and so many connections has room within its limit and could not have
/// much more.
pub fn assert_node_fits(whose: &str, memory: u64, connections: u64, limit: u64) {
    let buffers = limit / 4;
    let needed = memory + PROCESS + connections * CONNECTION + buffers;
    assert!(
        needed <= limit,
        "{whose}: {} MiB are needed, {} are there",
        needed / MIB,
        limit / MIB
    );
    // Less than that it would take by itself.
    assert!(
        memory * 3 >= limit,
        "{whose}: {} MiB for messages, of {}",
        memory / MIB,
        limit / MIB
    );
}

/// A Redis started with these arguments refuses what its limit does not hold, and does not waste it
/// either.
pub fn assert_redis_fits(whose: &str, arguments: &[&str], limit: u64) {
    let value = |name: &str| {
        let at = arguments
            .iter()
            .position(|it| *it == name)
            .unwrap_or_else(|| panic!("{whose}: no {name}"));
        arguments[at + 1]
    };
    assert_eq!(
        value("--maxmemory-policy"),
        "noeviction",
        "{whose}: an evicted history is a silent loss"
    );
    // A rewrite of its file may copy all of it.
    let most = bytes(value("--maxmemory"));
    assert!(
        2 * most <= limit && limit < 3 * most,
        "{whose}: {most} of {limit} bytes"
    );
}

fn resources<'a>(container: &'a Value, kind: &str) -> &'a str {
    container["resources"][kind]["memory"].as_str().unwrap()
}

#[test]
fn the_limits_of_pods_hold_what_is_put_into_them() {
    for (name, rendered) in RENDERED.iter() {
        let settings: BTreeMap<String, String> = settings(rendered).into_iter().collect();
        let connections = settings
            .get("ECHOCAST_MAX_CONNECTIONS")
            .map_or(CLIENTS, |limit| limit.parse().unwrap());
        let node = &pod(rendered)["spec"]["containers"][0];
        let limit = bytes(resources(node, "limits"));
        assert_node_fits(
            name,
            bytes(&settings["ECHOCAST_MEMORY"]),
            connections,
            limit,
        );
        assert_eq!(
            bytes(resources(node, "requests")),
            limit,
            "{name}: memory cannot be taken back"
        );

        if name == "local" || name.contains("+redis") {
            let redis = &find(rendered, "Deployment", "echocast-redis")["spec"]["template"]["spec"]
                ["containers"][0];
            let arguments: Vec<&str> = redis["args"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it.as_str().unwrap())
                .collect();
            let limit = bytes(resources(redis, "limits"));
            assert_redis_fits(name, &arguments, limit);
            assert_eq!(bytes(resources(redis, "requests")), limit, "{name}");
        }
    }
}

#[test]
fn in_production_every_limit_is_switched_on() {
    let settings: BTreeMap<String, String> =
        settings(&RENDERED["production"]).into_iter().collect();
    let limit = |name: &str| {
        let value = settings
            .get(&format!("ECHOCAST_{name}"))
            .unwrap_or_else(|| panic!("{name} is not set"));
        bytes(value)
    };
    for name in [
        "MAX_CONNECTIONS",
        "ADDRESS_CONNECTIONS",
        "ADDRESS_RATE",
        "MESSAGE_RATE",
        "BYTE_RATE",
        "MAX_CHANNELS",
    ] {
        assert!(limit(name) > 0, "{name} is off");
    }
    assert!(
        limit("ADDRESS_CONNECTIONS") * 100 <= limit("MAX_CONNECTIONS"),
        "one address is a hundredth at most"
    );
    assert!(
        limit("ADDRESS_RATE") > limit("ADDRESS_CONNECTIONS"),
        "after a rollout all of an address come back at once"
    );
    // Or all clients would be one address: the Gateway's.
    assert!(!settings["ECHOCAST_TRUSTED_PROXY"].is_empty());
}
