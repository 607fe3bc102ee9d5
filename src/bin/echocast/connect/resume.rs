//! What outlives a connection: up to where the channel was heard, and what was said and is
//! `unacknowledged`. With it the next connection goes on without loss or repetition, if the server
//! speaks `echocast.v1`; with others everything is passed on as it is, and nothing is known. Pure:
//! frames in, frames and events out.

use std::collections::VecDeque;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use super::event::Event;
use super::unacknowledged::Unacknowledged;
use super::v1::{self, Frame, Id};

/// Own messages that are remembered behind a gap.
const REMEMBERED: usize = 1024;
/// A server may ask for no longer wait than this.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// The close code for a message that is too big.
const TOO_BIG: u16 = 1009;
const MAYBE: &str = "the connection was lost and this server cannot tell: it may not have arrived";

#[derive(Debug)]
pub(crate) struct Resume {
    state: State,
    /// Whether the server sends our own messages back.
    hears_itself: bool,
    /// Messages after this one are still to be heard. `None` until something is known, or where the
    /// server keeps nothing.
    newest: Option<Id>,
    /// Whether `newest` was heard. If it is from a welcome, older ones may follow that were asked
    /// for.
    heard: bool,
    /// Our own acknowledged messages behind `newest`, where they are not heard: a later connection
    /// would be sent them.
    own: VecDeque<Id>,
    /// Whether there was a connection before whose messages this one goes on from.
    begun: bool,
    said: Unacknowledged,
    /// How long the server wants us to stay away.
    retry: Option<Duration>,
}

#[derive(Debug, PartialEq)]
enum State {
    /// No connection, or one whose welcome is still to come: what is said is kept.
    Waiting,
    /// A server of ours, which acknowledges.
    Open,
    /// Any server: one message, one frame.
    Raw,
}

impl Resume {
    /// `run` is random: a number that no other client has.
    pub(crate) fn new(hears_itself: bool, run: u128) -> Self {
        Self {
            state: State::Waiting,
            hears_itself,
            newest: None,
            heard: false,
            own: VecDeque::new(),
            begun: false,
            said: Unacknowledged::new(run),
            retry: None,
        }
    }

    /// After which message the next connection is to begin.
    pub(crate) fn since(&self) -> Option<&Id> {
        self.newest.as_ref()
    }

    /// The next connection begins anew: what it is sent may have been heard before.
    pub(crate) fn forget_place(&mut self) {
        self.newest = None;
        self.heard = false;
        self.own.clear();
        self.begun = false;
    }

    pub(crate) fn unacknowledged(&self) -> usize {
        self.said.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.said.has_room()
    }

    /// Whether a lost connection loses nothing.
    pub(crate) fn resumes(&self) -> bool {
        self.state != State::Raw
    }

    /// A connection is open.
    pub(crate) fn opened(&mut self, v1: bool, outbox: &mut VecDeque<Message>) -> Vec<Event> {
        if v1 {
            self.state = State::Waiting;
            return Vec::new();
        }
        self.state = State::Raw;
        let missing = self.begun.then_some(Event::Missing(None));
        self.forget_place();
        let events = missing.into_iter().chain(self.give_up_sent()).collect();
        outbox.extend(self.said.take_all());
        events
    }

    /// The connection is gone; returns how long the server asked us to stay away, if it did.
    pub(crate) fn ended(&mut self) -> Option<Duration> {
        self.state = State::Waiting;
        self.retry.take()
    }

    pub(crate) fn say(&mut self, message: Message, outbox: &mut VecDeque<Message>) {
        if self.state == State::Raw {
            return outbox.push_back(message);
        }
        self.said.push(message);
        if self.state == State::Open {
            outbox.extend(self.said.send_last());
        }
    }

    /// What a message from the server means.
    pub(crate) fn hear(&mut self, message: Message, outbox: &mut VecDeque<Message>) -> Vec<Event> {
        let frame = match &message {
            Message::Text(text) if self.state != State::Raw => v1::parse(text),
            _ => None,
        };
        match frame {
            None => vec![Event::Heard(message)],
            Some(Frame::Message { id, message }) if self.is_new(id.as_ref()) => {
                vec![Event::Heard(message)]
            }
            Some(Frame::Message { .. } | Frame::Unknown) => Vec::new(),
            Some(Frame::Welcome { id }) => self.welcome(id, outbox),
            Some(Frame::Gap { missed }) => vec![Event::Missing(missed)],
            Some(Frame::Drain { retry }) => {
                self.retry = Some(retry.min(LONGEST_RETRY));
                Vec::new()
            }
            Some(Frame::Ack { reference, id }) => {
                if let Some(id) = id.filter(|_| !self.hears_itself) {
                    self.own.push_back(id);
                    self.pass_own();
                    // Only behind a gap on a channel where nobody else speaks.
                    self.own.truncate(REMEMBERED);
                }
                self.said
                    .settle(&reference)
                    .map(|_| Event::Acknowledged)
                    .into_iter()
                    .collect()
            }
            Some(Frame::Error { words, reference }) => {
                let message = reference.and_then(|reference| self.said.settle(&reference));
                vec![Event::NotSaid {
                    message,
                    why: words,
                }]
            }
        }
    }

