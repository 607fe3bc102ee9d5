//! Redis forgets what it has acknowledged and nobody has heard, as a replica that takes over does:
//! only who said it knows, and tells when it says more. Publishers publish by requests here, so
//! that their nodes hear nothing either.

use serde_json::{Value, json};

use super::stage::{LOST, RECONNECTS};
use crate::support::events::publish;
use crate::support::network::Network;
use crate::support::node::TestNode;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::v1::V1Client;

/// Redis that can go back to what it was when it was told to save.
const FORGETFUL: &[&str] = &[
    "redis-server",
    "--appendonly",
    "no",
    "--save",
    "",
    "--enable-debug-command",
    "yes",
];

/// Two nodes on which things are said, and one that listens, whose network can fail.
struct Scene {
    // Nodes end before their Redis.
    speakers: [TestNode; 2],
    ears: TestNode,
    listener: V1Client,
    network: Network,
    redis: Redis,
}

impl Scene {
    async fn start(flags: &[&str]) -> Self {
        let redis = Redis::start_with(FORGETFUL).await;
        let network = Network::start(redis.address()).await;
        let start =
            async |url: String| TestNode::start(&[&["--redis-url", &url], flags].concat()).await;
        let speakers = [start(redis.url()).await, start(redis.url()).await];
        let ears = start(format!("redis://{}", network.address)).await;
        let listener = V1Client::connect(&ears.url("/a")).await;
        Self {
            speakers,
            ears,
            listener,
            network,
            redis,
        }
    }

    async fn say(&self, speaker: usize, text: &str) -> String {
        publish(self.speakers[speaker].address, "/a", text).await
    }

    async fn say_and_hear(&mut self, speaker: usize, text: &str) -> String {
        let id = self.say(speaker, text).await;
        assert_eq!(self.listener.expect([text]).await, id);
        id
    }

    /// The first speaker says this while the listener's node hears nothing, and Redis `forgets` it.
    async fn lose(&self, texts: &[&str], forgets: &[&str]) {
        let before = self.ears.metric(RECONNECTS).await;
        self.network.lose_path();
        self.network.still();
        for text in texts {
            self.say(0, text).await;
        }
        self.redis.tell(forgets).await;
        self.network.reset();
        self.network.calm();
        until("the listener's node is back", async || {
            self.ears.metric(RECONNECTS).await > before
        })
        .await;
    }

    async fn hears_a_gap(&mut self, missed: impl Into<Value>) {
        assert_eq!(
            self.listener.next().await,
            json!({ "event": "gap", "missed": missed.into() })
        );
    }
}

const RELOAD: &[&str] = &["DEBUG", "RELOAD", "NOSAVE"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_its_publisher_knows_is_told_to_the_last_message_when_it_says_more() {
    let mut scene = Scene::start(&[]).await;
    let first = scene.say_and_hear(0, "first").await;
    scene.redis.tell(&["SAVE"]).await;
    scene.lose(&["lost", "lost, too"], RELOAD).await;
    scene.say(0, "more").await;
    scene.hears_a_gap(2).await;
    scene.listener.expect(["more"]).await;
    assert_eq!(scene.ears.metric(LOST).await, 2.0);
    // Once: from here on all is as before, also for who was away.
    scene.say_and_hear(1, "others").await;
    scene.say_and_hear(0, "and more").await;
    let mut back = V1Client::connect(&scene.ears.url(&format!("/a?since={first}"))).await;
    assert_eq!(back.welcome["recovered"], false);
    assert_eq!(back.next().await, json!({ "event": "gap", "missed": 2 }));
    back.expect(["more", "others", "and more"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_redis_has_forgotten_altogether_is_believed() {
    let mut scene = Scene::start(&[]).await;
    scene.say_and_hear(1, "others").await;
    scene.redis.tell(&["SAVE"]).await;
    scene.lose(&["lost"], RELOAD).await;
    scene.say(0, "more").await;
    scene.hears_a_gap(1).await;
    scene.listener.expect(["more"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_others_got_the_ids_of_what_was_lost_the_history_begins_anew() {
    for known in [true, false] {
        let mut scene = Scene::start(&[]).await;
        let first = scene.say_and_hear(usize::from(!known), "first").await;
        scene.redis.tell(&["SAVE"]).await;
        scene.lose(&["lost"], RELOAD).await;
        for text in ["others", "do not", "know"] {
            scene.say_and_hear(1, text).await;
        }
        scene.say(0, "more").await;
        scene.hears_a_gap(Value::Null).await;
        if known {
            // It is the second message of a node whose first was heard.
            scene.hears_a_gap(1).await;
        }
        scene.listener.expect(["more"]).await;
        scene.say_and_hear(1, "others again").await;
        scene.say_and_hear(0, "and more").await;
        let mut back =
            V1Client::connect(&scene.speakers[1].url(&format!("/a?since={first}"))).await;
        assert_eq!(back.welcome["recovered"], false);
        assert_eq!(back.next().await, json!({ "event": "gap", "missed": null }));
        back.expect(["more", "others again", "and more"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lost_before_anything_was_heard_is_told() {
    let mut scene = Scene::start(&[]).await;
    scene.lose(&["lost"], &["FLUSHALL"]).await;
    scene.say(0, "more").await;
    scene.hears_a_gap(Value::Null).await;
    scene.listener.expect(["more"]).await;
}

/// A client that heard what Redis forgot lets everybody go on behind that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_everybody_has_heard_is_no_loss_whoever_goes_on() {
    let mut scene = Scene::start(&[]).await;
    let mut other = V1Client::connect(&scene.speakers[1].url("/a")).await;
    scene.say_and_hear(0, "first").await;
    scene.redis.tell(&["SAVE"]).await;
    scene.say_and_hear(0, "second").await;
    let second = scene.say_and_hear(0, "third").await;
    other.expect(["first", "second", "third"]).await;
    scene.redis.tell(RELOAD).await;
    for (speaker, text) in [(1, "fourth"), (0, "fifth"), (1, "sixth")] {
        scene.say_and_hear(speaker, text).await;
        other.expect([text]).await;
    }
    assert_eq!(scene.ears.metric(LOST).await, 0.0);
    let mut back = V1Client::connect(&scene.ears.url(&format!("/a?since={second}"))).await;
    back.expect(["fourth", "fifth", "sixth"]).await;
}

/// Of many nodes Redis forgets those that have said nothing for as long as history lives: that is
/// no loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_redis_does_not_remember_any_more_begins_nothing_anew() {
    let mut scene = Scene::start(&["--history-ttl", "2s"]).await;
    scene.say_and_hear(0, "first").await;
    let mut crowd = redis::cmd("HSET");
    crowd.arg("echocast:{a}:meta");
    for node in 0..300 {
        crowd
            .arg(format!("n:{node:016x}"))
            .arg(format!("{:020} 1500000000 1", 1));
    }
    let mut connection = scene.redis.connect().await;
    crowd.exec_async(&mut connection).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    scene.say_and_hear(1, "others").await;
    let left: u64 = redis::cmd("HLEN")
        .arg("echocast:{a}:meta")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(left < 10, "{left} fields");
    scene.say_and_hear(0, "more").await;
}
