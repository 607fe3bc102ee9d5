//! How `client` and `shell` go on after a lost connection: nothing lost, nothing twice, and what
//! cannot be had is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::support::client::TestClient;
use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::on_both_brokers;
use crate::support::process::NodeProcess;
use crate::support::program::{Program, echocast};
use crate::support::proxy::Proxy;
use crate::support::redis::{Redis, free_port};
use crate::support::screen::Screen;

on_both_brokers!(
    a_client_prints_what_it_missed_while_it_was_cut_off,
    lines_from_a_pipe_arrive_once_although_their_acknowledgements_were_lost,
    from_a_pipe_acknowledgements_are_enough_if_nothing_comes_back,
);

async fn a_client_prints_what_it_missed_while_it_was_cut_off(cluster: Cluster) {
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut other = cluster.client(1, "/news").await;
    other.say("before").await;
    other.expect(["before"]).await;
    // The replay is for the first connection only.
    let mut client = Program::start(echocast(&[
        "client",
        "--say",
        "here",
        &proxy.url("/news?last=1"),
    ]));
    client.prints(["before", "here"]).await;
    for round in ["1", "2"] {
        proxy.lead_to(None);
        proxy.cut();
        while !client.notice().await.contains("connection lost") {}
        other.say(&format!("missed {round}")).await;
        other.say(&format!("missed, too {round}")).await;
        proxy.lead_to(Some(cluster.node(0).address));
        client
            .prints([
                format!("missed {round}").as_str(),
                &format!("missed, too {round}"),
            ])
            .await;
        other.say("live").await;
        client.prints(["live"]).await;
    }
}

async fn lines_from_a_pipe_arrive_once_although_their_acknowledgements_were_lost(cluster: Cluster) {
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut listener = cluster.client(1, "/").await;
    let mut shell = Program::start(echocast(&["shell", &proxy.url("/")]));
    shell.type_line("one").await;
    shell.prints(["one"]).await;
    proxy.swallow_answers();
    shell.type_line("two").await;
    shell.type_line("three").await;
    listener.expect(["one", "two", "three"]).await;
    proxy.lead_to(None);
    proxy.cut();
    assert!(shell.notice().await.contains("connection lost"));
    // Typed while there is nobody to say it to.
    shell.type_line("four").await;
    proxy.lead_to(Some(cluster.node(0).address));
    let ended = shell.finish().await;
    assert_eq!(
        (ended.code, ended.output.join(" ").as_str()),
        (Some(0), "two three four"),
        "{ended:?}"
    );
    listener.say("the end").await;
    listener.expect(["four", "the end"]).await;
}

async fn from_a_pipe_acknowledgements_are_enough_if_nothing_comes_back(cluster: Cluster) {
    let mut listener = cluster.client(1, "/").await;
    let mut shell = Program::start(echocast(&["shell", &cluster.node(0).url("/?echo=false")]));
    shell.type_line("one").await;
    shell.type_line("two").await;
    let ended = shell.finish().await;
    assert_eq!(
        (ended.code, ended.output.len(), ended.errors.as_str()),
        (Some(0), 0, ""),
        "{ended:?}"
    );
    listener.expect(["one", "two"]).await;
}

#[tokio::test]
async fn a_client_misses_nothing_while_its_node_is_killed_and_started_again() {
    let redis = Redis::start().await;
    let flags = ["--redis-url", &redis.url()];
    let killed = NodeProcess::start(&flags).await;
    let other_node = TestNode::start(&flags).await;
    let mut other = TestClient::connect(&other_node.url("/")).await;
    let mut client = Program::start(echocast(&["client", "--say", "first", &killed.url("/")]));
    client.prints(["first"]).await;
    killed.signal("KILL").await;
    let address = killed.address.to_string();
    killed.ended().await;
    other.say("second").await;
    let node = TestNode::start_at(&address, &flags).await;
    client.prints(["second"]).await;
    other.say("third").await;
    client.prints(["third"]).await;
    // A restart as in a rollout: the node says when to come back.
    node.stop().await;
    other.say("fourth").await;
    let _node = TestNode::start_at(&address, &flags).await;
    client.prints(["fourth"]).await;
    other.expect(["first", "second", "third", "fourth"]).await;
}

#[tokio::test]
async fn what_cannot_be_had_any_more_is_told() {
    let redis = Redis::start().await;
    let flags = ["--history", "2", "--redis-url", &redis.url()];
    let listen = format!("127.0.0.1:{}", free_port());
    let node = TestNode::start_at(&listen, &flags).await;
    let other_node = TestNode::start(&flags).await;
    let mut other = TestClient::connect(&other_node.url("/")).await;
    let mut client = Program::start(echocast(&["client", "--say", "here", &node.url("/")]));
    client.prints(["here"]).await;
    let screen = Screen::start(&["shell", &node.url("/?last=1")]).await;
    screen.ends_with(&["connected to…", "< here", ">"]).await;
    screen.type_text("half a li").await;
    node.stop().await;
    other.expect(["here"]).await;
    for text in ["1", "2", "3", "4", "5"] {
        // One at a time: what is published together is kept together.
        other.say(text).await;
        other.expect([text]).await;
    }
    let _node = TestNode::start_at(&listen, &flags).await;
    client.prints(["4", "5"]).await;
    while client.notice().await != "echocast: 3 messages are missing here" {}
    screen
        .ends_with(&["3 messages are missing here", "< 4", "< 5", "> half a li"])
        .await;
}

