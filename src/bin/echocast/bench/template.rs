//! The payload that all messages of a load share, apart from their stamps.

use bytes::BytesMut;
use rand::RngExt;
use rand::rngs::ThreadRng;

use super::dialect::Dialect;
use super::frames::{Shape, TEXT, put_frame};
use super::stamp::{STAMP_LEN, Stamp};

/// Different words in the text of a message.
const WORDS: usize = 32;

/// A stamp, and a text that is the same for a whole run.
#[derive(Debug)]
pub(super) struct Template {
    dialect: Dialect,
    /// With the prefix and suffix of the dialect.
    payload: Vec<u8>,
}

impl Template {
    pub(super) fn new(message: Shape) -> Self {
        let Shape {
            length, dialect, ..
        } = message;
        let text = random_text(length - dialect.overhead());
        Self {
            dialect,
            payload: [dialect.prefix(), &text, dialect.suffix()].concat(),
        }
    }

    /// The part of a message behind its stamp.
    #[inline]
    pub(super) fn text(&self) -> &[u8] {
        let start = self.dialect.prefix().len() + STAMP_LEN;
        let end = self.payload.len() - self.dialect.suffix().len();
        &self.payload[start..end]
    }

    /// Writes a message with this stamp, as a frame.
    pub(super) fn put(&mut self, stamp: Stamp, output: &mut BytesMut) {
        // Only the stamp differs, so the text is not written again for each message.
        let place = self.payload[self.dialect.prefix().len()..].first_chunk_mut();
        stamp.write(place.expect("a message has room for its stamp"));
        put_frame(TEXT, &self.payload, output);
    }
}

/// A text whose words repeat, as the words of people and programs do. So compression works neither
/// better nor worse than it does on real messages.
fn random_text(size: usize) -> Vec<u8> {
    let mut rng = rand::rng();
    let words = random_words(&mut rng);
    let mut text = Vec::with_capacity(size + 10);
    while text.len() < size {
        text.extend_from_slice(&words[rng.random_range(0..WORDS)]);
    }
    text.truncate(size);
    text
}

fn random_words(rng: &mut ThreadRng) -> Vec<Vec<u8>> {
    (0..WORDS).map(|_| random_word(rng)).collect()
}

fn random_word(rng: &mut ThreadRng) -> Vec<u8> {
    let length = rng.random_range(3..10);
    let letters = (0..length).map(|_| rng.random_range(b'a'..=b'z'));
    letters.chain([b' ']).collect()
}
