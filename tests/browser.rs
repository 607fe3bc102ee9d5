//! The page in a real Chromium: what people see, type and are told, and that it comes back when its
//! node does.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::{Chromium, ENTER, SHIFT_ENTER};
use crate::support::client::{TestClient, http};
use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::program::{Program, echocast};
use crate::support::proxy::Proxy;
use crate::support::redis::free_port;
use crate::support::until;
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
async fn the_page_comes_back_by_itself_when_its_node_does() {
    let listen = format!("127.0.0.1:{}", free_port());
    let node = TestNode::start_at(&listen, &[]).await;
    let chromium = Chromium::start().await;
    let page = chromium.open(&page_of(&node, "/restart")).await;
    page.say("before").await;
    page.shows(&[HELLO, "before"]).await;
    page.run(
        "const state = document.getElementById('state'); \
         window.states = [state.dataset.state]; \
         new MutationObserver(() => window.states.push(state.dataset.state)) \
             .observe(state, { attributeFilter: ['data-state'] })",
    )
    .await;

    node.stop().await;
    page.has("trouble", "hidden", false).await;
    page.say("while away").await;
    page.has("hint", "textContent.startsWith('Not connected.')", true)
        .await;
    assert_eq!(
        page.run("return document.getElementById('text').value")
            .await,
        json!("while away")
    );

    let node = TestNode::start_at(&listen, &[]).await;
    let mut client = TestClient::connect(&node.url("/restart")).await;
    // At worst the next attempt is fifteen seconds away.
    page.is_open().await;
    page.has("trouble", "hidden", true).await;
    let states = page.run("return window.states.join(' ')").await;
    let states = states.as_str().unwrap();
    let middle = states
        .strip_prefix("open waiting connecting")
        .and_then(|rest| rest.strip_suffix(" open"));
    let repeated = middle
        .unwrap_or_else(|| panic!("{states}"))
        .replace(" waiting connecting", "");
    assert_eq!(repeated, "", "{states}");
    let restarting = "The server is restarting. (1012: restarting, come back)";
    // A single process forgets when it ends; what was said after that nobody can know.
    page.remarks(&[restarting, "reconnected", "messages may be missing here"])
        .await;

    // The text is still in the box. No second hello, and nothing shown twice.
    page.click("post").await;
    client.expect(["while away"]).await;
    client.say("after").await;
    page.shows(&[HELLO, "before", "while away", "after"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_was_said_while_it_was_away_and_what_it_had_posted_just_before() {
    let cluster = Cluster::redis(2, &[]).await;
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut client = cluster.client(1, "/away").await;
    let chromium = Chromium::start().await;
    let page = chromium
        .open(&format!("http://{}/away", proxy.address))
        .await;
    page.shows(&[HELLO]).await;
    client.expect([HELLO]).await;
    // What is posted now goes nowhere, and the page cannot know.
    proxy.silence();
    page.say("just before").await;
    page.has("text", "value", "").await;
    proxy.lead_to(None);
    proxy.cut();
    page.has("trouble", "hidden", false).await;
    page.has(
        "hint",
        "textContent.startsWith('A post is not confirmed yet')",
        true,
    )
    .await;
    client.say("meanwhile").await;
    client.expect(["meanwhile"]).await;
    proxy.lead_to(Some(cluster.node(1).address));
    page.shows(&[HELLO, "meanwhile", "just before"]).await;
    client.expect(["just before"]).await;
    page.remarks(&[
        "The connection was lost. (1006)",
        "reconnected, nothing was missed",
    ])
    .await;
    page.screenshot("reconnected.png").await;
    page.has("hint", "textContent", "").await;
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
async fn the_page_says_why_it_is_refused() {
    let node = TestNode::start(&[]).await;
    let chromium = Chromium::start().await;
    let page = chromium.open(&page_of(&node, "/a%2Fb")).await;
    page.has("channel", "textContent", "a/b").await;
    TestClient::connect(&node.url("/a/b?last=1"))
        .await
        .expect([HELLO])
        .await;

    page.visit(&page_of(&node, "/refused?last=many")).await;
    let why = "The server refused the connection: bad value of last: it is a number of messages, in digits";
    page.has("why", "textContent", why).await;
    // It does not ask again by itself for what will never be right.
    page.has("when", "textContent", "").await;
    let refused = "echocast_handshakes_refused_total{reason=\"bad_parameter\"}";
    let before = node.metric(refused).await;
    assert!(before >= 2.0, "a handshake, and the question why");
    page.click("retry").await;
    until("it is refused again", async || {
        node.metric(refused).await >= before + 2.0
    })
    .await;
    page.has("why", "textContent", why).await;
    page.has("when", "textContent", "").await;

    // A name is corrected before it is asked for, and a path that is no name is answered in words.
    page.type_into("name", &format!("a//b/{ENTER}")).await;
    page.has(
        "name",
        "validationMessage",
        "A slash too many: did you mean a/b?",
    )
    .await;
    page.visit(&page_of(&node, "/a//b/")).await;
    page.has(
        "why",
        "textContent",
        "bad channel name: an empty segment (a slash too many); use /a/b",
    )
    .await;
    page.click("suggested").await;
    page.is_open().await;
    page.has("channel", "textContent", "a/b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_no_name_leads_to_a_page_with_a_similar_one() {
    let node = TestNode::start(&[]).await;
    let page = Chromium::start().await.open(&page_of(&node, "/")).await;
    page.visit(&page_of(&node, "/my room<img src=x>&amp;"))
        .await;
    page.has(
        "why",
        "textContent",
        "bad channel name: ' ' is none of A-Z a-z 0-9 - _ . ~ : /",
    )
    .await;
    page.has("suggested", "textContent", "/my-room-img-src-x-amp")
        .await;
    let images = "return document.images.length";
    page.becomes(images, &json!(0)).await;
    page.screenshot("bad-name.png").await;
    // Its own answer is an error for the browser; nothing else is, such as a style that the policy
    // forbids.
    for complaint in page.complaints().await {
        assert!(complaint.contains("400 (Bad Request)"), "{complaint}");
    }
    page.click("suggested").await;
    page.is_open().await;
    page.has("channel", "textContent", "my-room-img-src-x-amp")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_that_its_node_lost_its_broker() {
    let cluster = Cluster::redis(1, &[]).await;
    let (node, redis) = (cluster.node(0), cluster.redis.as_ref().unwrap());
    let page = Chromium::start()
        .await
        .open(&page_of(node, "/before"))
        .await;
    redis.kill().await;
    until("the node notices", async || {
        node.metric("echocast_broker_up").await == 0.0
    })
    .await;
    page.visit(&page_of(node, "/away")).await;
    page.has(
        "why",
        "textContent",
        "The server refused the connection: the broker is away, come back",
    )
    .await;
    redis.restart().await;
    page.is_open().await;
    page.has("trouble", "hidden", true).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_page_needs_nothing_its_policy_forbids() {
    let node = TestNode::start(&[]).await;
    let chromium = Chromium::start().await;
    for path in ["/", "/_/app.js", "/_/echocast.js", "/_/style.css"] {
        let (status, head, _) =
            http(node.address, "GET", path, &[("Accept", "text/html, */*")]).await;
        assert_eq!(status, 200, "{path}");
        assert!(
            head.to_lowercase()
                .contains("\r\ncontent-security-policy: default-src 'none'; "),
            "{path}: {head}"
        );
    }
    let page = chromium.open(&page_of(&node, "/policy")).await;
    page.say("something").await;
    page.shows(&[HELLO, "something"]).await;
    assert_eq!(page.complaints().await, Vec::<String>::new());
    // Had the page asked for something else, this would tell.
    page.run(
        "document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.1:9/x.png' }))",
    )
    .await;
    until("the browser complains", async || {
        page.complaints()
            .await
            .iter()
            .any(|complaint| complaint.contains("Content Security Policy"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_fits_a_phone_and_is_dark_where_people_want_that() {
    let node = TestNode::start(&[]).await;
    let chromium = Chromium::start().await;
    let mut client = TestClient::connect(&node.url("/phone")).await;
    client
        .say(&format!("a long word: {}", "x".repeat(300)))
        .await;
    client.say("and a short answer").await;
    let phone = json!({ "deviceMetrics": { "width": 360, "height": 640, "pixelRatio": 2.0, "touch": true } });
    let dark = ["--blink-settings=preferredColorScheme=0"];
    for (arguments, is_dark) in [(&[][..], false), (&dark[..], true)] {
        let page = chromium
            .open_as(&page_of(&node, "/phone"), arguments, phone.clone())
            .await;
        page.becomes(
            "return document.querySelectorAll('.message').length > 2",
            &json!(true),
        )
        .await;
        page.screenshot(if is_dark {
            "phone-dark.png"
        } else {
            "phone-light.png"
        })
        .await;
        assert_eq!(page.run(FITS).await, json!([360, true, true, true, true]));
        assert_eq!(page.run(LIGHT_ON_DARK).await, json!(is_dark));
    }
}

/// The width the page has; whether the page fits in it and in the height, the messages do in
/// theirs, and the button is there to be seen.
const FITS: &str = "
    const fits = (part) => part.scrollWidth <= part.clientWidth;
    const page = document.documentElement;
    const { width, right, bottom } = document.getElementById('post').getBoundingClientRect();
    return [innerWidth, fits(page), page.scrollHeight <= innerHeight, fits(document.getElementById('messages')),
            width > 0 && right <= innerWidth && bottom <= innerHeight];";

/// Whether the text is brighter than what is behind it.
const LIGHT_ON_DARK: &str = "
    const brightness = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map(Number).reduce((sum, part) => sum + part);
    const { color, backgroundColor } = getComputedStyle(document.body);
    return brightness(color) > brightness(backgroundColor);";
