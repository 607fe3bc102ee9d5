//! The page in a real Chromium: what people see, type and are told, and that it comes back when its
//! node does.

mod away;
mod looks;

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::{Chromium, ENTER, SHIFT_ENTER};
use crate::support::client::TestClient;
use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::program::{Program, echocast};
use crate::support::v1::V1Client;

/// A browser without a window has no pointer; with a fine one, pages may take the focus when they
/// open.
const MOUSE: &str = "--blink-settings=primaryPointerType=4,availablePointerTypes=4";
/// What each page says once it has connected.
const HELLO: &str = "Hello from browser";

fn page_of(node: &TestNode, path: &str) -> String {
    format!("http://{}{path}", node.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_browsers_and_a_shell_hear_each_other_in_the_lobby() {
    let node = TestNode::start(&[]).await;
    let chromium = Chromium::start().await;
    let mut shell = Program::start(echocast(&["shell", &node.url("")]));
    shell.type_line("shell is here").await;
    shell.prints(["shell is here"]).await;

    let one = chromium.open(&page_of(&node, "/")).await;
    one.shows(&["shell is here", HELLO]).await;
    let two = chromium.open(&page_of(&node, "/ws")).await;
    two.shows(&["shell is here", HELLO, HELLO]).await;
    shell.prints([HELLO, HELLO]).await;

    one.say("from one").await;
    shell.prints(["from one"]).await;
    two.shows(&["shell is here", HELLO, HELLO, "from one"])
        .await;
    two.say("from two").await;
    shell.prints(["from two"]).await;
    shell.type_line("from the shell").await;
    shell.prints(["from the shell"]).await;
    let all = [
        "shell is here",
        HELLO,
        HELLO,
        "from one",
        "from two",
        "from the shell",
    ];
    one.shows(&all).await;
    two.shows(&all).await;
    assert_eq!(shell.finish().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_on_two_nodes_hear_each_other() {
    let cluster = Cluster::redis(2, &[]).await;
    let chromium = Chromium::start().await;
    let here = chromium.open(&page_of(cluster.node(0), "/news")).await;
    here.shows(&[HELLO]).await;
    // The other node has not heard the channel before: its browser sees what is said from now on.
    let there = chromium.open(&page_of(cluster.node(1), "/news")).await;
    here.shows(&[HELLO, HELLO]).await;
    here.say("from here").await;
    there
        .becomes(
            "return document.querySelector('#messages .message:last-child .text').textContent",
            &json!("from here"),
        )
        .await;
    there.say("from there").await;
    here.shows(&[HELLO, HELLO, "from here", "from there"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_shown_and_never_obeyed() {
    let node = TestNode::start(&[]).await;
    let chromium = Chromium::start().await;
    let page = chromium.open(&page_of(&node, "/markup")).await;
    page.shows(&[HELLO]).await;
    let mut client = TestClient::connect(&node.url("/markup")).await;
    let texts = [
        "<img src=x onerror=\"document.title='obeyed'\">",
        "<script>document.title = 'obeyed'</script>",
        "&lt;b&gt; &amp; 'quotes' \"too\"",
        "two\nlines, and a control \u{1b}[31m",
        "",
    ];
    for text in texts {
        client.say(text).await;
    }
    page.shows(&[&[HELLO], texts.as_slice()].concat()).await;
    assert_eq!(
        page.run("return document.querySelectorAll('#messages :is(img, script, b)').length")
            .await,
        json!(0)
    );
    assert_eq!(
        page.run("return document.title").await,
        json!("markup · echocast")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_message_is_shown_as_its_size_and_its_bytes() {
    let node = TestNode::start(&[]).await;
    let chromium = Chromium::start().await;
    let page = chromium.open(&page_of(&node, "/bytes")).await;
    page.shows(&[HELLO]).await;
    let mut client = TestClient::connect(&node.url("/bytes")).await;
    for bytes in [
        vec![0x00, 0x01, 0xff],
        vec![0x3c],
        Vec::new(),
        vec![0xab; 1500],
    ] {
        client.send(Message::binary(bytes)).await;
    }
    let long = format!("binary, 1,500 bytes:{} …", " ab".repeat(64));
    page.shows(&[
        HELLO,
        "binary, 3 bytes: 00 01 ff",
        "binary, 1 byte: 3c",
        "binary, 0 bytes",
        &long,
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_sees_the_newest_fifty_messages() {
    let node = TestNode::start(&[]).await;
    let chromium = Chromium::start().await;
    let mut client = TestClient::connect(&node.url("/past")).await;
    let said: Vec<String> = (0..60).map(|number| format!("message {number}")).collect();
    for text in &said {
        client.say(text).await;
    }
    client.expect(said.iter().map(String::as_str)).await;
    let page = chromium.open(&page_of(&node, "/past")).await;
    let newest: Vec<&str> = said[10..]
        .iter()
        .map(String::as_str)
        .chain([HELLO])
        .collect();
    page.shows(&newest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_path_is_another_channel() {
    let node = TestNode::start(&[]).await;
    let chromium = Chromium::start().await;
    let mut lobby = TestClient::connect(&node.url("/")).await;
    let mut sport = TestClient::connect(&node.url("/sport/today")).await;
    let page = chromium.open(&page_of(&node, "/")).await;
    page.has("channel", "textContent", "lobby").await;
    page.type_into("name", &format!("no such name{ENTER}"))
        .await;
    page.has("name", "validationMessage !== ''", true).await;
    page.run("document.getElementById('name').value = ''").await;
    page.type_into("name", &format!("sport/today{ENTER}")).await;
    page.becomes("return location.pathname", &json!("/sport/today"))
        .await;
    page.has("channel", "textContent", "sport/today").await;
    page.is_open().await;
    page.say("goal").await;
    page.shows(&[HELLO, "goal"]).await;
    sport.expect([HELLO, "goal"]).await;
    lobby.say("only here").await;
    lobby.expect([HELLO, "only here"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enter_and_the_button_post_what_was_typed() {
    let node = TestNode::start(&[]).await;
    let chromium = Chromium::start().await;
    let mut client = TestClient::connect(&node.url("/post")).await;
    let page = chromium
        .open_as(&page_of(&node, "/post"), &[MOUSE], Value::Null)
        .await;
    client.expect([HELLO]).await;
    // The box has the focus from the start, and keeps it.
    page.becomes("return document.activeElement.id", &json!("text"))
        .await;
    page.type_into("text", &format!("by enter{ENTER}")).await;
    page.type_into("text", "by the button").await;
    page.click("post").await;
    page.type_into("text", &format!("two{SHIFT_ENTER}lines{ENTER}"))
        .await;
    client
        .expect(["by enter", "by the button", "two\nlines"])
        .await;
    page.shows(&[HELLO, "by enter", "by the button", "two\nlines"])
        .await;
    assert_eq!(
        page.run("return [document.getElementById('text').value, document.activeElement.id]")
            .await,
        json!(["", "text"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_the_server_does_not_take_stays_with_its_writer() {
    let node = TestNode::start(&["--max-message", "100"]).await;
    let chromium = Chromium::start().await;
    let page = chromium.open(&page_of(&node, "/big")).await;
    let long = "x".repeat(101);
    page.say(&long).await;
    page.has(
        "hint",
        "textContent",
        "This was not posted: message is longer than 100 bytes.",
    )
    .await;
    page.has("text", "value", long).await;
    // One that is not even read ends the connection; the text is given back all the same.
    let longer = "x".repeat(10_000);
    page.run(&format!(
        "document.getElementById('text').value = '{longer}'"
    ))
    .await;
    page.click("post").await;
    page.has(
        "hint",
        "textContent",
        "This was not posted: larger than the server takes.",
    )
    .await;
    page.has("text", "value", longer).await;
    let told = "querySelector('.note').textContent.startsWith('A message was larger than the server takes.')";
    page.has("messages", told, true).await;
    page.is_open().await;
    page.shows(&[HELLO]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_when_a_message_was_published() {
    let node = TestNode::start(&[]).await;
    let mut client = V1Client::connect(&node.url("/past")).await;
    client.say("long ago").await;
    let chromium = Chromium::start().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let page = chromium.open(&page_of(&node, "/past?last=1")).await;
    page.shows(&["long ago", HELLO]).await;
    let mut again = V1Client::connect(&node.url("/past?last=2")).await;
    for place in ["first", "last"] {
        let time = again.next().await["time"].as_u64().unwrap();
        let shown = format!(
            "return Date.parse(document.querySelector('#messages .message:{place}-child time').dateTime) === {time}"
        );
        page.becomes(&shown, &json!(true)).await;
    }
}
