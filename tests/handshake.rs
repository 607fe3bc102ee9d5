//! Who gets in, and what the others are told.

use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{RawClient, TestClient, handshake, http, http_get};
use crate::support::events::{EventStream, post};
use crate::support::node::TestNode;
use crate::support::{soon, until};

/// Status and the one line of a refused handshake.
async fn refused(node: &TestNode, path: &str, extra: &str) -> (u16, String) {
    refused_request(
        node,
        &handshake(node.address, path, &format!("{extra}Connection: close\r\n")),
    )
    .await
}

async fn refused_request(node: &TestNode, request: &str) -> (u16, String) {
    let mut client = RawClient::connect(node.address).await;
    client.send(request.as_bytes()).await;
    let head = client.read_head().await;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap()
        .parse()
        .unwrap();
    let mut body = vec![0; length];
    soon(
        "a body",
        tokio::io::AsyncReadExt::read_exact(&mut client.stream, &mut body),
    )
    .await
    .unwrap();
    let body = String::from_utf8(body).unwrap();
    assert_eq!(body.matches('\n').count(), 1, "one line: {body:?}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_is_answered_as_the_rfc_asks() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::connect(node.address).await;
    client
        .send(handshake(node.address, "/", "").as_bytes())
        .await;
    let head = client.read_head().await.to_ascii_lowercase();
    // The key and its answer are the example of RFC 6455, section 1.3.
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
        "{head}"
    );
    assert!(
        head.starts_with("http/1.1 101 ") && head.contains("upgrade: websocket\r\n"),
        "{head}"
    );
    assert!(
        !head.contains("sec-websocket-protocol") && !head.contains("sec-websocket-extensions"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_sent_together_with_the_handshake_are_heard() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::connect(node.address).await;
    let mut bytes = handshake(node.address, "/", "").into_bytes();
    bytes.extend(crate::support::client::masked(0x81, b"early"));
    client.send(&bytes).await;
    client.read_head().await;
    assert_eq!(client.read_frame().await, (0x81, b"early".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_offered_subprotocol_is_echoed() {
    let node = TestNode::start(&[]).await;
    let offered = [("sec-websocket-protocol", "chat.v9, superchat")];
    let client = TestClient::try_connect(&node.url("/"), &offered)
        .await
        .unwrap();
    assert_eq!(
        client.response.headers()["sec-websocket-protocol"],
        "chat.v9"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_handshake_is_refused_with_a_line_that_says_why() {
    let node = TestNode::start(&[]).await;
    let whole = handshake(node.address, "/", "");
    let without = |line: &str| {
        whole
            .lines()
            .filter(|l| !l.starts_with(line))
            .fold(String::new(), |a, l| a + l + "\r\n")
    };
    let cases = [
        (without("Sec-WebSocket-Key"), 400, "no Sec-WebSocket-Key"),
        (
            without("Sec-WebSocket-Version"),
            400,
            "no Sec-WebSocket-Version",
        ),
        (without("Connection"), 400, "Connection header"),
        (
            whole.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
            400,
            "16 bytes",
        ),
        (
            whole.replace("Version: 13", "Version: 8"),
            426,
            "version 13",
        ),
        (whole.replace("GET", "PUT"), 405, "GET"),
        (whole.replace("HTTP/1.1", "HTTP/1.0"), 400, "HTTP/1.1"),
    ];
    for (request, status, why) in cases {
        let answer = refused_request(&node, &request).await;
        assert!(
            answer.0 == status && answer.1.contains(why),
            "{request}\n{answer:?}"
        );
    }
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"malformed\"}")
            .await,
        5.0
    );
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"version\"}")
            .await,
        1.0
    );
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"method\"}")
            .await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_lost_its_upgrade_on_the_way_is_told_so() {
    let node = TestNode::start(&[]).await;
    let whole = handshake(node.address, "/", "Accept: text/html, */*\r\n");
    let stripped = whole.replace("Upgrade: websocket\r\n", "");
    for request in [
        stripped.clone(),
        stripped.replace("Connection: Upgrade", "Connection: close"),
        stripped
            .replace("Connection: Upgrade", "Connection: close")
            .replace("HTTP/1.1", "HTTP/1.0"),
        stripped.replace("Connection: Upgrade\r\n", ""),
        whole.replace("Upgrade: websocket", "Upgrade: h2c"),
        stripped.replace("text/html, */*", "text/event-stream"),
    ] {
        let (status, why) = refused_request(&node, &request).await;
        assert!(
            status == 426 && why.contains("Upgrade: websocket") && why.contains("proxy"),
            "{request}\n{why}"
        );
    }
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"no_upgrade\"}")
            .await,
        6.0
    );
}

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
async fn only_allowed_origins_may_connect_if_origins_are_named() {
    let open = TestNode::start(&[]).await;
    TestClient::try_connect(&open.url("/"), &[("origin", "https://anywhere.example")])
        .await
        .unwrap();
    let strict = TestNode::start(&[
        "--allow-origin",
        "https://ok.example:443, http://localhost:3000",
    ])
    .await;
    for origin in [
        "https://ok.example",
        "HTTPS://OK.example",
        "http://localhost:3000",
    ] {
        TestClient::try_connect(&strict.url("/"), &[("origin", origin)])
            .await
            .unwrap();
    }
    TestClient::connect(&strict.url("/")).await;
    for origin in [
        "https://evil.example",
        "http://ok.example",
        "https://ok.example:444",
        "null",
    ] {
        let answer = TestClient::try_connect(&strict.url("/"), &[("origin", origin)])
            .await
            .err()
            .unwrap();
        assert_eq!(answer.0, 403, "{origin}");
    }
    assert_eq!(
        strict
            .metric("echocast_handshakes_refused_total{reason=\"origin\"}")
            .await,
        4.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_clients_connect_than_allowed_and_places_are_given_back() {
    let node = TestNode::start(&["--max-connections", "2"]).await;
    assert_eq!(node.metric("echocast_connections_limit").await, 2.0);
    let url = node.url("/");
    let first = TestClient::connect(&url).await;
    let mut second = TestClient::connect(&url).await;
    let (status, why) = TestClient::try_connect(&url, &[]).await.err().unwrap();
    assert!(
        status == 429 && why.contains("too many connections"),
        "{status} {why}"
    );
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"too_many_connections\"}")
            .await,
        1.0
    );
    drop(first);
    until("a place is free", async || {
        node.metric("echocast_connections{transport=\"websocket\"}")
            .await
            == 1.0
    })
    .await;
    let mut third = TestClient::connect(&url).await;
    third.say("in").await;
    second.expect(["in"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_limited_one_by_one_and_seen_through_trusted_proxies() {
    let node = TestNode::start(&[
        "--address-connections",
        "1",
        "--trusted-proxy",
        "127.0.0.0/8,10.0.0.0/8",
    ])
    .await;
    let url = node.url("/");
    let by = async |forwarded: &str| {
        TestClient::try_connect(&url, &[("x-forwarded-for", forwarded)]).await
    };
    let _one = by("192.0.2.1").await.unwrap();
    let _two = by("192.0.2.2").await.unwrap();
    // The proxies' own hops are passed over, and what the client wrote itself is not believed.
    assert_eq!(by("192.0.2.1, 10.0.0.7").await.err().unwrap().0, 429);
    assert_eq!(by("198.51.100.9, 192.0.2.2").await.err().unwrap().0, 429);
    let _three = by("192.0.2.1, 192.0.2.3").await.unwrap();
    let with =
        async |headers: &[(&'static str, &str)]| TestClient::try_connect(&url, headers).await;
    // However a proxy writes it; where it says `Forwarded` only, that counts.
    let _four = by("\"[2001:db8:0:4::1]:4711\"").await.unwrap();
    for again in [
        "2001:db8:0:4::1",
        "[2001:db8:0:4::2]",
        "[2001:db8:0:4::1]:80, \"[::ffff:10.0.0.7]:80\"",
        "2001:db8:0:4::1,",
    ] {
        assert_eq!(by(again).await.err().unwrap().0, 429, "{again}");
    }
    for again in [
        &[
            ("x-forwarded-for", "192.0.2.9"),
            ("x-forwarded-for", "192.0.2.1"),
        ][..],
        &[
            ("forwarded", "for=192.0.2.9"),
            ("forwarded", "for=192.0.2.1;proto=https, For=10.0.0.7"),
        ],
        &[("forwarded", "for=\"192.0.2.9, for=\"[2001:db8:0:4::9]:80\"")],
        &[
            ("forwarded", "for=192.0.2.9"),
            ("x-forwarded-for", "192.0.2.1"),
        ],
    ] {
        assert_eq!(with(again).await.err().unwrap().0, 429, "{again:?}");
    }
    let _five = with(&[("forwarded", "for=192.0.2.1, for=192.0.2.5")])
        .await
        .unwrap();

    let direct = TestNode::start(&["--address-connections", "1"]).await;
    let _mine = TestClient::connect(&direct.url("/")).await;
    let forged = [("x-forwarded-for", "192.0.2.1")];
    assert_eq!(
        TestClient::try_connect(&direct.url("/"), &forged)
            .await
            .err()
            .unwrap()
            .0,
        429
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_handshake_and_silence_is_ended_and_costs_the_others_nothing() {
    let node = TestNode::start(&[]).await;
    let mut silent = RawClient::connect(node.address).await;
    silent.send(b"GET / HTTP/1.1\r\nHost: x\r\nUpgr").await;
    let mut other = TestClient::connect(&node.url("/")).await;
    other.say("fine").await;
    other.expect(["fine"]).await;
    silent.read_to_end().await;
    assert_eq!(
        node.metric("echocast_handshakes_refused_total{reason=\"timeout\"}")
            .await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_of_a_million_bytes_is_refused_early() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::connect(node.address).await;
    let request = handshake(
        node.address,
        "/",
        &format!("X-Big: {}\r\n", "x".repeat(1_000_000)),
    );
    // The server hangs up before it has all of it, so sending may fail.
    let (mut read, mut write) = client.stream.split();
    let sent = async {
        let _ = tokio::io::AsyncWriteExt::write_all(&mut write, request.as_bytes()).await;
    };
    let answer = async {
        let mut first = vec![0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut read, &mut first)
            .await
            .map(|_| first)
    };
    let (answer, ()) = soon("an answer", async { tokio::join!(answer, sent) }).await;
    assert_eq!(String::from_utf8(answer.unwrap()).unwrap(), "HTTP/1.1 431");
    until("it is counted", async || {
        node.metric("echocast_handshakes_refused_total{reason=\"no_http\"}")
            .await
            == 1.0
    })
    .await;
    TestClient::connect(&node.url("/")).await.say("fine").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_refused_and_the_node_goes_on() {
    let node = TestNode::start(&[]).await;
    for junk in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"HELO there\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut client = RawClient::connect(node.address).await;
        client.send(junk).await;
        let answer = client.read_to_end().await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    TestClient::connect(&node.url("/")).await.say("fine").await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_during_its_handshake_gives_its_place_back() {
    let node = TestNode::start(&[]).await;
    for _ in 0..20 {
        let mut client = RawClient::connect(node.address).await;
        client
            .send(handshake(node.address, "/", "").as_bytes())
            .await;
        drop(client);
    }
    until("all have gone", async || {
        node.metric("echocast_connections{transport=\"websocket\"}")
            .await
            == 0.0
    })
    .await;
    let mut client = TestClient::connect(&node.url("/")).await;
    client.send(Message::text("x")).await;
    client.expect(["x"]).await;
    assert!(client.hears_nothing_for(Duration::from_millis(1)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_with_a_body_is_refused_and_holds_nothing() {
    let node = TestNode::start(&[]).await;
    let mut client = RawClient::connect(node.address).await;
    let head = "GET /a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 1000000\r\n\r\n";
    client.send(head.as_bytes()).await;
    client.send(&vec![0; 300_000]).await;
    let answer = client.read_head().await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    drop(client);
    let connections = "echocast_connections{transport=\"http\"}";
    until("nothing is held", async || {
        node.metric(connections).await == 0.0
    })
    .await;
    assert_eq!(
        node.metric("echocast_connections{transport=\"websocket\"}")
            .await,
        0.0
    );
}
