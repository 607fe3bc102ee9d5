//! The page without its node, without its broker, and where it is refused.

use serde_json::json;

use super::{HELLO, page_of};
use crate::support::browser::{Chromium, ENTER};
use crate::support::client::TestClient;
use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::proxy::Proxy;
use crate::support::redis::free_port;
use crate::support::until;

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
