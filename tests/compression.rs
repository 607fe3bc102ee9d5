//! permessage-deflate: what is deflated arrives as it was, on both sides, and what inflates to too
//! much is refused.

use flate2::{Decompress, FlushDecompress};

use crate::support::client::{RawClient, TestClient, deflated, handshake, masked};
use crate::support::cluster::Cluster;
use crate::support::on_both_brokers;

on_both_brokers!(
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
        "permessage-deflate; client_max_window_bits",
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
    let answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9";
    let mut least = offering(
        &cluster,
        1,
        "permessage-deflate; server_max_window_bits=10",
        answer,
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
