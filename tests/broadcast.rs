//! What one says, all hear: the same bytes, in the same order, on every node.

use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use crate::support::cluster::Cluster;
use crate::support::on_all_brokers;

on_all_brokers!(
    everybody_hears_what_one_says_and_the_sender_too,
    messages_keep_their_bytes_and_their_kind,
    channels_do_not_hear_each_other,
    the_root_and_ws_are_the_lobby,
    what_is_said_before_a_close_is_heard_before_its_answer,
    what_is_said_right_after_connecting_is_heard,
);

async fn everybody_hears_what_one_says_and_the_sender_too(cluster: Cluster) {
    let mut here = cluster.client(0, "/news").await;
    let mut there = cluster.client(1, "/news").await;
    here.say("one").await;
    here.expect(["one"]).await;
    there.expect(["one"]).await;
    there.say("two").await;
    here.expect(["two"]).await;
    there.expect(["two"]).await;
}

async fn messages_keep_their_bytes_and_their_kind(cluster: Cluster) {
    let mut here = cluster.client(0, "/bytes").await;
    let mut there = cluster.client(1, "/bytes").await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let said = [
        Message::text("κόσμε\0\n\u{10FFFF}"),
        Message::text(""),
        Message::binary(Vec::new()),
        Message::binary(all_bytes),
        Message::binary("text that is binary"),
        Message::text("x".repeat(125)),
        Message::text("x".repeat(126)),
        Message::binary(vec![7; 65_535]),
        Message::binary(vec![7; 65_536]),
    ];
    for message in &said {
        here.send(message.clone()).await;
    }
    for message in &said {
        assert_eq!(&here.next().await, message);
        assert_eq!(&there.next().await, message);
    }
}

async fn channels_do_not_hear_each_other(cluster: Cluster) {
    let mut one = cluster.client(0, "/a").await;
    let mut other = cluster.client(1, "/a/b").await;
    one.say("for a").await;
    other.say("for a/b").await;
    one.expect(["for a"]).await;
    other.expect(["for a/b"]).await;
    assert!(one.hears_nothing_for(Duration::from_millis(100)).await);
    assert!(other.hears_nothing_for(Duration::from_millis(1)).await);
}

async fn the_root_and_ws_are_the_lobby(cluster: Cluster) {
    let mut root = cluster.client(0, "/").await;
    let mut ws = cluster.client(1, "/ws?any=query&at=all").await;
    let mut lobby = cluster.client(0, "/lobby").await;
    ws.say("hello").await;
    for client in [&mut root, &mut ws, &mut lobby] {
        client.expect(["hello"]).await;
    }
}

async fn what_is_said_before_a_close_is_heard_before_its_answer(cluster: Cluster) {
    let mut client = cluster.client(1, "/close").await;
    for number in 0..100 {
        client.say(&number.to_string()).await;
    }
    let close = tokio_tungstenite::tungstenite::protocol::CloseFrame {
        code: 4321.into(),
        reason: "bye".into(),
    };
    client.send(Message::Close(Some(close))).await;
    for number in 0..100 {
        assert_eq!(client.hear().await, number.to_string());
    }
    assert_eq!(client.closed().await, Some((4321, "bye".into())));
}

async fn what_is_said_right_after_connecting_is_heard(cluster: Cluster) {
    // A new channel each time: its subscription is made while the client waits for its handshake's
    // answer.
    for round in 0..20 {
        let path = format!("/fresh/{round}");
        let mut listener = cluster.client(0, &path).await;
        let mut speaker = cluster.client(1, &path).await;
        speaker.say("at once").await;
        listener.expect(["at once"]).await;
    }
}
