//! Channels move from one master of a Redis Cluster to another: one by one while their slots are
//! moved, and all of a master when it dies.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::play::Play;
use super::redis::no_loss_is_silent;
use super::stage::{LOST, Stage};
use crate::support::client::TestClient;
use crate::support::fleet::Fleet;
use crate::support::node::TestNode;
use crate::support::{soon, until};

/// Enough to be on all masters, whatever the test does.
const CHANNELS: usize = 40;

async fn stage() -> Stage<Fleet> {
    let fleet = Fleet::cluster().await;
    let url = fleet.cluster_url();
    Stage::over(fleet, url).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_is_followed_by_its_replica_and_nothing_is_lost_silently() {
    let stage = stage().await;
    let outcome = Play::steady(&stage.addresses, "a master of a cluster killed", async {
        let master = stage.redis.owner("chaos").await;
        stage.redis.signal("KILL", master).await;
        stage.redis.failover("chaos", master).await;
        sleep(Duration::from_secs(1)).await;
    })
    .await;
    no_loss_is_silent(&stage, &outcome).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_under_load_loses_nothing() {
    let stage = stage().await;
    let outcome = Play::steady(
        &stage.addresses,
        "a slot of a cluster moved three times",
        async {
            // There, on, and back.
            for _ in 0..3 {
                stage.redis.move_slot("chaos").await;
                sleep(Duration::from_millis(300)).await;
            }
        },
    )
    .await;
    outcome.nothing_is_lost(0);
    assert_eq!(stage.metric(LOST).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_channels_over_all_masters_while_slots_move_and_a_master_dies() {
    channels_while_slots_move_and_a_master_dies(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_channels_without_history_while_slots_move_and_a_master_dies() {
    channels_while_slots_move_and_a_master_dies(&["--history", "0"]).await;
}

async fn channels_while_slots_move_and_a_master_dies(flags: &[&str]) {
    let fleet = Fleet::cluster().await;
    let url = fleet.cluster_url();
    let mut nodes = Vec::new();
    for _ in 0..2 {
        nodes.push(TestNode::start(&[&["--redis-url", &url], flags].concat()).await);
    }
    let name = |channel: usize| format!("channel-{channel}");
    let stop = CancellationToken::new();
    let (mut listeners, mut speakers) = (JoinSet::new(), JoinSet::new());
    for channel in 0..CHANNELS {
        for (index, node) in nodes.iter().enumerate() {
            let client = TestClient::connect(&node.url(&format!("/{}", name(channel)))).await;
            listeners.spawn(async move { (channel, index, listen(client).await) });
        }
        let client =
            TestClient::connect(&nodes[channel % 2].url(&format!("/{}", name(channel)))).await;
        let stop = stop.clone();
        speakers.spawn(async move { (channel, speak(client, stop).await) });
    }
    sleep(Duration::from_secs(1)).await;
    fleet.move_slot(&name(0)).await;
    fleet.move_slot(&name(1)).await;
    let master = fleet.owner(&name(2)).await;
    fleet.signal("KILL", master).await;
    fleet.failover(&name(2), master).await;
    sleep(Duration::from_secs(2)).await;
    stop.cancel();

    let mut said = vec![0; CHANNELS];
    while let Some(spoken) = soon("everybody has spoken", speakers.join_next()).await {
        let (channel, count) = spoken.unwrap();
        said[channel] = count;
    }
    let mut heard = vec![[Vec::new(), Vec::new()]; CHANNELS];
    while let Some(listened) = soon("everybody has heard the end", listeners.join_next()).await {
        let (channel, index, numbers) = listened.unwrap();
        heard[channel][index] = numbers;
    }
    let mut missing = [0, 0];
    for (channel, heard) in heard.iter().enumerate() {
        for (numbers, missing) in heard.iter().zip(&mut missing) {
            assert!(
                numbers.is_sorted_by(|one, next| one < next),
                "{}: once and in order: {numbers:?}",
                name(channel)
            );
            *missing += said[channel] - numbers.len();
        }
    }
    let mut masters = HashSet::new();
    for channel in 0..CHANNELS {
        masters.insert(fleet.owner(&name(channel)).await);
    }
    assert!(
        masters.len() == 3 && !masters.contains(&master),
        "{masters:?}"
    );
    for (node, missing) in nodes.iter().zip(missing) {
        assert_eq!(
            node.metric(LOST).await,
            missing as f64,
            "missing, and counted"
        );
    }
}

/// Everything that is heard until the end.
async fn listen(client: TestClient) -> Vec<usize> {
    let mut stream = client.into_inner();
    let mut numbers = Vec::new();
    loop {
        match timeout(Duration::from_secs(40), stream.next())
            .await
            .expect("the end comes")
            .unwrap()
            .unwrap()
        {
            Message::Text(text) if text.as_str() == "end" => return numbers,
            Message::Text(text) => numbers.push(text.parse().unwrap()),
            _ => {}
        }
    }
}

/// Says numbers and at last that it is over; returns how many.
async fn speak(client: TestClient, stop: CancellationToken) -> usize {
    // Its own echoes are read and thrown away, or TCP would stop it; until the end comes back.
    let (mut sink, mut echoes) = client.into_inner().split();
    let echoes = tokio::spawn(async move {
        while echoes.next().await.expect("it stays open").unwrap() != Message::text("end") {}
    });
    let mut said = 0;
    while !stop.is_cancelled() {
        sink.send(Message::text(said.to_string())).await.unwrap();
        said += 1;
        sleep(Duration::from_millis(50)).await;
    }
    sink.send(Message::text("end")).await.unwrap();
    echoes.await.unwrap();
    said
}

/// Names of channels that a master has.
async fn channels_of(fleet: &Fleet, master: u16, count: usize) -> Vec<String> {
    let mut connection = fleet.connect(master).await;
    let mut names = Vec::new();
    for number in 0.. {
        let name = format!("/x{number}");
        // Whoever does not have a slot says who does.
        if redis::cmd("GET")
            .arg(format!("{{{}}}", &name[1..]))
            .exec_async(&mut connection)
            .await
            .is_ok()
        {
            names.push(name);
        }
        if names.len() == count {
            break;
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_elsewhere_on_a_master_does_not_wait_for_a_slot_that_is_on_its_way() {
    let fleet = Fleet::cluster().await;
    let node = TestNode::start(&["--redis-url", &fleet.cluster_url()]).await;
    let names = channels_of(&fleet, 7000, 2).await;
    let (mut moves, mut stays) = (
        TestClient::connect(&node.url(&names[0])).await,
        TestClient::connect(&node.url(&names[1])).await,
    );
    for client in [&mut moves, &mut stays] {
        client.say("before").await;
        client.expect(["before"]).await;
    }
    let open = fleet.open_slot(&names[0][1..]).await;
    moves.say("waits").await;
    moves.say("waits, too").await;
    assert!(
        moves.hears_nothing_for(Duration::from_millis(300)).await,
        "nothing can be said there meanwhile"
    );
    for number in 0..3 {
        let text = format!("goes on {number}");
        stays.say(&text).await;
        stays.expect([&*text]).await;
    }
    moves.say("waits as long").await;
    fleet.close_slot(open).await;
    moves.expect(["waits", "waits, too", "waits as long"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_dead_for_good_keeps_no_channel_of_the_others_waiting() {
    let fleet = Fleet::cluster().await;
    for port in 7000..7003 {
        let set = [
            "-p",
            &port.to_string(),
            "config",
            "set",
            "cluster-require-full-coverage",
            "no",
        ];
        fleet.cli(&set).await;
        fleet.signal("KILL", port + 3).await;
    }
    let node = TestNode::start(&["--redis-url", &fleet.cluster_url()]).await;
    let other = channels_of(&fleet, 7001, 1).await.remove(0);
    // More than are read at the same time cannot be read when it dies.
    fleet
        .cli(&["-p", "7000", "acl", "setuser", "echocast", "-hmget"])
        .await;
    let mut waiting = JoinSet::new();
    for name in channels_of(&fleet, 7000, 100).await {
        let url = node.url(&name);
        waiting.spawn(async move { TestClient::try_connect(&url, &[]).await.map(drop) });
    }
    until("many wait", async || {
        let errors = fleet.cli(&["-p", "7000", "info", "errorstats"]).await;
        let refused = errors
            .lines()
            .find_map(|line| line.strip_prefix("errorstat_NOPERM:count="));
        refused.is_some_and(|count| count.trim().parse::<u32>().unwrap() >= 64)
    })
    .await;
    fleet.signal("KILL", 7000).await;
    let mut client = TestClient::connect(&node.url(&other)).await;
    client.say("on another").await;
    client.expect(["on another"]).await;
}
