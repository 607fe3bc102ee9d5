//! Old and new nodes side by side in one cluster: this build next to nodes of other versions, which
//! are played by an envelope, and a way to keep it in Redis, that know less or more than ours.
//! Theirs is heard here, and ours by them.

use bytes::Bytes;
use futures_util::future::join_all;
use prost::Message;

use crate::support::cluster::Cluster;
use crate::support::node::TestNode;
use crate::support::redis::Redis;
use crate::support::v1::V1Client;

/// The envelope as it was before messages had keys, senders and traces.
mod past {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Envelope {
        #[prost(fixed64, tag = "1")]
        pub epoch: u64,
        #[prost(fixed64, tag = "2")]
        pub offset: u64,
        #[prost(fixed64, tag = "3")]
        pub node: u64,
        #[prost(uint64, tag = "4")]
        pub number: u64,
        #[prost(fixed64, tag = "5")]
        pub published_ns: u64,
        #[prost(message, repeated, tag = "7")]
        pub messages: Vec<Said>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Said {
        #[prost(bool, tag = "1")]
        pub binary: bool,
        #[prost(bytes = "vec", tag = "2")]
        pub payload: Vec<u8>,
    }
}

/// The envelope with fields that no version has, of every wire type.
mod future {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Envelope {
        #[prost(message, required, tag = "1001")]
        pub signature: Signature,
        #[prost(fixed64, tag = "1")]
        pub epoch: u64,
        #[prost(fixed64, tag = "2")]
        pub offset: u64,
        #[prost(fixed64, tag = "3")]
        pub node: u64,
        #[prost(uint64, tag = "4")]
        pub number: u64,
        #[prost(fixed64, tag = "5")]
        pub published_ns: u64,
        #[prost(string, tag = "6")]
        pub traceparent: String,
        #[prost(message, repeated, tag = "7")]
        pub messages: Vec<Said>,
        #[prost(string, tag = "101")]
        pub region: String,
        #[prost(fixed32, repeated, tag = "102")]
        pub shards: Vec<u32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Said {
        #[prost(bool, tag = "1")]
        pub binary: bool,
        #[prost(bytes = "vec", tag = "2")]
        pub payload: Vec<u8>,
        #[prost(string, tag = "3")]
        pub key: String,
        #[prost(uint32, tag = "4")]
        pub sender: u32,
        #[prost(sint64, tag = "5")]
        pub priority: i64,
        #[prost(map = "string, string", tag = "6")]
        pub headers: std::collections::HashMap<String, String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Signature {
        #[prost(double, tag = "1")]
        pub made_at: f64,
        #[prost(bytes = "vec", tag = "2")]
        pub bytes: Vec<u8>,
    }
}

/// What every version has: the batch gets the next offset, is kept, and published. ARGV: epoch to
/// begin, node, what is remembered of it, batch without epoch and offset, messages.
const PUBLISH: &str = "
local epoch = redis.call('HGET', KEYS[1], 'epoch') or ARGV[1]
redis.call('HSET', KEYS[1], 'epoch', epoch, 'n:' .. ARGV[2], ARGV[3])
local last = redis.call('HINCRBY', KEYS[1], 'offset', ARGV[5])
local payload = '\\236\\1\\9' .. epoch .. '\\17' .. struct.pack('<I8', last - ARGV[5] + 1) .. ARGV[4]
redis.call('XADD', KEYS[2], last .. '-0', 'b', payload)
redis.call('PUBLISH', KEYS[3], payload)";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    Past,
    Future,
}

/// A node of another version, on channel `news`.
struct Peer<'a> {
    version: Version,
    redis: &'a Redis,
    history: bool,
    number: u64,
}

impl Peer<'_> {
    fn node(&self) -> u64 {
        if self.version == Version::Past {
            0xA
        } else {
            0xB
        }
    }

