//! Clients other people wrote: the npm packages `ws`, with the examples of its README unchanged,
//! and `wscat`. The scripts in tests/node judge themselves; here they get a node, a channel and a
//! verdict.

use tokio::process::Command;

use crate::support::cluster::Cluster;
use crate::support::on_both_brokers;
use crate::support::program::{Ended, Program};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node");

on_both_brokers!(
    the_eight_line_client_hears_itself_and_is_heard,
    the_examples_of_the_readme_of_ws_work_unchanged,
    wscat_is_heard_and_hears_others,
);

async fn the_eight_line_client_hears_itself_and_is_heard(cluster: Cluster) {
    let mut listener = cluster.client(1, "/").await;
    let client = script("client8.mjs", &cluster.node(0).url(""));
    listener.expect(["Hello from client"]).await;
    let ended = passed("client8.mjs", client).await;
    assert_eq!(ended.output[0], "Received: Hello from client");
}

async fn the_examples_of_the_readme_of_ws_work_unchanged(cluster: Cluster) {
    // Each on a channel of its own: two of them are written for a server that echoes to nobody
    // else.
    let names = ["text.mjs", "binary.mjs", "roundtrip.mjs", "streams.mjs"];
    let running = names.map(|name| {
        (
            name,
            script(name, &cluster.node(1).url(&format!("/{name}"))),
        )
    });
    for (name, example) in running {
        passed(name, example).await;
    }
}

async fn wscat_is_heard_and_hears_others(cluster: Cluster) {
    let mut here = cluster.client(0, "/talk").await;
    let mut there = cluster.client(1, "/talk").await;
    there.say("said before").await;
    here.expect(["said before"]).await;
    // As people type it, without a scheme.
    let mut wscat = wscat(&["-c", &format!("{}/talk?last=1", cluster.node(0).address)]);
    // It drops what is typed before it has connected; once it has printed something, it has.
    wscat.prints(["said before"]).await;
    there.say("said now").await;
    wscat.prints(["said now"]).await;
    wscat.type_line("from wscat").await;
    // It prompts after each line it has said, on a pipe too.
    wscat.prints(["> from wscat"]).await;
    here.expect(["said now", "from wscat"]).await;
    there
        .expect(["said before", "said now", "from wscat"])
        .await;
    assert_eq!(wscat.finish().await.code, Some(0));
}

#[tokio::test]
async fn wscat_says_one_line_and_leaves() {
    let cluster = Cluster::embedded(&[]).await;
    let mut listener = cluster.client(0, "/").await;
    let address = cluster.node(0).address.to_string();
    let ended = wscat(&["-c", &address, "-x", "hello there", "-w", "1"])
        .ended()
        .await;
    assert_eq!(
        (ended.code, ended.output.as_slice()),
        (Some(0), ["hello there".to_owned()].as_slice()),
        "{ended:?}"
    );
    listener.expect(["hello there"]).await;
}

#[tokio::test]
async fn the_heartbeat_client_of_ws_outlives_its_timer() {
    let cluster = Cluster::embedded(&["--ping-interval", "500ms"]).await;
    passed("heartbeat.mjs", heartbeat(&cluster, 2000)).await;
}

#[tokio::test]
async fn the_heartbeat_client_of_ws_would_miss_our_pings() {
    // Guards the test above: with no ping in time this client ends the connection and fails.
    let cluster = Cluster::embedded(&["--ping-interval", "1h"]).await;
    let ended = heartbeat(&cluster, 500).ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.errors.contains("the connection closed too soon"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn the_examples_are_word_for_word_those_of_ws() {
    passed("verbatim.mjs", script("verbatim.mjs", "")).await;
}

pub fn script(name: &str, url: &str) -> Program {
    Program::start(node(&[name, url]))
}

fn heartbeat(cluster: &Cluster, span_ms: u64) -> Program {
    let mut command = node(&["heartbeat.mjs", &cluster.node(0).url("/heartbeat")]);
    command.env("HEARTBEAT_MS", span_ms.to_string());
    Program::start(command)
}

fn wscat(arguments: &[&str]) -> Program {
    Program::start(node(&[&["node_modules/.bin/wscat"], arguments].concat()))
}

pub fn node(arguments: &[&str]) -> Command {
    for package in ["ws", "wscat"] {
        let installed = std::path::Path::new(FOLDER)
            .join("node_modules")
            .join(package)
            .exists();
        assert!(
            installed,
            "no npm package {package} in tests/node: run npm ci in tests/node (tests/run does)"
        );
    }
    let mut command = Command::new("node");
    command.args(arguments).current_dir(FOLDER);
    command
}

/// A script that ends well says so in its last line.
pub async fn passed(name: &str, program: Program) -> Ended {
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{name}: {ended:?}");
    assert!(
        ended
            .output
            .last()
            .is_some_and(|line| line.starts_with("ok: ")),
        "{name}: {ended:?}"
    );
    ended
}
