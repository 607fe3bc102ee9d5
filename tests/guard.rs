//! What a delivery costs, counted: `tests/bench/guard` against the release build in the container
//! image, which the compose file builds anyway. Bounds and what was measured are there.

use std::path::Path;
use std::process::Output;

use tokio::process::Command;

/// The first build of the image takes minutes.
const BUILD: &[&str] = &["docker", "compose", "build", "--quiet", "node"];
const IMAGE: &str = "echocast:local";

#[tokio::test]
async fn a_delivery_costs_no_more_than_it_did() {
    run(BUILD).await;
    let binary = tempfile::tempdir().unwrap();
    let binary = binary.path().join("echocast");
    take_from_image("/usr/local/bin/echocast", &binary).await;
    let output = output(&["tests/bench/guard", binary.to_str().unwrap()]).await;
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "\n{said}");
    assert_eq!(said.matches(" ok\n").count(), 5, "\n{said}");
}

async fn take_from_image(path: &str, to: &Path) {
    let container = run(&["docker", "create", IMAGE]).await;
    let container = container.trim();
    run(&[
        "docker",
        "cp",
        &format!("{container}:{path}"),
        to.to_str().unwrap(),
    ])
    .await;
    run(&["docker", "rm", container]).await;
}

/// Runs it to its end, which is a good one; returns what it printed.
async fn run(command: &[&str]) -> String {
    let output = output(command).await;
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

async fn output(command: &[&str]) -> Output {
    let [program, arguments @ ..] = command else {
        panic!("a command has a name")
    };
    Command::new(program)
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}
