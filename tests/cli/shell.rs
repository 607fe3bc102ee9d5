//! `echocast shell`, from a pipe and at a terminal.

use super::{USAGE, run};
use crate::support::client::TestClient;
use crate::support::node::TestNode;
use crate::support::program::{Program, echocast};
use crate::support::redis::free_port;
use crate::support::screen::Screen;

#[tokio::test]
async fn from_a_pipe_it_says_each_line_and_prints_what_it_hears() {
    let node = TestNode::start(&[]).await;
    let mut listener = TestClient::connect(&node.url("/")).await;
    let mut shell = Program::start(echocast(&["shell", &node.url("/")]));
    shell.type_line("hi").await;
    shell.type_line("/quit is said too").await;
    let ended = shell.finish().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.output, ["hi", "/quit is said too"]);
    assert_eq!(ended.errors, "");
    listener.expect(["hi", "/quit is said too"]).await;
}

#[tokio::test]
async fn from_a_pipe_it_fails_if_nobody_answers() {
    // Bound, so that nobody else takes the port, and not listening.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    let mut shell = Program::start(echocast(&["shell", &address]));
    shell.type_line("hi").await;
    let ended = shell.finish().await;
    assert_eq!((ended.code, ended.output.len()), (Some(1), 0), "{ended:?}");
    let named = format!("ws://{address}/: cannot connect: ");
    assert!(
        ended.errors.contains(&named) && ended.errors.contains("refused"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_time_that_cannot_be_waited_is_a_usage_error() {
    for seconds in ["nan", "inf", "1e300"] {
        let ended = run(&["shell", "-x", "hi", "--wait", seconds]).await;
        assert_eq!((ended.code, ended.output.len()), (USAGE, 0), "{ended:?}");
        assert!(ended.errors.contains("--wait "), "{ended:?}");
    }
}

#[tokio::test]
async fn it_takes_the_flags_of_wscat() {
    let node = TestNode::start(&["--allow-origin", "https://good.example"]).await;
    let url = node.url("/");
    let said = ["-c", &url, "-x", "one", "-x", "-two", "-w", "0"];
    for origin in [
        ["-o", "https://good.example"],
        ["-H", "Origin: https://good.example"],
    ] {
        let ended = run(&[&["shell"], &said[..], &origin].concat()).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.output, ["one", "-two"]);
    }
    let ended = run(&[&["shell", "-o", "https://bad.example"], &said[..]].concat()).await;
    assert_eq!((ended.code, ended.output.len()), (Some(1), 0), "{ended:?}");
    assert!(ended.errors.contains("403 Forbidden: "), "{ended:?}");
}

#[tokio::test]
async fn what_it_hears_appears_above_the_line_being_typed() {
    let node = TestNode::start(&[]).await;
    let screen = Screen::start(&["shell", &node.url("/")]).await;
    screen.ends_with(&["connected to…", ">"]).await;
    screen.type_line("hello").await;
    screen.ends_with(&["< hello", ">"]).await;
    let mut other = TestClient::connect(&node.url("/")).await;
    screen.type_text("half a li").await;
    screen.ends_with(&["< hello", "> half a li"]).await;
    other.say("from another").await;
    screen
        .ends_with(&["< hello", "< from another", "> half a li"])
        .await;
    other.say("\u{1b}[2Jnot obeyed").await;
    screen
        .ends_with(&["< from another", "< \\u{1b}[2Jnot obeyed", "> half a li"])
        .await;
    screen.type_line("ne").await;
    screen.ends_with(&["< half a line", ">"]).await;
    other
        .expect(["from another", "\u{1b}[2Jnot obeyed", "half a line"])
        .await;
}

#[tokio::test]
async fn it_obeys_slash_commands() {
    let node = TestNode::start(&[]).await;
    let screen = Screen::start(&["shell", &node.url("/")]).await;
    screen.ends_with(&["connected to…", ">"]).await;
    for line in ["one", "two", "three"] {
        screen.type_line(line).await;
        screen.ends_with(&[&format!("< {line}"), ">"]).await;
    }
    screen.type_line("/ping").await;
    screen.ends_with(&["pong \"\" after …", ">"]).await;
    screen.type_line("/nope").await;
    screen
        .ends_with(&[
            "unknown command '/nope'; /help lists all, //nope publishes it",
            ">",
        ])
        .await;
    screen.type_line("//nope").await;
    screen.ends_with(&["< /nope", ">"]).await;
    screen.type_line("/last 2").await;
    screen
        .ends_with(&["connected to…", "< three", "< /nope", ">"])
        .await;
    screen.type_line("/help").await;
    screen
        .ends_with(&[
            "Lines typed without a connection are kept, up to 100, and published later.",
            ">",
        ])
        .await;
    screen.type_line("/quit").await;
    screen.ends_with(&["exit code 0"]).await;
}

#[tokio::test]
async fn it_shows_the_servers_answer_to_a_close() {
    let node = TestNode::start(&[]).await;
    let screen = Screen::start(&["shell", &node.url("/")]).await;
    screen.ends_with(&["connected to…", ">"]).await;
    screen.type_line("/close 4000 bye").await;
    screen
        .ends_with(&[
            "echocast: connection closed: 4000 application code (bye)",
            "exit code 0",
        ])
        .await;
}

#[tokio::test]
async fn it_remembers_lines_from_one_run_to_the_next() {
    let node = TestNode::start(&[]).await;
    let screen = Screen::start(&["shell", &node.url("/")]).await;
    screen.ends_with(&["connected to…", ">"]).await;
    screen.type_line("remember me").await;
    screen.ends_with(&["< remember me", ">"]).await;
    screen.press("C-d").await;
    screen.ends_with(&["exit code 0"]).await;
    screen.run_again(&["shell", &node.url("/")]).await;
    screen.ends_with(&["connected to…", ">"]).await;
    screen.press("Up").await;
    screen.ends_with(&["connected to…", "> remember me"]).await;
}

#[tokio::test]
async fn it_keeps_what_is_typed_while_the_server_is_away() {
    let listen = format!("127.0.0.1:{}", free_port());
    let node = TestNode::start_at(&listen, &[]).await;
    let screen = Screen::start(&["shell", &node.url("/")]).await;
    screen.ends_with(&["connected to…", ">"]).await;
    node.stop().await;
    screen
        .shows("connection closed: 1012 server restarting, come back…")
        .await;
    screen.type_line("are you there?").await;
    screen
        .shows("not connected: kept, and published after reconnecting")
        .await;
    let _node = TestNode::start_at(&listen, &[]).await;
    // Without Redis a history ends with its node.
    screen
        .ends_with(&[
            "connected to…",
            "some messages may be missing here",
            "< are you there?",
            ">",
        ])
        .await;
}