    /// The server closes. For the code of a message that is too big the biggest is given up, or it
    /// would end every later connection, too.
    pub(crate) fn closed(&mut self, code: u16) -> Vec<Event> {
        let biggest = if code == TOO_BIG {
            self.said.take_biggest()
        } else {
            None
        };
        let not_said = |message| Event::NotSaid {
            message: Some(message),
            why: "too big for this server".to_owned(),
        };
        biggest.map(not_said).into_iter().collect()
    }

    fn welcome(&mut self, id: Option<Id>, outbox: &mut VecDeque<Message>) -> Vec<Event> {
        let mut events = Vec::new();
        if self.begun && self.newest.is_none() {
            // There was nothing to resume from, so the server cannot know that something is
            // missing.
            events.push(Event::Missing(None));
        }
        if id.is_none() {
            // Without a history there are no keys: what is sent again may be said twice.
            events.extend(self.give_up_sent());
        }
        self.newest = self.newest.take().or(id);
        self.begun = true;
        self.state = State::Open;
        outbox.extend(self.said.send());
        events
    }

    /// Whether a message was not heard before; it is the newest then.
    fn is_new(&mut self, id: Option<&Id>) -> bool {
        let Some(id) = id else { return true };
        let repeated = self.heard
            && self
                .newest
                .as_ref()
                .is_some_and(|newest| id.is_at_or_before(newest));
        // An own message that was acknowledged on an earlier connection, and left out there.
        let own = self.own.contains(id);
        if !repeated {
            self.own.retain(|own| own != id && id.is_at_or_before(own));
            self.newest = Some(id.clone());
            self.heard = true;
            self.pass_own();
        }
        !repeated && !own
    }

    /// What follows without a gap and is our own needs not be heard.
    fn pass_own(&mut self) {
        let Some(newest) = &mut self.newest else {
            return;
        };
        while let Some(at) = self.own.iter().position(|own| own.is_next_after(newest)) {
            *newest = self.own.remove(at).expect("just found");
        }
    }

