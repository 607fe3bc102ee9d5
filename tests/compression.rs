//! permessage-deflate: what is deflated arrives as it was, on both sides, and what inflates to too
//! much is refused.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::support::client::{RawClient, TestClient, deflated, handshake, masked};
use crate::support::cluster::Cluster;
use crate::support::{on_both_brokers, until};

on_both_brokers!(
    messages_that_refer_to_earlier_ones_arrive_whole,
    a_message_is_deflated_for_whoever_understands_it_and_plain_for_others,
    the_largest_message_is_deflated_in_json_however_much_it_is_escaped,
);

const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// A client that offers this and is answered with that.
async fn offering(cluster: &Cluster, node: usize, offer: &str, answer: &str) -> RawClient {
    let address = cluster.node(node).address;
    let mut client = RawClient::connect(address).await;
    let extra = format!("Sec-WebSocket-Extensions: {offer}\r\n");
    client
        .send(handshake(address, "/a", &extra).as_bytes())
        .await;
    let head = client.read_head().await;
    assert!(
        head.contains(&format!("sec-websocket-extensions: {answer}\r\n")),
        "{head}"
    );
    client
}

async fn plain_offer(cluster: &Cluster) -> RawClient {
    let answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    offering(
        cluster,
        0,
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        answer,
    )
    .await
}

fn inflated(payload: &[u8], bits: u8) -> Vec<u8> {
    let mut output = Vec::with_capacity(1 << 20);
    let mut state = Decompress::new_with_window_bits(false, bits);
    state
        .decompress_vec(
            &[payload, &TAIL].concat(),
            &mut output,
            FlushDecompress::Sync,
        )
        .unwrap();
    output
}

async fn a_message_is_deflated_for_whoever_understands_it_and_plain_for_others(cluster: Cluster) {
    let mut full = plain_offer(&cluster).await;
    let mut least = offering(
        &cluster,
        1,
        "permessage-deflate; server_max_window_bits=10",
        "permessage-deflate; server_max_window_bits=9",
    )
    .await;
    let mut plain = cluster.client(1, "/a").await;
    let long = "the same words again, ".repeat(500);
    full.send(&masked(0xc1, &deflated(long.as_bytes()))).await;
    plain.expect([long.as_str()]).await;
    for (client, bits) in [(&mut full, 15), (&mut least, 9)] {
        let (first, payload) = client.read_frame().await;
        assert_eq!(first, 0xc1, "text, deflated");
        assert!(payload.len() < long.len() / 10);
        assert_eq!(inflated(&payload, bits), long.as_bytes());
    }
    // In two frames, of which only the first says that it is deflated.
    let whole = deflated(long.as_bytes());
    let (one, other) = whole.split_at(whole.len() / 2);
    full.send(&[masked(0x41, one), masked(0x80, other)].concat())
        .await;
    plain.expect([long.as_str()]).await;
    // Short ones are left alone, whoever says them.
    full.read_frame().await;
    plain.say("short").await;
    assert_eq!(full.read_frame().await, (0x81, b"short".to_vec()));
}

