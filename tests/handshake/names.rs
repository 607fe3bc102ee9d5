//! Names of channels in requests, and what kind of answer a request asks for.

use super::refused;
use crate::support::client::{RawClient, TestClient, http, http_get};
use crate::support::events::{EventStream, post};
use crate::support::node::TestNode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_asks_for_a_bad_name_gets_a_page_and_a_program_gets_a_line() {
    let node = TestNode::start(&[]).await;
    let browser = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    for (path, why, suggested) in [
        ("/my%20room", "&#39; &#39; is none of", Some("/my-room")),
        ("/%3Cb%3E%22x%22", "&#39;&lt;&#39; is none of", Some("/b-x")),
        ("/a//b/", "an empty segment", Some("/a/b")),
        ("/%ff", "it is not percent-encoded UTF-8", None),
    ] {
        for method in ["GET", "HEAD"] {
            let (status, head, body) = http(node.address, method, path, &browser).await;
            assert_eq!(status, 400, "{method} {path}");
            for header in [
                "content-type: text/html; charset=utf-8",
                "content-security-policy: default-src 'none'; ",
                "x-content-type-options: nosniff",
                "vary: accept, upgrade",
            ] {
                assert!(head.contains(header), "{method} {path}: {head}");
            }
            if method == "HEAD" {
                assert_eq!(body, "");
                continue;
            }
            assert!(body.contains(why), "{path}: {body}");
            let link =
                suggested.map(|name| format!("<a id=\"suggested\" href=\"{name}\">{name}</a>"));
            assert_eq!(
                body.contains("suggested"),
                link.as_ref().is_some_and(|link| body.contains(link)),
                "{path}: {body}"
            );
            assert_eq!(body.contains("suggested"), suggested.is_some(), "{path}");
            assert!(
                !body.contains("<b>") && !body.contains('{'),
                "{path}: {body}"
            );
        }
        for headers in [&[("Accept", "*/*")][..], &[]] {
            let (status, head, line) = http(node.address, "GET", path, headers).await;
            assert_eq!((status, line.lines().count()), (400, 1), "{path}: {line}");
            assert!(head.contains("content-type: text/plain"), "{head}");
        }
    }
    let rejected = "echocast_handshakes_refused_total{reason=\"bad_channel\"}";
    assert_eq!(node.metric(rejected).await, 16.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_channel_names_are_refused_with_400_and_counted() {
    let node = TestNode::start(&[]).await;
    let long = format!("/{}", "x".repeat(129));
    let names = [
        ("/a%20b", "' '"),
        ("/caf%C3%A9", "'\u{e9}'"),
        ("/a%2520b", "'%'"),
        ("/%00", "'\\0'"),
        ("/a%", "percent-encoded"),
        ("/a%zz", "percent-encoded"),
        ("/%ff", "percent-encoded"),
        (&long, "129 characters"),
        // A slash too many: with the right path.
        ("/a//b", "use /a/b\n"),
        ("/a/", "use /a\n"),
        ("/a%2F", "use /a\n"),
        ("/%2Fa", "use /a\n"),
        ("/ws/", "use /ws\n"),
        ("//", "use /\n"),
    ];
    for (path, why) in names {
        let (status, line) = refused(&node, path, "").await;
        assert!(
            status == 400 && line.contains(why),
            "{path}: {status} {line}"
        );
        let (status, _, page) = http(node.address, "GET", path, &[("Accept", "text/html")]).await;
        let why = why.trim_end().replace('\'', "&#39;");
        assert!(
            status == 400 && page.contains(&why),
            "{path}, as a browser: {status} {page}"
        );
    }
    let refused = 2.0 * names.len() as f64;
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"bad_channel\"}")
            .await,
        refused
    );
    let longest = format!("/{}", "x".repeat(128));
    TestClient::connect(&node.url(&longest))
        .await
        .say("fits")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_the_same_however_it_is_encoded() {
    let node = TestNode::start(&[]).await;
    for (path, same, name) in [
        ("/a/b", "/a%2Fb", "a/b"),
        ("/a/b", "/%61%2f%62", "a/b"),
        ("/a:b~c", "/a%3Ab%7Ec", "a:b~c"),
        ("/", "/%77%73", "lobby"),
        ("/lobby", "/ws?x=%2F", "lobby"),
    ] {
        let mut one = TestClient::connect(&node.url(path)).await;
        let mut other = TestClient::connect(&node.url(same)).await;
        let mut stream = EventStream::open(node.address, same, None).await;
        one.say("from one").await;
        other.expect(["from one"]).await;
        assert_eq!(post(node.address, same, &[], b"posted").await.0, 200);
        one.expect(["from one", "posted"]).await;
        while stream.next().await.unwrap().data != "posted" {}
        let (_, view) = http_get(node.address, same, &[("Accept", "application/json")]).await;
        assert!(
            view.contains(&format!("\"channel\":\"{name}\"")),
            "{same}: {view}"
        );
    }
    // The page's files are no channel under another spelling.
    for path in ["/_/app.js", "/_%2Fapp.js", "/%5F/app.js"] {
        assert!(
            http(node.address, "GET", path, &[])
                .await
                .1
                .contains("text/javascript"),
            "{path}"
        );
    }
    assert_eq!(post(node.address, "/_%2fnews", &[], b"x").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_answered_as_its_accept_headers_ask() {
    let node = TestNode::start(&[]).await;
    for (accept, kind) in [
        (&["TEXT/Event-Stream"][..], "text/event-stream"),
        (
            &["image/png", "text/event-stream;q=0.1"],
            "text/event-stream",
        ),
        (
            &[
                "application/json;q=0.9",
                "text/event-stream;q=0.8, text/html;q=0.2",
            ],
            "application/json",
        ),
        (&["Application/Json; charset=utf-8"], "application/json"),
        (
            &["text/event-stream;q=0, application/*"],
            "application/json",
        ),
        (&["text/html;q=0.5", "*/*;q=0.1"], "text/html"),
        (&[""], "text/html"),
        (&[], "text/html"),
    ] {
        let accept: String = accept
            .iter()
            .map(|line| format!("Accept: {line}\r\n"))
            .collect();
        for method in ["GET", "HEAD"] {
            let mut client = RawClient::connect(node.address).await;
            client
                .send(format!("{method} /a HTTP/1.1\r\nHost: x\r\n{accept}\r\n").as_bytes())
                .await;
            let head = client.read_head().await;
            assert!(
                head.starts_with("HTTP/1.1 200 ")
                    && head.contains(&format!("content-type: {kind}")),
                "{accept} {head}"
            );
        }
    }
    for accept in ["image/png", "text/event-stream;q=0", "*/*;q=0.0", "json"] {
        assert_eq!(
            http(node.address, "GET", "/a", &[("Accept", accept)])
                .await
                .0,
            406,
            "{accept}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_and_its_files_are_served_and_nothing_else_under_their_path() {
    let node = TestNode::start(&[]).await;
    for path in ["/", "/news", "/a/b"] {
        let (status, head, body) = http(
            node.address,
            "GET",
            path,
            &[("Accept", "text/html,*/*;q=0.8")],
        )
        .await;
        assert_eq!(status, 200, "{path}");
        assert!(
            head.contains("content-type: text/html")
                && head.contains("content-security-policy: default-src 'none'")
        );
        assert!(body.contains("/_/app.js") && body.contains("/_/style.css"));
    }
    assert!(
        http(node.address, "GET", "/_/app.js", &[])
            .await
            .1
            .contains("text/javascript")
    );
    assert!(
        http(node.address, "GET", "/_/style.css", &[])
            .await
            .1
            .contains("text/css")
    );
    assert_eq!(http(node.address, "GET", "/_/none", &[]).await.0, 404);
    assert_eq!(http(node.address, "GET", "/_/../x", &[]).await.0, 404);
    assert_eq!(http(node.address, "DELETE", "/", &[]).await.0, 405);
    assert_eq!(
        http(node.address, "GET", "/", &[("Accept", "image/png")])
            .await
            .0,
        406
    );
    for path in ["/metrics", "/livez", "/readyz"] {
        let (_, _, body) = http(node.address, "GET", path, &[]).await;
        assert!(
            body.starts_with("<!doctype html>"),
            "{path} is a channel like any other on the public port"
        );
    }
}
