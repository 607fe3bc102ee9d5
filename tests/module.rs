//! The JavaScript module, static/echocast.js, in Node: it resumes whatever happens to its
//! connection or its node, publishes each message once, and tells what it cannot make good.

mod chromium;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::TestClient;
use crate::support::cluster::Cluster;
use crate::support::module::Module;
use crate::support::on_both_brokers;
use crate::support::proxy::Proxy;

on_both_brokers!(
    it_resumes_on_another_node_without_loss_or_repetition,
    it_resumes_through_many_cuts_and_what_it_publishes_arrives_once_and_in_order,
    what_is_published_while_away_waits_and_arrives_once,
    it_goes_on_where_an_earlier_one_ended,
    texts_and_bytes_come_through_as_they_are,
    it_does_not_hear_itself_if_it_does_not_want_to,
);

/// The most the file may weigh as servers send it.
const LARGEST: usize = 5_000;

async fn it_resumes_on_another_node_without_loss_or_repetition(cluster: Cluster) {
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut speaker = cluster.client(1, "/resume").await;
    let mut module = Module::start(proxy.url("/resume"), "{}");
    module.prints(["open false"]).await;
    say(&mut speaker, 0..10).await;
    module.hears(0..10).await;

    proxy.lead_to(None);
    proxy.cut();
    assert!(module.line().await.starts_with("waiting 1006 "));
    say(&mut speaker, 10..60).await;
    proxy.lead_to(Some(cluster.node(1).address));
    module.reopens("open true").await;
    say(&mut speaker, 60..70).await;
    module.hears(10..70).await;
}

async fn it_resumes_through_many_cuts_and_what_it_publishes_arrives_once_and_in_order(
    cluster: Cluster,
) {
    const COUNT: usize = 400;
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut listener = cluster.client(1, "/cuts").await;
    let mut module = Module::start(proxy.url("/cuts"), "{}");
    module.prints(["open false"]).await;
    module.told(&format!("flood number {COUNT}")).await;
    let said: Vec<String> = (0..COUNT)
        .map(|number| format!("number {number}"))
        .collect();
    let cutting = async {
        for round in 0..6 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.lead_to(Some(cluster.node(round % 2).address));
            proxy.cut();
        }
    };
    let hearing = async {
        let mut heard = 0;
        while heard < COUNT {
            let line = module.line().await;
            if let Some(text) = line.strip_prefix("heard ") {
                assert_eq!(text, said[heard]);
                heard += 1;
            } else {
                assert!(
                    line.starts_with("waiting 1006 ") || line == "open true",
                    "{line}"
                );
            }
        }
    };
    tokio::join!(
        cutting,
        hearing,
        listener.expect(said.iter().map(String::as_str))
    );
    for _ in 0..COUNT {
        let answer = module.answer().await;
        assert!(answer.starts_with("stored "), "{answer}");
    }
    assert!(listener.hears_nothing_for(Duration::from_millis(300)).await);
}

