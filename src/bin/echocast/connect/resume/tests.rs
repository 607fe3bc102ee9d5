//! A connection that ends and is resumed.

use serde_json::{Value, json};

use super::*;

/// A client, and the frames it has sent since the last look at them.
struct Client {
    resume: Resume,
    queue: VecDeque<Message>,
}

impl Client {
    fn new(has_echo: bool) -> Self {
        Self {
            resume: Resume::new(has_echo, 7),
            queue: VecDeque::new(),
        }
    }

    fn connect(&mut self, welcome: &str) -> Vec<String> {
        self.queue.clear();
        let mut events = in_short(self.resume.opened(true, &mut self.queue));
        assert!(self.queue.is_empty(), "nothing is sent before the welcome");
        events.extend(self.receive(&format!(
            r#"{{"event":"welcome","id":{welcome},"recovered":true}}"#
        )));
        events
    }

    fn send(&mut self, text: &str) {
        self.resume.send(Message::text(text), &mut self.queue);
    }

    fn receive(&mut self, frame: &str) -> Vec<String> {
        in_short(self.resume.receive(Message::text(frame), &mut self.queue))
    }

    /// A message whose text is its id.
    fn receive_id(&mut self, id: &str) -> Vec<String> {
        self.receive(&format!(r#"{{"id":"{id}","data":"{id}"}}"#))
    }

    fn sent(&mut self) -> Vec<Value> {
        let sent = self
            .queue
            .drain(..)
            .map(|frame| frame.into_text().expect("frames are text"));
        sent.map(|text| serde_json::from_str(&text).unwrap_or_else(|_| json!(text.as_str())))
            .collect()
    }

    fn since(&self) -> Option<String> {
        self.resume.since().map(Id::to_string)
    }
}

fn in_short(events: Vec<Event>) -> Vec<String> {
    let short = |event| match event {
        Event::Received(message) => message.into_text().expect("texts only").to_string(),
        event => event.notice().unwrap_or_else(|| format!("{event:?}")),
    };
    events.into_iter().map(short).collect()
}

fn frame(text: &str, number: u64) -> Value {
    json!({"data": text, "key": format!("{:032x}-{number}", 7), "ref": number.to_string()})
}

#[test]
fn it_resumes_after_the_newest_message_received_or_named_by_the_welcome() {
    let mut client = Client::new(true);
    assert_eq!(client.since(), None);
    client.connect(r#""e-3""#);
    assert_eq!(client.since().as_deref(), Some("e-3"));
    assert_eq!(client.receive_id("e-4"), ["e-4"]);
    // A message from outside of the service has no id and no position.
    assert_eq!(client.receive(r#"{"data":"x"}"#), ["x"]);
    client.resume.ended();
    // The messages up to the one that the welcome names are still to come.
    client.connect(r#""e-9""#);
    assert_eq!(client.since().as_deref(), Some("e-4"));
}

#[test]
fn repetitions_are_dropped_and_a_new_epoch_is_none() {
    let mut client = Client::new(true);
    client.connect(r#""e-3""#);
    for (id, heard) in [
        ("e-4", 1),
        ("e-4", 0),
        ("e-7", 1),
        ("e-5", 0),
        ("f-1", 1),
        ("f-1", 0),
        ("e-8", 1),
    ] {
        assert_eq!(client.receive_id(id).len(), heard, "{id}");
    }
}

#[test]
fn a_replay_that_was_asked_for_is_no_repetition() {
    let mut client = Client::new(true);
    client.connect(r#""e-3""#);
    client.resume.ended();
    client.resume.forget_position();
    assert_eq!(client.since(), None);
    // Messages before the id of the welcome are the replay.
    assert_eq!(client.connect(r#""e-3""#), [""; 0]);
    assert_eq!(
        (client.receive_id("e-2"), client.receive_id("e-3")),
        (vec!["e-2".into()], vec!["e-3".into()])
    );
}

#[test]
fn messages_without_an_acknowledgement_are_sent_again_with_their_keys() {
    let mut client = Client::new(true);
    client.send("a");
    client.connect(r#""0-0""#);
    client.send("b");
    assert_eq!(client.sent(), [frame("a", 1), frame("b", 2)]);
    assert_eq!(
        client.receive(r#"{"ack":"1","id":"e-1"}"#),
        ["Acknowledged"]
    );
    client.resume.ended();
    client.send("c");
    assert_eq!(client.resume.unacknowledged(), 2);
    client.connect(r#""e-1""#);
    assert_eq!(client.sent(), [frame("b", 2), frame("c", 3)]);
    client.receive(r#"{"ack":"3","id":"e-3"}"#);
    client.receive(r#"{"ack":"2","id":"e-2"}"#);
    assert_eq!(client.resume.unacknowledged(), 0);
}

#[test]
fn without_a_history_nothing_is_sent_twice_and_possible_losses_are_reported() {
    let mut client = Client::new(true);
    client.connect("null");
    client.send("a");
    client.resume.ended();
    client.send("b");
    let notices = client.connect("null");
    assert_eq!(notices[0], "some messages may be missing here");
    assert!(
        notices[1].starts_with("perhaps not published: \"a\": ") && notices.len() == 2,
        "{notices:?}"
    );
    assert_eq!(client.sent(), [frame("b", 2)]);
}

#[test]
fn a_rejected_message_is_reported_and_not_sent_again() {
    let mut client = Client::new(true);
    client.connect("null");
    client.send("a");
    assert_eq!(
        client.receive(r#"{"error":"no","ref":"1"}"#),
        [r#"not published: "a": no"#]
    );
    assert_eq!(
        client.receive(r#"{"error":"what?","ref":null}"#),
        ["not published: what?"]
    );
    assert_eq!(client.resume.unacknowledged(), 0);
    // Too big for the server, which closes. The others are sent again.
    client.send("small");
    client.send("much bigger");
    assert_eq!(
        in_short(client.resume.closed(1012).into_iter().collect()),
        [""; 0]
    );
    assert_eq!(
        in_short(client.resume.closed(1009).into_iter().collect())[0],
        r#"not published: "much bigger": too big for this server"#
    );
    assert_eq!(client.resume.unacknowledged(), 1);
}

#[test]
fn own_messages_that_are_left_out_are_not_asked_for_later() {
    let mut client = Client::new(false);
    client.connect(r#""0-0""#);
    for text in ["a", "b", "c"] {
        client.send(text);
    }
    client.receive(r#"{"ack":"1","id":"e-1"}"#);
    assert_eq!(client.since().as_deref(), Some("e-1"));
    // A message of another client is missing: it must be asked for if the connection is lost.
    client.receive(r#"{"ack":"2","id":"e-3"}"#);
    assert_eq!(client.since().as_deref(), Some("e-1"));
    assert_eq!(client.receive_id("e-2"), ["e-2"]);
    assert_eq!(client.since().as_deref(), Some("e-3"));
    // A replay contains it, and it is dropped.
    client.receive(r#"{"ack":"3","id":"e-5"}"#);
    assert_eq!(
        (
            client.receive_id("e-4").len(),
            client.receive_id("e-5").len(),
            client.receive_id("e-6").len()
        ),
        (1, 0, 1)
    );
}

#[test]
fn the_server_decides_when_to_reconnect() {
    let mut client = Client::new(true);
    client.connect("null");
    client.receive(r#"{"event":"drain","retry_ms":1830}"#);
    assert_eq!(client.resume.ended(), Some(Duration::from_millis(1830)));
    client.receive(r#"{"event":"drain","retry_ms":18446744073709551615}"#);
    assert_eq!(
        (client.resume.ended(), client.resume.ended()),
        (Some(LONGEST_RETRY), None)
    );
}

#[test]
fn with_other_servers_everything_is_passed_on_as_it_is() {
    let mut client = Client::new(true);
    client.send("early");
    client.resume.opened(false, &mut client.queue);
    client.send("now");
    assert_eq!(client.sent(), ["early", "now"]);
    let frame = r#"{"event":"gap","missed":3}"#;
    assert_eq!(client.receive(frame), [frame]);
    assert_eq!(
        (
            client.resume.unacknowledged(),
            client.resume.resumes(),
            client.since()
        ),
        (0, false, None)
    );
}