    /// What cannot be confirmed any more.
    fn give_up_sent(&mut self) -> impl Iterator<Item = Event> + use<> {
        let not_said = |message| Event::NotSaid {
            message: Some(message),
            why: MAYBE.to_owned(),
        };
        self.said.take_sent().into_iter().map(not_said)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A conversation, and what it has sent since it was last looked at.
    struct Talk {
        resume: Resume,
        outbox: VecDeque<Message>,
    }

    impl Talk {
        fn new(hears_itself: bool) -> Self {
            Self {
                resume: Resume::new(hears_itself, 7),
                outbox: VecDeque::new(),
            }
        }

        fn connect(&mut self, welcome: &str) -> Vec<String> {
            self.outbox.clear();
            let mut events = in_short(self.resume.opened(true, &mut self.outbox));
            assert!(self.outbox.is_empty(), "nothing is sent before the welcome");
            events.extend(self.hear(&format!(
                r#"{{"event":"welcome","id":{welcome},"recovered":true}}"#
            )));
            events
        }

        fn say(&mut self, text: &str) {
            self.resume.say(Message::text(text), &mut self.outbox);
        }

        fn hear(&mut self, frame: &str) -> Vec<String> {
            in_short(self.resume.hear(Message::text(frame), &mut self.outbox))
        }

        /// Each message as the server says it.
        fn hear_id(&mut self, id: &str) -> Vec<String> {
            self.hear(&format!(r#"{{"id":"{id}","data":"{id}"}}"#))
        }

        fn sent(&mut self) -> Vec<Value> {
            let sent = self
                .outbox
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
            Event::Heard(message) => message.into_text().expect("texts only").to_string(),
            event => event.words().unwrap_or_else(|| format!("{event:?}")),
        };
        events.into_iter().map(short).collect()
    }

    fn frame(text: &str, number: u64) -> Value {
        json!({"data": text, "key": format!("{:032x}-{number}", 7), "ref": number.to_string()})
    }

    #[test]
    fn it_goes_on_after_the_newest_it_heard_or_was_welcomed_with() {
        let mut talk = Talk::new(true);
        assert_eq!(talk.since(), None);
        talk.connect(r#""e-3""#);
        assert_eq!(talk.since().as_deref(), Some("e-3"));
        assert_eq!(talk.hear_id("e-4"), ["e-4"]);
        // What came from outside has no id and no place.
        assert_eq!(talk.hear(r#"{"data":"x"}"#), ["x"]);
        talk.resume.ended();
        // The newer ones that the welcome names are still to come.
        talk.connect(r#""e-9""#);
        assert_eq!(talk.since().as_deref(), Some("e-4"));
    }

    #[test]
    fn repetitions_are_dropped_and_a_new_epoch_is_none() {
        let mut talk = Talk::new(true);
        talk.connect(r#""e-3""#);
        for (id, heard) in [
            ("e-4", 1),
            ("e-4", 0),
            ("e-7", 1),
            ("e-5", 0),
            ("f-1", 1),
            ("f-1", 0),
            ("e-8", 1),
        ] {
            assert_eq!(talk.hear_id(id).len(), heard, "{id}");
        }
    }

    #[test]
    fn a_replay_that_was_asked_for_is_no_repetition() {
        let mut talk = Talk::new(true);
        talk.connect(r#""e-3""#);
        talk.resume.ended();
        talk.resume.forget_place();
        assert_eq!(talk.since(), None);
        // Those before the welcome's id are the replay.
        assert_eq!(talk.connect(r#""e-3""#), [""; 0]);
        assert_eq!(
            (talk.hear_id("e-2"), talk.hear_id("e-3")),
            (vec!["e-2".into()], vec!["e-3".into()])
        );
    }

    #[test]
    fn what_is_not_acknowledged_is_said_again_under_its_key() {
        let mut talk = Talk::new(true);
        talk.say("a");
        talk.connect(r#""0-0""#);
        talk.say("b");
        assert_eq!(talk.sent(), [frame("a", 1), frame("b", 2)]);
        assert_eq!(talk.hear(r#"{"ack":"1","id":"e-1"}"#), ["Acknowledged"]);
        talk.resume.ended();
        talk.say("c");
        assert_eq!(talk.resume.unacknowledged(), 2);
        talk.connect(r#""e-1""#);
        assert_eq!(talk.sent(), [frame("b", 2), frame("c", 3)]);
        talk.hear(r#"{"ack":"3","id":"e-3"}"#);
        talk.hear(r#"{"ack":"2","id":"e-2"}"#);
        assert_eq!(talk.resume.unacknowledged(), 0);
    }

    #[test]
    fn without_a_history_nothing_is_said_twice_and_what_may_be_lost_is_told() {
        let mut talk = Talk::new(true);
        talk.connect("null");
        talk.say("a");
        talk.resume.ended();
        talk.say("b");
        let told = talk.connect("null");
        assert_eq!(told[0], "some messages may be missing here");
        assert!(
            told[1].starts_with("not said: \"a\": ") && told.len() == 2,
            "{told:?}"
        );
        assert_eq!(talk.sent(), [frame("b", 2)]);
    }

    #[test]
    fn what_is_refused_is_told_and_not_said_again() {
        let mut talk = Talk::new(true);
        talk.connect("null");
        talk.say("a");
        assert_eq!(
            talk.hear(r#"{"error":"no","ref":"1"}"#),
            [r#"not said: "a": no"#]
        );
        assert_eq!(
            talk.hear(r#"{"error":"what?","ref":null}"#),
            ["not said: what?"]
        );
        assert_eq!(talk.resume.unacknowledged(), 0);
        // Too big for the server: it closes. The others are said again.
        talk.say("small");
        talk.say("much bigger");
        assert_eq!(in_short(talk.resume.closed(1012)), [""; 0]);
        assert_eq!(
            in_short(talk.resume.closed(1009))[0],
            r#"not said: "much bigger": too big for this server"#
        );
        assert_eq!(talk.resume.unacknowledged(), 1);
    }

    #[test]
    fn own_messages_that_are_left_out_are_not_asked_for_later() {
        let mut talk = Talk::new(false);
        talk.connect(r#""0-0""#);
        for text in ["a", "b", "c"] {
            talk.say(text);
        }
        talk.hear(r#"{"ack":"1","id":"e-1"}"#);
        assert_eq!(talk.since().as_deref(), Some("e-1"));
        // Somebody else's is on its way: it must be asked for if the connection is lost.
        talk.hear(r#"{"ack":"2","id":"e-3"}"#);
        assert_eq!(talk.since().as_deref(), Some("e-1"));
        assert_eq!(talk.hear_id("e-2"), ["e-2"]);
        assert_eq!(talk.since().as_deref(), Some("e-3"));
        // A replay brings it back, to be dropped.
        talk.hear(r#"{"ack":"3","id":"e-5"}"#);
        assert_eq!(
            (
                talk.hear_id("e-4").len(),
                talk.hear_id("e-5").len(),
                talk.hear_id("e-6").len()
            ),
            (1, 0, 1)
        );
    }

    #[test]
    fn the_server_says_when_to_come_back() {
        let mut talk = Talk::new(true);
        talk.connect("null");
        talk.hear(r#"{"event":"drain","retry_ms":1830}"#);
        assert_eq!(talk.resume.ended(), Some(Duration::from_millis(1830)));
        talk.hear(r#"{"event":"drain","retry_ms":18446744073709551615}"#);
        assert_eq!(
            (talk.resume.ended(), talk.resume.ended()),
            (Some(LONGEST_RETRY), None)
        );
    }

    #[test]
    fn with_other_servers_everything_is_passed_on_as_it_is() {
        let mut talk = Talk::new(true);
        talk.say("early");
        talk.resume.opened(false, &mut talk.outbox);
        talk.say("now");
        assert_eq!(talk.sent(), ["early", "now"]);
        let frame = r#"{"event":"gap","missed":3}"#;
        assert_eq!(talk.hear(frame), [frame]);
        assert_eq!(
            (
                talk.resume.unacknowledged(),
                talk.resume.resumes(),
                talk.since()
            ),
            (0, false, None)
        );
    }
}
