//! Who publishes what, and when it may: the payload all messages share, and for each publisher how
//! much of what it said has come back to it.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use rand::RngExt;

use super::dialect::Dialect;
use super::frames::{Shape, TEXT, put_frame};
use super::stamp::{STAMP_LEN, Stamp};

/// Messages that have not come back for so long are taken for lost, or a server that loses some
/// would end the load.
const GIVEN_UP: Duration = Duration::from_secs(1);

/// Different words in a message's text.
const WORDS: usize = 32;

/// What messages look like: a stamp, and a text that is the same for all of a run.
#[derive(Debug)]
pub(super) struct Template {
    dialect: Dialect,
    /// With what the dialect puts around it.
    payload: Vec<u8>,
}

impl Template {
    /// Words of random letters that come again, as they do in what people and programs say: a
    /// server that deflates is neither flattered nor wronged.
    pub(super) fn new(message: Shape) -> Self {
        let Shape {
            length, dialect, ..
        } = message;
        let size = length - dialect.around();
        let mut rng = rand::rng();
        let mut words = Vec::with_capacity(WORDS);
        words.resize_with(WORDS, || {
            let length = rng.random_range(3..10);
            (0..length)
                .map(|_| rng.random_range(b'a'..=b'z'))
                .chain([b' '])
                .collect::<Vec<u8>>()
        });
        let mut text = Vec::with_capacity(size + 10);
        while text.len() < size {
            text.extend_from_slice(&words[rng.random_range(0..WORDS)]);
        }
        text.truncate(size);
        Self {
            dialect,
            payload: [dialect.before(), &text, dialect.after()].concat(),
        }
    }

    /// What is behind the stamp.
    pub(super) fn text(&self) -> &[u8] {
        &self.payload[self.dialect.before().len() + STAMP_LEN
            ..self.payload.len() - self.dialect.after().len()]
    }

    pub(super) fn put(&mut self, stamp: Stamp, out: &mut BytesMut) {
        let room = self.payload[self.dialect.before().len()..].first_chunk_mut();
        stamp.write(room.expect("a message has room for its stamp"));
        put_frame(TEXT, &self.payload, out);
    }
}

#[derive(Debug)]
pub(super) struct Publisher {
    /// Messages said, and the number of the next one.
    pub(super) sent: u32,
    /// What comes after the newest of them that was heard back, or given up.
    returned: u32,
    /// When the last one was heard back or, after none had been on its way, said.
    heard_at: Instant,
}

impl Publisher {
    pub(super) fn new() -> Self {
        Self {
            sent: 0,
            returned: 0,
            heard_at: Instant::now(),
        }
    }

    /// How many messages it may say now, with that many on their way at most. None until half of
    /// them are back: what is said together is read, written and delivered together.
    pub(super) fn room(&mut self, window: u32, now: Instant) -> u32 {
        let on_their_way = self.sent - self.returned;
        if on_their_way == 0 {
            self.heard_at = now;
        } else if now.duration_since(self.heard_at) > GIVEN_UP {
            self.returned = self.sent;
            return self.room(window, now);
        }
        if on_their_way <= window / 2 {
            window - on_their_way
        } else {
            0
        }
    }

    /// It heard one of its own messages.
    pub(super) fn heard_itself(&mut self, number: u32, now: Instant) {
        self.returned = self.returned.max(number + 1);
        self.heard_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_filled_again_when_half_of_it_is_back() {
        let now = Instant::now();
        let mut publisher = Publisher::new();
        for (sent, heard, room) in [
            (0, None, 4),
            (4, None, 0),
            (4, Some(0), 0),
            (4, Some(1), 2),
            (6, Some(5), 4),
        ] {
            publisher.sent = sent;
            if let Some(number) = heard {
                publisher.heard_itself(number, now);
            }
            assert_eq!(publisher.room(4, now), room, "{publisher:?}");
        }
    }

    #[test]
    fn a_window_of_one_waits_for_each_message() {
        let now = Instant::now();
        let mut publisher = Publisher::new();
        assert_eq!(publisher.room(1, now), 1);
        publisher.sent = 1;
        assert_eq!(publisher.room(1, now), 0);
        publisher.heard_itself(0, now);
        assert_eq!(publisher.room(1, now), 1);
    }

    #[test]
    fn what_never_comes_back_does_not_end_the_load() {
        let now = Instant::now();
        let mut publisher = Publisher::new();
        assert_eq!(publisher.room(2, now), 2);
        publisher.sent = 2;
        assert_eq!(publisher.room(2, now + GIVEN_UP), 0);
        assert_eq!(publisher.room(2, now + 2 * GIVEN_UP), 2);
    }
}
