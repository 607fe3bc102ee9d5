//! A Redis that asks its clients for certificates, as it does by default with TLS.

use std::path::Path;

use echocast::config::Config;
use testcontainers::ImageExt;
use testcontainers::core::IntoContainerPort;

use super::certificates;
use crate::support::events::publish;
use crate::support::node::TestNode;
use crate::support::program::{Program, echocast};
use crate::support::redis::{Redis, free_port};
use crate::support::until;

/// Its master and its Sentinel, or the only node of its Cluster, ask for certificates; without TLS
/// it is for the test only. It has the certificates of `first` and, beside them, of `second`.
async fn strict_redis(
    first: &Path,
    second: &Path,
    port: u16,
    sentinel_port: u16,
    cluster: &str,
) -> Redis {
    let options = "--tls-cluster yes --tls-ca-cert-file /tmp/first/ca.crt --tls-cert-file /tmp/first/redis.crt \
        --tls-key-file /tmp/first/redis.key";
    let script = format!(
        "echo 'sentinel monitor mymaster 127.0.0.1 {port} 2' > /tmp/sentinel.conf
         redis-server /tmp/sentinel.conf --sentinel --port 0 --tls-port 26379 {options} --logfile /tmp/log --daemonize yes \
            --protected-mode no
         exec redis-server --port 6379 --tls-port 6380 {options} --save '' --protected-mode no --cluster-enabled {cluster} \
            --cluster-announce-ip 127.0.0.1 --cluster-announce-tls-port {port} --cluster-announce-port {port}"
    );
    Redis::run(|mut image| {
        for (name, directory) in [("first", first), ("second", second)] {
            for file in ["ca.crt", "redis.crt", "redis.key"] {
                let bytes = std::fs::read(directory.join(file)).unwrap();
                image = image.with_copy_to(format!("/tmp/{name}/{file}"), bytes);
            }
        }
        image
            .with_mapped_port(port, 6380.tcp())
            .with_mapped_port(sentinel_port, 26379.tcp())
            .with_cmd(["sh", "-c", &script])
    })
    .await
}

