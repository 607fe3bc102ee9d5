//! The page on small screens, in the dark, and under its policy.

use serde_json::json;

use super::{HELLO, page_of};
use crate::support::browser::Chromium;
use crate::support::client::{TestClient, http};
use crate::support::node::TestNode;
use crate::support::until;

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
