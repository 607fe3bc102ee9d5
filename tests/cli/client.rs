//! `echocast client`, the lecture's client, and what it shares with the shell: refusals.

use super::run;
use crate::support::client::TestClient;
use crate::support::node::TestNode;
use crate::support::program::{Program, echocast};
use crate::support::redis::free_port;

#[tokio::test]
async fn two_clients_hear_each_other() {
    let node = TestNode::start(&[]).await;
    let mut one = Program::start(echocast(&[
        "client",
        "--say",
        "a",
        "--say",
        "b",
        &node.url("/"),
    ]));
    one.prints(["a", "b"]).await;
    // Without anything to say it greets, as in the lecture.
    let mut other = Program::start(echocast(&["client", &node.url("/ws")]));
    other.prints(["client hello"]).await;
    one.prints(["client hello"]).await;
    for client in [one, other] {
        client.signal("INT").await;
        let ended = client.ended().await;
        assert_eq!((ended.code, ended.output.len()), (Some(0), 0), "{ended:?}");
    }
}

#[tokio::test]
async fn it_comes_back_when_its_server_does() {
    let listen = format!("127.0.0.1:{}", free_port());
    let node = TestNode::start_at(&listen, &[]).await;
    let mut client = Program::start(echocast(&["client", "--say", "once", &node.url("/")]));
    client.prints(["once"]).await;
    node.stop().await;
    let node = TestNode::start_at(&listen, &[]).await;
    while !client.notice().await.contains("connection closed: 1012") {}
    while !client.notice().await.contains("connected to") {}
    // Without Redis a history ends with its node, and nobody knows what there was.
    assert_eq!(
        client.notice().await,
        "echocast: some messages may be missing here"
    );
    let mut other = TestClient::connect(&node.url("/")).await;
    other.say("again").await;
    // And it does not say its text a second time.
    client.prints(["again"]).await;
    other.expect(["again"]).await;
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words_and_exits_1() {
    let node = TestNode::start(&[]).await;
    for subcommand in ["client", "shell"] {
        for (path, words) in [("/a//b", "an empty segment"), ("/a@b", "'@' is none of")] {
            let ended = run(&[subcommand, &node.url(path)]).await;
            assert_eq!((ended.code, ended.output.len()), (Some(1), 0), "{ended:?}");
            assert!(
                ended.errors.contains("400 Bad Request: ") && ended.errors.contains(words),
                "{ended:?}"
            );
        }
    }
}
