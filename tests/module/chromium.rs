//! The JavaScript module in pages of a Chromium, beside the one that the service itself serves.

use std::time::Duration;

use serde_json::json;

use crate::support::browser::{Chromium, Page};
use crate::support::cluster::Cluster;
use crate::support::on_both_brokers;
use crate::support::proxy::Proxy;

on_both_brokers!(it_resumes_and_publishes);

async fn it_resumes_and_publishes(cluster: Cluster) {
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut client = cluster.client(1, "/chromium").await;
    let chromium = Chromium::start().await;
    // The page is on another channel, and only lends its origin.
    let page = chromium.open(&format!("http://{}/", proxy.address)).await;
    subscribe(&page, "/chromium").await;
    client.say("before").await;
    heard_in(&page, &["open", "before"]).await;

    proxy.lead_to(None);
    proxy.cut();
    page.becomes("return window.channel.state", &json!("waiting"))
        .await;
    client.say("meanwhile").await;
    page.run("window.channel.publish('from the page').then((id) => { window.stored = id; })")
        .await;
    proxy.lead_to(Some(cluster.node(1).address));
    page.becomes("return window.channel.state", &json!("open"))
        .await;
    heard_in(
        &page,
        &[
            "open",
            "before",
            "waiting",
            "open",
            "meanwhile",
            "from the page",
        ],
    )
    .await;
    page.becomes("return window.stored === window.channel.id", &json!(true))
        .await;
    client
        .expect(["before", "meanwhile", "from the page"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_by_somebody_in_front_of_the_server_is_final_until_told_otherwise() {
    let cluster = Cluster::embedded(&[]).await;
    let chromium = Chromium::start().await;
    let page = chromium
        .open(&format!("http://{}/", cluster.node(0).address))
        .await;
    // The server sends no such code: here the socket itself is told.
    page.run(
        "window.sockets = []; \
         class Noted extends WebSocket { constructor(...all) { super(...all); window.sockets.push(this); } } \
         import('/_/echocast.js').then(({ Channel }) => { \
             window.channel = new Channel('/final', { WebSocket: Noted }); \
             window.channel.addEventListener('closed', ({ code, reason }) => { window.final = [code, reason]; }); \
         })",
    )
    .await;
    page.becomes("return window.channel.state", &json!("open"))
        .await;
    page.run("window.sockets[0].dispatchEvent(new CloseEvent('close', { code: 4003, reason: 'go away' }))").await;
    page.becomes("return window.final", &json!([4003, "go away"]))
        .await;
    // Longer than the first wait can be.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(
        page.run("return [window.channel.state, window.sockets.length]")
            .await,
        json!(["closed", 1])
    );
    page.run("window.channel.reconnect()").await;
    page.becomes(
        "return [window.channel.state, window.sockets.length]",
        &json!(["open", 2]),
    )
    .await;
}

/// Subscribes in a page and keeps what is heard, and what became of the connection, in
/// `window.heard`.
async fn subscribe(page: &Page, path: &str) {
    let script = format!(
        "window.heard = []; \
         import('/_/echocast.js').then(({{ Channel }}) => {{ \
             window.channel = new Channel('{path}'); \
             for (const type of ['open', 'waiting', 'gap', 'message']) \
                 window.channel.addEventListener(type, (event) => window.heard.push(event.data ?? type)); \
         }})"
    );
    page.run(&script).await;
    heard_in(page, &["open"]).await;
}

/// Waits until a page has heard this; of several tries to connect in a row one counts.
async fn heard_in(page: &Page, wanted: &[&str]) {
    let script =
        "return window.heard.filter((word, at, all) => word !== 'waiting' || all[at - 1] !== word)";
    page.becomes(script, &json!(wanted)).await;
}
