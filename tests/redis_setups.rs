//! Redis as operators set it up: behind TLS, with users that may do only what they must, and as what cannot be used.

mod full;
mod refusals;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use testcontainers::ImageExt;
use tokio::process::Command;

use crate::support::client::{TestClient, http_get};
use crate::support::cluster::Cluster;
use crate::support::fleet::may_do_what_it_must;
use crate::support::node::TestNode;
use crate::support::process::NodeProcess;
use crate::support::redis::Redis;
use crate::support::until;

/// A certificate authority of our own, and a certificate for this machine.
async fn certificates(directory: &Path) {
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=a private CA' -keyout ca.key -out ca.crt
        openssl req -newkey rsa:2048 -nodes -subj /CN=redis -keyout redis.key -out redis.csr
        printf 'subjectAltName=IP:127.0.0.1' > extensions
        openssl x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out redis.crt
    ";
    let mut shell = Command::new("sh");
    shell.args(["-ec", script]).current_dir(directory).stderr(Stdio::null());
    assert!(shell.status().await.unwrap().success(), "openssl");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_private_ca() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path()).await;
    let file = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
    let redis = Redis::run(|image| {
        let options = ["--tls-port", "6379", "--tls-auth-clients", "no", "--tls-ca-cert-file", "/tmp/ca.crt"];
        let own = ["--tls-cert-file", "/tmp/redis.crt", "--tls-key-file", "/tmp/redis.key"];
        let image = image.with_copy_to("/tmp/ca.crt", file("ca.crt")).with_copy_to("/tmp/redis.crt", file("redis.crt"));
        image
            .with_copy_to("/tmp/redis.key", file("redis.key"))
            .with_cmd([&["redis-server", "--port", "0"], &options[..], &own].concat())
    })
    .await;
    let flags = ["--redis-url", &format!("rediss://{}", redis.address())];
    let ca = directory.path().join("ca.crt");
    let trusting = [("SSL_CERT_FILE", ca.to_str().unwrap())];
    let node = NodeProcess::start_with(&flags, &trusting).await;
    let other = NodeProcess::start_with(&flags, &trusting).await;
    let mut here = TestClient::connect(&node.url("/")).await;
    let mut there = TestClient::connect(&other.url("/")).await;
    here.say("in private").await;
    there.expect(["in private"]).await;
    here.expect(["in private"]).await;

    let distrustful = NodeProcess::start(&flags).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(http_get(distrustful.ops, "/readyz", &[]).await.0, 503);
    distrustful.signal("TERM").await;
    let (_, log) = distrustful.ended().await;
    assert!(log.iter().any(|line| line.contains("UnknownIssuer")), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_do_only_what_the_readme_says() {
    let redis = Redis::start().await;
    let mut connection = redis.connect().await;
    may_do_what_it_must(&mut connection).await;
    let url = redis.url().replace("redis://", "redis://echocast:secret@");
    let mut cluster = Cluster { nodes: Vec::new(), redis: Some(redis) };
    for history in ["1000", "0"] {
        cluster.nodes.clear();
        for _ in 0..2 {
            cluster.nodes.push(TestNode::start(&["--redis-url", &url, "--history", history]).await);
        }
        let (mut here, mut there) = (cluster.client(0, "/").await, cluster.client(1, "/").await);
        for number in 0..20 {
            let text = format!("{history} {number}");
            here.say(&text).await;
            here.expect([&*text]).await;
            there.expect([&*text]).await;
            if number % 10 == 5 {
                let before = cluster.metric("echocast_broker_reconnects_total").await;
                let mut kill = redis::cmd("CLIENT");
                kill.arg("KILL").arg("USER").arg("echocast").exec_async(&mut connection).await.unwrap();
                let again = async || cluster.metric("echocast_broker_reconnects_total").await >= before + 2.0;
                until("both are there again", again).await;
            }
        }
    }
    let denied: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query_async(&mut connection).await.unwrap();
    assert!(denied.is_empty(), "{denied:?}");
}
