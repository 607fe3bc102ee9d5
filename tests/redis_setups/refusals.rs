//! A Redis that answers and cannot be the broker: a replica, one node of a Cluster, a Sentinel, or
//! a server that forbids a command. The node is not ready, says why, and goes on by itself when
//! that has changed.

use serde_json::json;

use crate::support::events::post;
use crate::support::fleet::{Fleet, may_do_what_it_must};
use crate::support::node::TestNode;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::v1::V1Client;

/// Makes a server a replica of one that does not exist, so that it keeps what it has.
const DEMOTE: [&str; 3] = ["REPLICAOF", "127.0.0.1", "1"];
const PROMOTE: [&str; 3] = ["REPLICAOF", "NO", "ONE"];

/// Waits until the node says this on `/readyz`, with this status.
async fn says(node: &TestNode, status: u16, words: &[&str]) {
    let is_said = async || {
        let (code, body) = node.get_ops("/readyz").await;
        code == status && words.iter().all(|word| body.contains(word))
    };
    until(&format!("/readyz says {words:?}"), is_said).await;
    let is_up = if words.iter().any(|word| word.contains("broker up")) {
        1.0
    } else {
        0.0
    };
    assert_eq!(node.metric("echocast_broker_up").await, is_up);
}

/// Waits until the node is not ready because its broker is not usable, and names these reasons.
async fn is_not_usable(node: &TestNode, reasons: &[&str]) {
    says(node, 503, &[&["broker not usable"], reasons].concat()).await;
}

/// Starts a node with a Redis that cannot be its broker, for these reasons.
async fn start_without_broker(url: &str, reasons: &[&str]) -> TestNode {
    let node = TestNode::start_unready(&["--redis-url", url]).await;
    is_not_usable(&node, reasons).await;
    node
}

/// A Redis with a user of the least rights that a node needs, and the address for that user.
async fn redis_with_user() -> (Redis, String) {
    let redis = Redis::start().await;
    may_do_what_it_must(&mut redis.connect().await).await;
    let url = url_of_user(&redis);
    (redis, url)
}

fn url_of_user(redis: &Redis) -> String {
    redis.url().replace("redis://", "redis://echocast:secret@")
}

/// Changes the rights of that user: `+evalsha` allows it, `-evalsha` forbids it.
async fn change_rights(redis: &Redis, rule: &str) {
    redis.tell(&["ACL", "SETUSER", "echocast", rule]).await;
}

/// Publishing works.
async fn takes(node: &TestNode, text: &str) {
    let (status, _, answer) = post(node.address, "/news", &[], text.as_bytes()).await;
    assert_eq!(status, 200, "{answer}");
}

/// The client hears this text, perhaps behind others.
async fn hears(client: &mut V1Client, text: &str) {
    loop {
        let next = client.next().await;
        assert_ne!(next["event"], "gap", "before {text}");
        if next["data"] == text {
            return;
        }
    }
}