/// The three flags, for the files of a directory.
fn flags(directory: &Path) -> [String; 3] {
    let file = |name: &str| directory.join(name).display().to_string();
    [
        format!("--redis-ca={}", file("ca.crt")),
        format!("--redis-cert={}", file("node.crt")),
        format!("--redis-key={}", file("node.key")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_shows_its_certificate_and_reads_the_files_anew() {
    let (files, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tokio::join!(certificates(files.path()), certificates(second.path()));
    let [port, sentinel_port] = [free_port(), free_port()];
    let redis = strict_redis(files.path(), second.path(), port, sentinel_port, "no").await;
    let flags = flags(files.path());
    let server = format!("rediss://127.0.0.1:{port}");
    let mut nodes = Vec::new();
    for url in [
        &server,
        &format!("rediss+sentinel://127.0.0.1:{sentinel_port}/mymaster"),
    ] {
        let flags: Vec<&str> = ["--redis-url", url]
            .into_iter()
            .chain(flags.iter().map(String::as_str))
            .collect();
        let node = TestNode::start(&flags).await;
        publish(node.address, "/news", "in private").await;
        nodes.push(node);
    }
    let anonymous = TestNode::start_unready(&["--redis-url", &server, &flags[0]]).await;

    // Redis gets another authority, and nodes are cut off until they have its files.
    let reconnects = async |node: &TestNode| node.metric("echocast_broker_reconnects_total").await;
    let files_of =
        |option: &'static str, file: &str| [option.to_owned(), format!("/tmp/second/{file}")];
    let options = [
        files_of("tls-ca-cert-file", "ca.crt"),
        files_of("tls-cert-file", "redis.crt"),
        files_of("tls-key-file", "redis.key"),
    ];
    let options = options.concat();
    let set: Vec<&str> = ["CONFIG", "SET"]
        .into_iter()
        .chain(options.iter().map(String::as_str))
        .collect();
    redis.tell(&set).await;
    for kind in ["normal", "pubsub"] {
        redis.tell(&["CLIENT", "KILL", "TYPE", kind]).await;
    }
    until("the direct node is cut off", async || {
        nodes[0].metric("echocast_broker_up").await == 0.0
    })
    .await;
    for file in ["ca.crt", "node.crt", "node.key"] {
        std::fs::copy(second.path().join(file), files.path().join(file)).unwrap();
    }
    until("it reads the new files", async || {
        nodes[0].metric("echocast_broker_up").await == 1.0
    })
    .await;
    assert!(reconnects(&nodes[0]).await >= 1.0);
    publish(nodes[0].address, "/news", "with other files").await;
    assert_eq!(
        anonymous.get_ops("/readyz").await.0,
        503,
        "without a certificate nobody is let in"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_may_ask_for_certificates() {
    let files = tempfile::tempdir().unwrap();
    certificates(files.path()).await;
    let [port, sentinel_port] = [free_port(), free_port()];
    let redis = strict_redis(files.path(), files.path(), port, sentinel_port, "yes").await;
    redis
        .tell(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])
        .await;
    let (flags, url) = (
        flags(files.path()),
        format!("rediss+cluster://127.0.0.1:{port}"),
    );
    let flags: Vec<&str> = ["--redis-url", &url]
        .into_iter()
        .chain(flags.iter().map(String::as_str))
        .collect();
    let node = TestNode::start(&flags).await;
    publish(node.address, "/news", "in private").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used_are_all_named_at_the_start() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tokio::join!(certificates(directory.path()), certificates(other.path()));
    std::fs::write(directory.path().join("text"), "secret").unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (text, cert, key) = (file("text"), file("node.crt"), file("node.key"));
    let (missing, foreign) = (
        file("missing"),
        other.path().join("node.key").display().to_string(),
    );
    let complaints = |flags: &[(&str, &str)]| {
        let flags: Vec<String> = flags
            .iter()
            .map(|(flag, value)| format!("--redis-{flag}={value}"))
            .collect();
        Config::from_args(flags.iter().map(String::as_str))
            .expect_err("they cannot be used")
            .0
    };
    let tls = ("url", "rediss://one");
    for (flags, named) in [
        (vec![tls, ("ca", &*missing)], vec!["--redis-ca"]),
        (vec![tls, ("ca", &text)], vec!["--redis-ca"]),
        (vec![tls, ("ca", &key)], vec!["--redis-ca"]),
        (vec![tls, ("cert", &cert)], vec!["--redis-cert"]),
        (vec![tls, ("key", &key)], vec!["--redis-key"]),
        (
            vec![tls, ("cert", &cert), ("key", &foreign)],
            vec!["--redis-key"],
        ),
        (
            vec![tls, ("cert", &key), ("key", &cert)],
            vec!["--redis-cert", "--redis-key"],
        ),
        (
            vec![("url", "redis://one"), ("cert", &cert), ("key", &key)],
            vec!["--redis-cert", "--redis-key"],
        ),
        (vec![("ca", &*cert)], vec!["--redis-ca"]),
    ] {
        let said = complaints(&flags);
        let flags_said: Vec<&str> = said
            .iter()
            .filter_map(|line| line.split(':').next())
            .collect();
        assert_eq!(flags_said, named, "{said:?}");
        assert!(!said.concat().contains("secret"), "{said:?}");
    }
    let flags = [
        "serve",
        "--redis-url",
        "rediss://one",
        "--redis-ca",
        &missing,
        "--redis-cert",
        &cert,
    ];
    let ended = Program::start(echocast(&flags)).finish().await;
    assert_eq!(ended.code, Some(64));
    assert!(
        ended.errors.contains("--redis-ca: ") && ended.errors.contains("--redis-cert: "),
        "{}",
        ended.errors
    );
}