    /// Publishes a text and a binary message as one batch.
    async fn say(&mut self, text: &str) {
        let (node, number, published_ns) =
            (self.node(), self.number + 1, echocast::message::now_ns());
        self.number += 2;
        let payloads = [(false, text.as_bytes().to_vec()), (true, vec![0xff, 0])];
        let body = match self.version {
            Version::Past => {
                let messages = payloads
                    .map(|(binary, payload)| past::Said { binary, payload })
                    .into();
                past::Envelope {
                    node,
                    number,
                    published_ns,
                    messages,
                    ..Default::default()
                }
                .encode_to_vec()
            }
            Version::Future => {
                let headers = [("content-language".to_owned(), "el".to_owned())];
                let said = |(binary, payload)| future::Said {
                    binary,
                    payload,
                    priority: -3,
                    headers: headers.clone().into(),
                    ..Default::default()
                };
                let signature = future::Signature {
                    made_at: 0.5,
                    bytes: vec![0xec, 1],
                };
                let (region, shards) = ("eu".to_owned(), vec![1, 2]);
                let messages = payloads.map(said).into();
                future::Envelope {
                    signature,
                    node,
                    number,
                    published_ns,
                    messages,
                    region,
                    shards,
                    ..Default::default()
                }
                .encode_to_vec()
            }
        };
        let mut connection = self.redis.connect().await;
        if !self.history {
            let payload = [&[0xec, 1], body.as_slice()].concat();
            return redis::cmd("PUBLISH")
                .arg("echocast:{news}")
                .arg(payload)
                .exec_async(&mut connection)
                .await
                .unwrap();
        }
        let remembered = match self.version {
            Version::Past => format!("{:020} 1700000000", self.number),
            Version::Future => format!("{:020} 1700000000 {} more=1", self.number, self.number),
        };
        let mut script = redis::cmd("EVAL");
        script.arg(PUBLISH).arg(3);
        script
            .arg("echocast:{news}:meta")
            .arg("echocast:{news}:history")
            .arg("echocast:{news}");
        script
            .arg(&7u64.to_le_bytes()[..])
            .arg(format!("{node:016x}"))
            .arg(remembered)
            .arg(body)
            .arg(2);
        script.exec_async(&mut connection).await.unwrap();
    }

    /// What it reads of a payload of ours: offset and texts.
    fn read(&self, payload: &[u8]) -> (u64, Vec<String>) {
        assert_eq!(payload[..2], [0xec, 1]);
        let text = |payload: Vec<u8>| String::from_utf8(payload).unwrap();
        match self.version {
            Version::Past => {
                let envelope = past::Envelope::decode(&payload[2..]).unwrap();
                (
                    envelope.offset,
                    envelope
                        .messages
                        .into_iter()
                        .map(|said| text(said.payload))
                        .collect(),
                )
            }
            Version::Future => {
                let envelope = future::Envelope::decode(&payload[2..]).unwrap();
                assert_eq!(envelope.region, "");
                (
                    envelope.offset,
                    envelope
                        .messages
                        .into_iter()
                        .map(|said| text(said.payload))
                        .collect(),
                )
            }
        }
    }
}