async fn what_is_published_while_away_waits_and_arrives_once(cluster: Cluster) {
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut listener = cluster.client(1, "/away").await;
    let mut module = Module::start(proxy.url("/away"), r#"{ "queue": 3 }"#);
    module.prints(["open false"]).await;
    proxy.lead_to(None);
    proxy.cut();
    assert!(module.line().await.starts_with("waiting 1006 "));
    for number in 0..4 {
        module.told(&format!("publish {number}")).await;
    }
    // What is one too many is refused, not forgotten.
    assert_eq!(
        module.answer().await,
        "refused not connected, and 3 messages wait already"
    );
    proxy.lead_to(Some(cluster.node(0).address));
    module.reopens("open true").await;
    module.hears(0..3).await;
    listener.expect(["0", "1", "2"]).await;
    for _ in 0..3 {
        assert!(module.answer().await.starts_with("stored "));
    }
    assert!(listener.hears_nothing_for(Duration::from_millis(300)).await);
}

async fn it_goes_on_where_an_earlier_one_ended(cluster: Cluster) {
    let mut speaker = cluster.client(1, "/later").await;
    let mut module = Module::start(cluster.node(0).url("/later?last=2"), "{}");
    module.prints(["open false"]).await;
    say(&mut speaker, 0..5).await;
    module.hears(0..5).await;
    module.told("id").await;
    let id = module.line().await.strip_prefix("id ").unwrap().to_owned();
    module.told("close 4000").await;
    module.prints(["closed 4000"]).await;
    say(&mut speaker, 5..10).await;

    let mut newcomer = Module::start(cluster.node(1).url("/later?last=2"), "{}");
    newcomer.prints(["open false"]).await;
    newcomer.hears(8..10).await;
    let mut heir = Module::start(
        cluster.node(1).url("/later"),
        &json!({ "since": id }).to_string(),
    );
    heir.prints(["open true"]).await;
    heir.hears(5..10).await;
    let place = format!("/later?lastEventId={id}");
    let mut other = Module::start(cluster.node(1).url(&place), "{}");
    other.prints(["open true"]).await;
    other.hears(5..10).await;
    other.told("reconnect").await;
    other.prints(["open true"]).await;
    // Closed is not forgotten: the first one may come back itself.
    module.told("reconnect").await;
    module.prints(["open true"]).await;
    module.hears(5..10).await;
    say(&mut speaker, 10..11).await;
    other.hears(10..11).await;
}

async fn texts_and_bytes_come_through_as_they_are(cluster: Cluster) {
    let mut client = cluster.client(1, "/kinds").await;
    let mut module = Module::start(cluster.node(0).url("/kinds"), "{}");
    module.prints(["open false"]).await;
    for (line, heard) in [
        ("publish naïve ☕\"\\", "heard naïve ☕\"\\"),
        ("publish ", "heard "),
        ("bytes 0,1,255", "bytes 0,1,255"),
    ] {
        module.told(line).await;
        module.prints([heard]).await;
    }
    client.expect(["naïve ☕\"\\", ""]).await;
    assert_eq!(client.next().await.into_data().as_ref(), [0, 1, 255]);
}

async fn it_does_not_hear_itself_if_it_does_not_want_to(cluster: Cluster) {
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut other = cluster.client(1, "/echo").await;
    let mut module = Module::start(proxy.url("/echo"), r#"{ "echo": false }"#);
    module.prints(["open false"]).await;
    for text in ["one", "two"] {
        module.told(&format!("publish {text}")).await;
        assert!(module.answer().await.starts_with("stored "));
    }
    other.expect(["one", "two"]).await;
    // For the server it is somebody else after this, whose messages those are not.
    proxy.cut();
    module.reopens("open true").await;
    other.say("three").await;
    module.prints(["heard three"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_comes_back_after_a_drain_when_it_was_told_to() {
    let mut cluster = Cluster::redis(2, &["--drain-period", "200ms"]).await;
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut speaker = cluster.client(1, "/drain").await;
    let mut module = Module::start(proxy.url("/drain"), "{}");
    module.prints(["open false"]).await;
    proxy.lead_to(Some(cluster.node(1).address));
    cluster.nodes[0].begin_stop();
    let asked: u64 = module
        .line()
        .await
        .strip_prefix("drain ")
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(
        module.line().await,
        format!("waiting 1012 {asked} restarting, come back")
    );
    let (asked, begun) = (Duration::from_millis(asked), Instant::now());
    say(&mut speaker, 0..10).await;
    module.prints(["open true"]).await;
    let waited = begun.elapsed();
    // Its line took a moment to get here, so that we began later than it did.
    assert!(
        waited + Duration::from_millis(50) > asked,
        "{waited:?} instead of {asked:?}"
    );
    module.hears(0..10).await;
    cluster.nodes.remove(0).ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_how_many_messages_are_gone() {
    let cluster = Cluster::redis(2, &["--history", "10"]).await;
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut speaker = cluster.client(1, "/gap").await;
    let mut module = Module::start(proxy.url("/gap"), "{}");
    module.prints(["open false"]).await;
    say(&mut speaker, 0..3).await;
    module.hears(0..3).await;
    proxy.lead_to(None);
    proxy.cut();
    say(&mut speaker, 3..103).await;
    proxy.lead_to(Some(cluster.node(1).address));
    module.reopens("open false").await;
    let gap: u32 = module
        .line()
        .await
        .strip_prefix("gap ")
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        (1..=90).contains(&gap),
        "{gap}: at least what is to be kept is there"
    );
    module.hears(3 + gap..103).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_history_it_tells_that_it_cannot_know() {
    let cluster = Cluster::redis(2, &["--history", "0"]).await;
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut module = Module::start(proxy.url("/plain?last=5"), "{}");
    module.prints(["open false"]).await;
    module.told("publish before").await;
    module.prints(["heard before"]).await;
    assert_eq!(module.answer().await, "stored null");
    proxy.cut();
    module.reopens("open false").await;
    module.prints(["gap null"]).await;
    module.told("publish after").await;
    module.prints(["heard after"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_notices_a_connection_that_died_without_a_word() {
    let cluster = Cluster::embedded(&["--ping-interval", "500ms"]).await;
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut speaker = cluster.client(0, "/silence").await;
    let mut module = Module::start(proxy.url("/silence"), "{}");
    module.prints(["open false"]).await;
    // Two pings must have come, or there is nothing to miss.
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.silence();
    say(&mut speaker, 0..10).await;
    let waiting = module.line().await;
    assert!(
        waiting.starts_with("waiting 1006 ") && waiting.ends_with(" no ping in time"),
        "{waiting}"
    );
    module.reopens("open true").await;
    module.hears(0..10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_the_server_does_not_take_costs_no_other() {
    let cluster = Cluster::embedded(&["--max-message", "100"]).await;
    let mut module = Module::start(cluster.node(0).url("/big"), "{}");
    module.prints(["open false"]).await;
    // One is refused in words; for the other, which is not even read, the connection ends.
    for text in ["before", &"x".repeat(101), &"x".repeat(10_000), "after"] {
        module.told(&format!("publish {text}")).await;
    }
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = module.answer().await;
        answers.push(if answer.starts_with("stored ") {
            "stored".to_owned()
        } else {
            answer
        });
    }
    answers.sort();
    let refused = [
        "refused larger than the server takes",
        "refused message is longer than 100 bytes",
    ];
    assert_eq!(
        answers,
        [refused.as_slice(), &["stored", "stored"]].concat()
    );
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let line = module.line().await;
        heard.extend(line.strip_prefix("heard ").map(ToOwned::to_owned));
    }
    assert_eq!(heard, ["before", "after"]);
}

#[tokio::test]
async fn it_is_small() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/static/echocast.js");
    let packed = tokio::process::Command::new("gzip")
        .args(["-9", "--stdout", file])
        .output()
        .await
        .unwrap();
    assert!(packed.status.success(), "{packed:?}");
    assert!(
        (1_000..LARGEST).contains(&packed.stdout.len()),
        "{} bytes",
        packed.stdout.len()
    );
}

/// Says numbers, each after the one before was heard back: all of them have been stored when this
/// returns.
async fn say(speaker: &mut TestClient, numbers: std::ops::Range<u32>) {
    for number in numbers {
        speaker.say(&number.to_string()).await;
        speaker.expect([number.to_string().as_str()]).await;
    }
}
