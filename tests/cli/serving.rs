//! The node as a process: how it starts, what it says when it cannot, and how it ends.

use std::net::SocketAddr;

use super::run;
use crate::support::client::TestClient;
use crate::support::process::NodeProcess;
use crate::support::program::{Program, echocast};
use crate::support::until;

/// Plain `echocast` with these variables beside ports of its own.
fn plain(arguments: &[&str], variables: &[(&str, &str)]) -> Program {
    let mut command = echocast(arguments);
    command
        .env("ECHOCAST_LISTEN", "127.0.0.1:0")
        .env("ECHOCAST_OPS_LISTEN", "127.0.0.1:0")
        .env("ECHOCAST_LOG_FORMAT", "json")
        .envs(variables.iter().copied());
    Program::start(command)
}

/// Where it says that it serves clients and operators.
async fn addresses(node: &mut Program) -> (SocketAddr, SocketAddr) {
    let line: serde_json::Value = serde_json::from_str(&node.notice().await).unwrap();
    assert_eq!(line["message"], "serving", "{line}");
    (
        line["listen"].as_str().unwrap().parse().unwrap(),
        line["ops"].as_str().unwrap().parse().unwrap(),
    )
}

#[tokio::test]
async fn without_a_subcommand_it_serves() {
    let mut node = plain(&[], &[]);
    let (address, _) = addresses(&mut node).await;
    let mut client = TestClient::connect(&format!("ws://{address}")).await;
    client.say("hello").await;
    client.expect(["hello"]).await;
    node.signal("INT").await;
    assert_eq!(node.ended().await.code, Some(0));
}

#[tokio::test]
async fn variables_count_and_flags_win_over_them() {
    // A message of six bytes is too long for the variable's limit and not for the flag's.
    for (arguments, fits) in [(&[][..], false), (&["--max-message", "6"][..], true)] {
        let mut node = plain(arguments, &[("ECHOCAST_MAX_MESSAGE", "5")]);
        let (address, _) = addresses(&mut node).await;
        let mut client = TestClient::connect(&format!("ws://{address}")).await;
        client.say("sixsix").await;
        if fits {
            client.expect(["sixsix"]).await;
        } else {
            assert_eq!(client.closed().await.map(|(code, _)| code), Some(1009));
        }
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_and_exits_1() {
    let other = NodeProcess::start(&[]).await;
    for (flag, taken) in [
        ("--listen", other.address.to_string()),
        ("--ops-listen", other.ops.to_string()),
    ] {
        let ended = plain(&[flag, &taken], &[]).ended().await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(
            ended.errors.contains(&taken) && ended.errors.contains("in use"),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn a_node_with_clients_ends_well_when_told_to() {
    let node = NodeProcess::start(&[]).await;
    let mut clients = Vec::new();
    for path in ["/", "/", "/news"] {
        clients.push(TestClient::connect(&node.url(path)).await);
    }
    node.signal("TERM").await;
    for client in &mut clients {
        assert_eq!(client.closed().await.map(|(code, _)| code), Some(1012));
    }
    let (status, log) = node.ended().await;
    assert_eq!(status.code(), Some(0), "{log:#?}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for (second, code) in [("TERM", 143), ("INT", 130)] {
        let mut node = plain(&["--drain-delay", "1h"], &[]);
        let (address, _) = addresses(&mut node).await;
        let _client = TestClient::connect(&format!("ws://{address}")).await;
        node.signal("TERM").await;
        while !node.notice().await.contains("a second signal ends at once") {}
        node.signal(second).await;
        assert_eq!(node.ended().await.code, Some(code));
    }
}

#[tokio::test]
async fn health_is_the_nodes_own_word() {
    let mut node = plain(&["--drain-delay", "1h"], &[]);
    let (_, ops) = addresses(&mut node).await;
    let url = format!("http://{ops}");
    until("the node is ready", async || {
        run(&["health", "--ops-url", &url]).await.code == Some(0)
    })
    .await;
    // As the container's probe finds it, by the node's own variable.
    for everywhere in ["0.0.0.0", "[::]"] {
        let mut probe = echocast(&["health"]);
        probe.env(
            "ECHOCAST_OPS_LISTEN",
            format!("{everywhere}:{}", ops.port()),
        );
        assert_eq!(
            Program::start(probe).finish().await.code,
            Some(0),
            "{everywhere}"
        );
    }

    node.signal("TERM").await;
    while !node.notice().await.contains("a second signal ends at once") {}
    until("the node drains", async || {
        run(&["health", "--ops-url", &url]).await.code == Some(1)
    })
    .await;
    node.signal("KILL").await;
    node.ended().await;
    let ended = run(&["health", "--ops-url", &url]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.errors.starts_with("not ready: ") && ended.errors.contains(&ops.to_string()),
        "{ended:?}"
    );
}

#[tokio::test]
async fn it_serves_both_families_and_says_where() {
    let mut node = plain(&["--listen", "[::]:0", "--ops-listen", "[::]:0"], &[]);
    let (address, ops) = addresses(&mut node).await;
    assert!(
        address.ip().is_ipv6() && address.ip().is_unspecified() && ops.ip() == address.ip(),
        "{address} {ops}"
    );
    let mut clients = Vec::new();
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        clients.push(TestClient::connect(&format!("ws://{host}:{}", address.port())).await);
        let url = format!("http://{host}:{}", ops.port());
        until("it is ready there", async || {
            run(&["health", "--ops-url", &url]).await.code == Some(0)
        })
        .await;
    }
    clients[0].say("hello").await;
    for client in &mut clients {
        client.expect(["hello"]).await;
    }
    let mut probe = echocast(&["health"]);
    probe.env("ECHOCAST_OPS_LISTEN", ops.to_string());
    assert_eq!(Program::start(probe).finish().await.code, Some(0));
}

#[tokio::test]
async fn it_takes_all_the_open_files_it_may() {
    let mut command = tokio::process::Command::new("sh");
    command.args([
        "-c",
        "ulimit -Sn 200 && exec \"$0\" serve --listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 --log-format json",
    ]);
    command.arg(crate::support::process::ECHOCAST);
    let mut node = Program::start(command);
    let (_, ops) = addresses(&mut node).await;
    let (_, metrics) = crate::support::client::http_get(ops, "/metrics", &[]).await;
    assert!(
        crate::support::node::metric(&metrics, "process_max_fds") > 200.0,
        "{metrics}"
    );
}