async fn both_directions(history: bool) {
    let cluster = Cluster::redis(2, &["--history", if history { "1000" } else { "0" }]).await;
    let redis = cluster.redis.as_ref().unwrap();
    let mut peers = [Version::Past, Version::Future].map(|version| Peer {
        version,
        redis,
        history,
        number: 0,
    });
    let mut heard = redis.subscribe("echocast:{news}").await;
    let mut clients = [
        cluster.client(0, "/news").await,
        cluster.client(1, "/news").await,
    ];
    let mut said = 0;
    for round in 0..3 {
        for peer in &mut peers {
            let text = format!("{:?} {round}", peer.version);
            peer.say(&text).await;
            said += 2;
            for client in &mut clients {
                client.expect([text.as_str()]).await;
                assert_eq!(
                    client.next().await.into_data(),
                    Bytes::from_static(&[0xff, 0])
                );
            }
            heard.next().await;
        }
        let text = format!("ours {round}");
        clients[round % 2].say(&text).await;
        said += 1;
        for client in &mut clients {
            client.expect([text.as_str()]).await;
        }
        let payload = heard.next().await;
        for peer in &peers {
            assert_eq!(
                peer.read(&payload),
                (if history { said } else { 0 }, vec![text.clone()]),
                "{:?}",
                peer.version
            );
        }
    }
    for cause in ["broker", "malformed"] {
        assert_eq!(
            cluster
                .metric(&format!(
                    "echocast_messages_lost_total{{cause=\"{cause}\"}}"
                ))
                .await,
            0.0
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_other_versions_are_heard_and_hear() {
    both_directions(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_other_versions_are_heard_and_hear_over_plain_pubsub() {
    both_directions(false).await;
}

/// A rollout or a rollback: what one version kept, the other one's clients get.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_other_versions_have_written_is_gone_on_with() {
    for version in [Version::Past, Version::Future] {
        let cluster = Cluster::redis(1, &[]).await;
        let redis = cluster.redis.as_ref().unwrap();
        let mut peer = Peer {
            version,
            redis,
            history: true,
            number: 0,
        };
        peer.say("kept").await;
        // What hundreds of its nodes said long ago is remembered, too, and cleared out by ours.
        let mut connection = redis.connect().await;
        let mut meta = redis::cmd("HSET");
        meta.arg("echocast:{news}:meta");
        let of_number = if version == Version::Past {
            ""
        } else {
            " 1 more=1"
        };
        for node in 0..300 {
            meta.arg(format!("n:{node:016x}"))
                .arg(format!("{:020} 1500000000{of_number}", 1));
        }
        meta.exec_async(&mut connection).await.unwrap();
        let mut client = cluster.client(0, "/news?since=0000000000000007-1").await;
        assert_eq!(
            client.next().await.into_data(),
            Bytes::from_static(&[0xff, 0]),
            "{version:?}"
        );
        client.say("gone on").await;
        client.expect(["gone on"]).await;
        let left: u64 = redis::cmd("HLEN")
            .arg("echocast:{news}:meta")
            .query_async(&mut connection)
            .await
            .unwrap();
        assert!(left < 10, "{version:?}: {left} fields");
        let mut late = cluster.client(0, "/news?last=3").await;
        late.expect(["kept"]).await;
        late.next().await;
        late.expect(["gone on"]).await;
    }
}

/// A rollout that changes `--history`: nodes that keep one beside those that do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_and_without_history_hear_each_other_in_one_order() {
    const EACH: usize = 100;
    let mut cluster = Cluster::over(Redis::start().await, 0, &[]).await;
    let url = cluster.redis.as_ref().unwrap().url();
    for history in ["1000", "0", "1000"] {
        cluster
            .nodes
            .push(TestNode::start(&["--redis-url", &url, "--history", history]).await);
    }
    // More than one batch before anything was heard, on either side.
    let mut early = cluster.client(1, "/news").await;
    for text in ["a", "b"] {
        early.say(text).await;
        early.expect([text]).await;
    }
    let mut with_ids = V1Client::connect(&cluster.node(0).url("/news")).await;
    let mut clients = Vec::new();
    for node in 0..cluster.nodes.len() {
        clients.push(cluster.client(node, "/news").await);
    }
    let heard = join_all(clients.iter_mut().enumerate().map(async |(node, client)| {
        let mut heard = Vec::new();
        for number in 0..EACH {
            client.say(&format!("{node} {number}")).await;
            heard.push(client.hear().await);
        }
        while heard.len() < 3 * EACH {
            heard.push(client.hear().await);
        }
        heard
    }))
    .await;
    assert!(
        heard.iter().all(|one| *one == heard[0]),
        "the same order everywhere"
    );
    let mut ids = Vec::new();
    for text in &heard[0] {
        let message = with_ids.next().await;
        assert_eq!(
            message["data"], **text,
            "nothing else, and no gap: {message}"
        );
        assert_eq!(message["id"].is_null(), text.starts_with('1'), "{message}");
        ids.extend(message["id"].as_str().map(str::to_owned));
    }
    assert_eq!(ids.len(), 2 * EACH);
    // Of the history, on a node that has not heard the channel so far: what it holds, whole.
    let cold = TestNode::start(&["--redis-url", &url]).await;
    let mut resumed = V1Client::connect(&cold.url(&format!("/news?since={}", ids[0]))).await;
    let kept: Vec<&str> = heard[0]
        .iter()
        .map(String::as_str)
        .filter(|text| !text.starts_with('1'))
        .skip(1)
        .collect();
    resumed.expect(kept).await;
    assert_eq!(
        cluster
            .metric("echocast_messages_lost_total{cause=\"broker\"}")
            .await,
        0.0
    );
    assert_eq!(
        cluster.metric("echocast_broker_reconnects_total").await,
        0.0
    );
}
