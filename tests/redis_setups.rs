//! Redis as operators set it up: behind TLS, with users that may do only what they must, and as
//! what cannot be used.

mod client_certificates;
mod documented_user;
mod full;
mod refusals;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use testcontainers::ImageExt;
use tokio::process::Command;

use crate::support::client::{TestClient, http_get};
use crate::support::process::NodeProcess;
use crate::support::redis::Redis;

/// A certificate authority of our own, a certificate for this machine, and one for a client.
async fn certificates(directory: &Path) {
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=a private CA' -keyout ca.key -out ca.crt
        openssl req -newkey rsa:2048 -nodes -subj /CN=redis -keyout redis.key -out redis.csr
        printf 'subjectAltName=IP:127.0.0.1' > extensions
        openssl x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out redis.crt
        openssl req -newkey rsa:2048 -nodes -subj /CN=node -keyout node.key -out node.csr
        openssl x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out node.crt
    ";
    let mut shell = Command::new("sh");
    shell
        .args(["-ec", script])
        .current_dir(directory)
        .stderr(Stdio::null());
    assert!(shell.status().await.unwrap().success(), "openssl");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_private_ca() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path()).await;
    let file = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
    let redis = Redis::run(|image| {
        let options = [
            "--tls-port",
            "6379",
            "--tls-auth-clients",
            "no",
            "--tls-ca-cert-file",
            "/tmp/ca.crt",
        ];
        let own = [
            "--tls-cert-file",
            "/tmp/redis.crt",
            "--tls-key-file",
            "/tmp/redis.key",
        ];
        let image = image
            .with_copy_to("/tmp/ca.crt", file("ca.crt"))
            .with_copy_to("/tmp/redis.crt", file("redis.crt"));
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
    assert!(
        log.iter().any(|line| line.contains("UnknownIssuer")),
        "{log:#?}"
    );
}