#[tokio::test]
async fn without_a_history_nothing_is_said_twice_and_what_may_be_lost_is_told() {
    let cluster = Cluster::redis(1, &["--history", "0"]).await;
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut listener = cluster.client(0, "/").await;
    let mut shell = Program::start(echocast(&["shell", &proxy.url("/")]));
    shell.type_line("one").await;
    shell.prints(["one"]).await;
    proxy.swallow_answers();
    shell.type_line("two").await;
    listener.expect(["one", "two"]).await;
    proxy.lead_to(None);
    proxy.cut();
    assert!(shell.notice().await.contains("connection lost"));
    proxy.lead_to(Some(cluster.node(0).address));
    shell.type_line("three").await;
    let ended = shell.finish().await;
    assert_eq!(
        (ended.code, ended.output.join(" ").as_str()),
        (Some(1), "three"),
        "{ended:?}"
    );
    for told in [
        "some messages may be missing here",
        "perhaps not published: \"two\": ",
    ] {
        assert!(ended.errors.contains(told), "{ended:?}");
    }
    listener.expect(["three"]).await;
}

#[tokio::test]
async fn a_line_that_is_too_long_is_told_and_the_others_arrive() {
    let node = TestNode::start(&["--max-message", "10"]).await;
    // The second is refused, for the third the server closes.
    let (long, longer) = ("x".repeat(11), "y".repeat(5000));
    let mut shell = Program::start(echocast(&["shell", &node.url("/")]));
    for line in ["before", &long, &longer, "after"] {
        shell.type_line(line).await;
    }
    let ended = shell.finish().await;
    assert_eq!(
        (ended.code, ended.output.join(" ").as_str()),
        (Some(1), "before after"),
        "{ended:?}"
    );
    for told in [
        format!("not published: \"{long}\": "),
        format!("not published: \"{}…\": ", "y".repeat(60)),
    ] {
        assert!(ended.errors.contains(&told), "{ended:?}");
    }
}

/// A server that knows nothing of us: echoes every message, and the subprotocol if it is told to.
/// Returns what was offered to it so far, too.
async fn foreign_server(takes_subprotocol: bool) -> (SocketAddr, Arc<Mutex<Vec<Option<String>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let offered = Arc::new(Mutex::new(Vec::new()));
    let offers = Arc::clone(&offered);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let offers = Arc::clone(&offers);
            #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
            let shake = move |request: &Request, mut response: Response| {
                let protocol = request.headers().get("sec-websocket-protocol");
                offers
                    .lock()
                    .unwrap()
                    .push(protocol.map(|protocol| protocol.to_str().unwrap().to_owned()));
                if let Some(protocol) = protocol.filter(|_| takes_subprotocol) {
                    response
                        .headers_mut()
                        .insert("sec-websocket-protocol", protocol.clone());
                }
                Ok(response)
            };
            tokio::spawn(async move {
                // A client may leave whenever it likes.
                let Ok(mut socket) = accept_hdr_async(stream, shake).await else {
                    return;
                };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() {
                        socket.send(message).await.unwrap();
                    }
                }
            });
        }
    });
    (address, offered)
}

#[tokio::test]
async fn with_other_servers_messages_are_as_they_are() {
    for takes_subprotocol in [true, false] {
        let (address, offered) = foreign_server(takes_subprotocol).await;
        let mut shell = Program::start(echocast(&["shell", &address.to_string()]));
        shell.type_line("{\"data\":\"mine\"}").await;
        shell.type_line("two").await;
        let ended = shell.finish().await;
        assert_eq!(
            (ended.code, ended.errors.as_str()),
            (Some(0), ""),
            "{ended:?}"
        );
        assert_eq!(ended.output, ["{\"data\":\"mine\"}", "two"]);
        assert_eq!(
            *offered.lock().unwrap(),
            [Some("echocast.v1".to_owned()), None]
        );
    }
}

#[tokio::test]
async fn with_raw_nothing_is_offered_and_messages_are_as_they_are() {
    let (address, offered) = foreign_server(true).await;
    let mut client = Program::start(echocast(&["client", "--raw", &address.to_string()]));
    client.prints(["client hello"]).await;
    assert_eq!(*offered.lock().unwrap(), [None]);

    let node = TestNode::start(&[]).await;
    let raw = Program::start(echocast(&[
        "shell",
        "--raw",
        "-x",
        "hi",
        "-w",
        "0",
        &node.url("/"),
    ]))
    .ended()
    .await;
    assert_eq!(
        (raw.code, raw.output.join(" ").as_str()),
        (Some(0), "hi"),
        "{raw:?}"
    );
    // A subprotocol of the user's choice is the user's to speak.
    let said = r#"{"data":"hi","ref":"mine"}"#;
    let own = [
        "shell",
        "-s",
        "echocast.v1",
        "-x",
        said,
        "-w",
        "1",
        &node.url("/"),
    ];
    let own = Program::start(echocast(&own)).ended().await;
    assert!(
        own.output[0].starts_with(r#"{"event":"welcome""#),
        "{own:?}"
    );
    assert!(
        own.output
            .iter()
            .any(|line| line.contains(r#""ack":"mine""#)),
        "{own:?}"
    );
}
