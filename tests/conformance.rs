//! RFC 6455 as the Autobahn Testsuite understands it: 314 cases against the node as a process. A
//! channel with one client at a time is the echo server that the suite wants. `tests/autobahn` runs
//! the same against a release build.

use std::time::Duration;

use serde_json::Value;
use testcontainers::core::WaitFor;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

use crate::support::process::NodeProcess;

/// Groups 1 to 7, 9 and 10, and of compression (12 and 13) one of each kind: all of it takes ten
/// minutes. Counted, because a suite that ran nothing has no failures.
const CASES: usize = 314;

/// What the suite does not judge, because the specification leaves it open: text in flight when a
/// close arrives, and close codes of 5000 and above.
const UNJUDGED: [&str; 3] = ["7.1.6", "7.13.1", "7.13.2"];

/// A quiet machine needs 16 s.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_autobahn_testsuite_finds_nothing() {
    // As it ships, but that group 9 sends 16 MiB at once.
    let node = NodeProcess::start(&["--max-message", "16MiB", "--history-bytes", "16MiB"]).await;
    let spec =
        include_str!("conformance/spec.json").replace("PORT", &node.address.port().to_string());
    let suite = GenericImage::new("crossbario/autobahn-testsuite", "25.10.1")
        .with_wait_for(WaitFor::exit(Default::default()))
        .with_cmd(["wstest", "-m", "fuzzingclient", "-s", "/config/spec.json"])
        .with_copy_to("/config/spec.json", spec.into_bytes())
        .with_network("host")
        .with_startup_timeout(PATIENCE)
        .start()
        .await
        .unwrap();

    let index = report(&suite, "index.json").await;
    let cases = index["echocast"].as_object().unwrap();
    assert_eq!(cases.len(), CASES, "cases run");
    let mut failures = Vec::new();
    for (id, case) in cases {
        let expected = if UNJUDGED.contains(&id.as_str()) {
            "INFORMATIONAL"
        } else {
            "OK"
        };
        if case["behavior"] != expected || case["behaviorClose"] != expected {
            let details = report(&suite, case["reportfile"].as_str().unwrap()).await;
            failures.push(explain(id, &details));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {CASES} cases failed\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// A file of the suite's report.
async fn report(suite: &ContainerAsync<GenericImage>, name: &str) -> Value {
    let text = suite
        .copy_file_from(format!("/config/reports/{name}"), Vec::new())
        .await
        .unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// What a reader of a failed run needs to know about a case.
fn explain(id: &str, case: &Value) -> String {
    let names = [
        "behavior",
        "result",
        "behaviorClose",
        "resultClose",
        "remoteCloseCode",
        "remoteCloseReason",
    ];
    let seen: Vec<String> = names
        .iter()
        .map(|name| format!("    {name}: {}", case[name]))
        .collect();
    format!("{id}: {}\n{}", case["description"], seen.join("\n"))
}