/// Publishing is refused, and the answer does not leave open whether it happened.
async fn refuses(node: &TestNode, words: &str) {
    let (status, _, why) = post(node.address, "/news", &[], b"refused").await;
    assert!(
        status == 503 && why.contains(words) && !why.contains("may have been"),
        "{status} {why}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_no_broker_until_it_is_promoted() {
    let redis = Redis::start().await;
    for history in ["1000", "0"] {
        redis.tell(&DEMOTE).await;
        let flags = ["--redis-url", &redis.url(), "--history", history];
        let node = TestNode::start_unready(&flags).await;
        says(
            &node,
            503,
            &[
                "starting, broker not usable",
                &redis.address().to_string(),
                "replica",
            ],
        )
        .await;
        refuses(&node, "broker").await;
        redis.tell(&PROMOTE).await;
        node.wait_ready().await;
        takes(&node, "promoted").await;
        says(&node, 200, &["ready, broker up"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_demoted_is_left_and_used_again_when_it_is_promoted() {
    let redis = Redis::start().await;
    let node = TestNode::start(&["--redis-url", &redis.url()]).await;
    let mut client = V1Client::connect(&node.url("/news")).await;
    client.say("before").await;
    redis.tell(&DEMOTE).await;
    // The server says so itself, or the node knows already.
    refuses(&node, "").await;
    says(&node, 200, &["ready, broker away", "replica"]).await;
    redis.tell(&PROMOTE).await;
    says(&node, 200, &["broker up"]).await;
    takes(&node, "after").await;
    hears(&mut client, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_renamed_a_command_is_no_broker() {
    for command in ["EVALSHA", "XADD"] {
        let redis = Redis::start_with(&[
            "redis-server",
            "--rename-command",
            command,
            "OTHER",
            "--save",
            "",
        ])
        .await;
        let node = start_without_broker(&redis.url(), &["refuses to publish", "command"]).await;
        refuses(&node, "broker").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_publish_has_no_broker_until_that_is_allowed() {
    let (redis, url) = redis_with_user().await;
    for (history, command) in [
        ("1000", "evalsha"),
        ("1000", "script|load"),
        ("1000", "zadd"),
        ("1000", "xrevrange"),
        ("0", "publish"),
    ] {
        change_rights(&redis, &format!("-{command}")).await;
        let node = TestNode::start_unready(&["--redis-url", &url, "--history", history]).await;
        is_not_usable(&node, &["refuses to publish", command]).await;
        change_rights(&redis, &format!("+{command}")).await;
        node.wait_ready().await;
        takes(&node, "allowed").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_learns_at_once_that_redis_forbids_it_and_why() {
    let (redis, url) = redis_with_user().await;
    let node = TestNode::start(&["--redis-url", &url]).await;
    let mut client = V1Client::connect(&node.url("/news")).await;
    client.say("before").await;
    change_rights(&redis, "-evalsha").await;
    client.send(json!({ "data": "asks", "ref": "1" })).await;
    let answer = client.answer("1").await;
    let why = answer["error"].as_str().unwrap_or_default();
    assert!(
        why.starts_with("not published: ") && why.contains("'evalsha'"),
        "{answer}"
    );
    client
        .client
        .say(&json!({ "data": "waits" }).to_string())
        .await;
    says(&node, 200, &["ready, broker away", "evalsha"]).await;
    refuses(&node, "broker is away").await;
    change_rights(&redis, "+evalsha").await;
    hears(&mut client, "waits").await;
    says(&node, 200, &["broker up"]).await;
    takes(&node, "allowed").await;
    hears(&mut client, "allowed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_needs_no_command_that_only_asks_about_the_server() {
    let redis = Redis::start().await;
    redis
        .tell(&[
            "ACL", "SETUSER", "echocast", "on", ">secret", "~*", "&*", "+@all", "-role", "-info",
            "-cluster",
        ])
        .await;
    let node = TestNode::start(&["--redis-url", &url_of_user(&redis)]).await;
    takes(&node, "hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_cluster_mode_is_a_broker_if_it_has_all_slots() {
    let redis =
        Redis::start_with(&["redis-server", "--cluster-enabled", "yes", "--save", ""]).await;
    redis
        .tell(&["CLUSTER", "ADDSLOTSRANGE", "0", "12000"])
        .await;
    redis
        .tell(&["CONFIG", "SET", "cluster-require-full-coverage", "no"])
        .await;
    let reasons = ["one node of a Cluster", "redis+cluster://", "CLUSTERDOWN"];
    let node = start_without_broker(&redis.url(), &reasons).await;
    refuses(&node, "broker").await;
    redis
        .tell(&["CLUSTER", "ADDSLOTSRANGE", "12001", "16383"])
        .await;
    node.wait_ready().await;
    takes(&node, "hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_of_a_cluster_is_no_broker() {
    let fleet = Fleet::cluster().await;
    let master = format!("redis://echocast:secret@{}", fleet.address(7000));
    start_without_broker(&master, &["one node of a Cluster", "MOVED"]).await;
    let replica = format!("redis://echocast:secret@{}", fleet.address(7003));
    start_without_broker(&replica, &["replica"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_the_wrong_kind_is_told_from_one_that_does_not_answer() {
    let fleet = Fleet::sentinels().await;
    let sentinel = format!("redis://{}", fleet.address(7010));
    start_without_broker(&sentinel, &["Sentinel", "redis+sentinel://"]).await;
    let (server, other) = (
        fleet.address(7000),
        fleet.sentinel_url().replace("mymaster", "another"),
    );
    for (url, why) in [
        (format!("redis+sentinel://{server}/mymaster"), "SENTINEL"),
        (
            format!("redis+cluster://{server}"),
            "cluster support disabled",
        ),
        (format!("redis://echocast:wrong@{server}"), "WRONGPASS"),
        (other, "another"),
    ] {
        start_without_broker(&url, &[why]).await;
    }
}