/// Offers, and the parameters that they are answered with: to a client that checks for parameters
/// which it did not offer, and to a browser.
const ANSWERS: [(&str, &str, &str); 8] = [
    (
        "permessage-deflate",
        "",
        "; server_no_context_takeover; client_no_context_takeover",
    ),
    // Chrome, ws, python's websockets, and Netty in front of two others.
    (
        "permessage-deflate; client_max_window_bits",
        "; client_max_window_bits=12",
        "; server_no_context_takeover; client_no_context_takeover",
    ),
    (
        "permessage-deflate; client_max_window_bits=10",
        "; client_max_window_bits=10",
        "; server_no_context_takeover; client_no_context_takeover",
    ),
    (
        "permessage-deflate; client_no_context_takeover",
        "; client_no_context_takeover",
        "; server_no_context_takeover; client_no_context_takeover",
    ),
    (
        "permessage-deflate; server_no_context_takeover",
        "; server_no_context_takeover",
        "; server_no_context_takeover; client_no_context_takeover",
    ),
    // Go's gorilla fails without both.
    (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "; server_no_context_takeover; client_no_context_takeover",
        "; server_no_context_takeover; client_no_context_takeover",
    ),
    (
        "permessage-deflate; server_max_window_bits=15",
        "; server_max_window_bits=15",
        "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
    ),
    (
        "other; a=\"permessage-deflate, b\", permessage-deflate; server_max_window_bits=12; \
         client_no_context_takeover; client_max_window_bits",
        "; client_no_context_takeover; server_max_window_bits=9",
        "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_is_answered_with_what_it_offers_and_a_browser_is_asked_for_more() {
    let cluster = Cluster::embedded(&[]).await;
    for (offer, strict, browser) in ANSWERS {
        for (extra, parameters) in [("", strict), (BROWSER, browser)] {
            let offer = format!("{offer}\r\n{extra}X-End: 1");
            let answer = format!("permessage-deflate{parameters}");
            offering(&cluster, 0, &offer, &answer).await;
        }
    }
}

const BROWSER: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n";

async fn messages_that_refer_to_earlier_ones_arrive_whole(cluster: Cluster) {
    // As Netty offers it, which fails a connection over a parameter that it did not offer.
    let offer = "permessage-deflate;client_max_window_bits,deflate-frame,x-webkit-deflate-frame";
    let answer = "permessage-deflate; client_max_window_bits=12";
    let mut client = offering(&cluster, 0, offer, answer).await;
    let mut reader = cluster.client(1, "/a").await;
    let held = || {
        cluster
            .node(0)
            .metric("echocast_memory_bytes{part=\"input\"}")
    };
    assert_eq!(held().await, 0.0, "nothing before it deflates a message");

    // Random, so that a message is short only if it refers to the one before.
    let text: String = (0..3000).map(|_| rand::random_range('a'..='z')).collect();
    let mut deflater = Compress::new_with_window_bits(Compression::best(), false, 12);
    for round in 0..4 {
        let mut payload = Vec::with_capacity(8192);
        deflater
            .compress_vec(text.as_bytes(), &mut payload, FlushCompress::Sync)
            .unwrap();
        payload.truncate(payload.len() - TAIL.len());
        assert_eq!(payload.len() < 100, round > 0, "{} bytes", payload.len());
        // The second half of them in two frames.
        if round < 2 {
            client.send(&masked(0xc1, &payload)).await;
        } else {
            let (one, other) = payload.split_at(payload.len() / 2);
            let frames = [masked(0x41, one), masked(0x80, other)].concat();
            client.send(&frames).await;
        }
        reader.expect([text.as_str()]).await;
        let (first, payload) = client.read_frame().await;
        assert_eq!(first, 0xc1, "text, deflated");
        assert_eq!(inflated(&payload, 15), text.as_bytes());
    }
    let most = 8.0 * 1024.0;
    assert!((4096.0..most).contains(&held().await), "its window");
    drop(client);
    until("its window is given back", async || held().await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_rest_give_their_windows_back_when_these_crowd_the_memory() {
    let cluster = Cluster::embedded(&["--memory", "16MiB", "--ping-interval", "1s"]).await;
    let node = cluster.node(0);
    let mut bystander = TestClient::connect(&node.url("/a")).await;
    let text: String = (0..40_000).map(|_| rand::random_range('a'..='z')).collect();
    let message = masked(0xc1, &deflated(text.as_bytes()));
    let mut clients = Vec::new();
    // A quarter of the memory is for input: 128 windows of 32 KiB.
    for number in 0..140 {
        let path = format!("/window/{number}");
        let mut client = RawClient::deflating(node.address, &path, "").await;
        client.send(&message).await;
        clients.push(client);
    }
    let mut closed = 0;
    while closed == 0 {
        for client in &mut clients {
            // They are pinged until then.
            let (first, payload) = client.read_frame().await;
            if first == 0x88 {
                assert_eq!(payload[..2], 1008_u16.to_be_bytes());
                assert!(payload.ends_with(b"is needed elsewhere"), "{payload:?}");
                closed += 1;
            }
        }
    }
    drop(clients);
    bystander.say("still here").await;
    bystander.expect(["still here"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_inflates_to_too_much_or_not_at_all_ends_the_connection_and_costs_nobody_else() {
    let cluster = Cluster::embedded(&[]).await;
    let mut bystander = TestClient::connect(&cluster.node(0).url("/a")).await;
    // 64 MiB of nothing in 64 KiB.
    let bomb = deflated(&vec![0; 64 << 20]);
    for (frame, code) in [
        (masked(0xc2, &bomb[..bomb.len().min(60_000)]), 1009),
        (
            masked(0xc1, b"this is no deflate stream, whatever it says"),
            1007,
        ),
        // Inflates to a byte that is no text.
        (masked(0xc1, &deflated(&[0xff; 300])), 1007),
        // A continuation cannot say that it is deflated, nor can a ping.
        (
            [masked(0x41, &deflated(b"x")), masked(0xc0, b"")].concat(),
            1002,
        ),
        (masked(0xc9, b"x"), 1002),
    ] {
        let mut client = plain_offer(&cluster).await;
        client.send(&frame).await;
        assert_eq!(client.close_code().await, code);
    }
    // Who has not asked for it may not use it.
    let mut client = RawClient::websocket(cluster.node(0).address, "/a").await;
    client.send(&masked(0xc1, &deflated(b"x"))).await;
    assert_eq!(client.close_code().await, 1002);
    bystander.say("still here").await;
    bystander.expect(["still here"]).await;
}

async fn the_largest_message_is_deflated_in_json_however_much_it_is_escaped(cluster: Cluster) {
    let extra =
        "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: echocast.v1\r\n";
    let address = cluster.node(0).address;
    let mut client = RawClient::connect(address).await;
    client
        .send(handshake(address, "/a", extra).as_bytes())
        .await;
    client.read_head().await;
    client.read_frame().await;
    let frame = format!(
        "{{\"data\":\"{}\",\"key\":\"{}\"}}",
        "\\u0001".repeat(65_536),
        "\\u0001".repeat(256)
    );
    let mut listener = cluster.client(1, "/a").await;
    client
        .send(&masked(0xc1, &deflated(frame.as_bytes())))
        .await;
    listener.expect(["\u{1}".repeat(65_536).as_str()]).await;
    let (first, payload) = client.read_frame().await;
    assert_eq!(first, 0xc1, "text, deflated");
    let said: serde_json::Value = serde_json::from_slice(&inflated(&payload, 15)).unwrap();
    assert_eq!(said["data"].as_str().unwrap().len(), 65_536);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_compression_takes_no_offer_of_it() {
    let cluster = Cluster::embedded(&["--deflate", "off"]).await;
    let address = cluster.node(0).address;
    let mut client = RawClient::connect(address).await;
    client
        .send(
            handshake(
                address,
                "/a",
                "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            )
            .as_bytes(),
        )
        .await;
    assert!(
        !client
            .read_head()
            .await
            .contains("sec-websocket-extensions")
    );
    client.send(&masked(0xc1, &deflated(b"hello"))).await;
    assert_eq!(client.close_code().await, 1002);
}
