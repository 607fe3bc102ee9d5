//! Inflates what a server deflated (RFC 7692), each message by itself. All subscribers of a good
//! server get the same bytes, so what they inflated to the last time is remembered: inflating anew
//! for each would make this program the slow one. Bytes that are not exactly the same are inflated.

use flate2::{Decompress, FlushDecompress};

/// What a server leaves off the end of each message.
const TAIL: &[u8] = &[0, 0, 0xff, 0xff];
/// How much longer than plain one of our messages can be when it is deflated, in bytes: half of it
/// is redundant, so only what every deflated message needs counts.
pub(super) const SLACK: usize = 64;
/// Messages remembered at most; more than are on their way to one subscriber and not to another.
const MOST: usize = 1024;
/// Bytes of memory for that.
const MEMORY: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Inflater {
    state: Decompress,
    /// Length of our messages.
    message: usize,
    remembered: Vec<Remembered>,
}

#[derive(Clone, Debug, Default)]
struct Remembered {
    deflated: Vec<u8>,
    /// Empty if it inflates to something else than a message of ours.
    payload: Vec<u8>,
}

impl Inflater {
    pub(super) fn new(message: usize) -> Self {
        let slots = (MEMORY / (2 * message)).clamp(1, MOST);
        Self {
            state: Decompress::new(false),
            message,
            remembered: vec![Remembered::default(); slots],
        }
    }

    /// The payload, if it is as long as our messages.
    pub(super) fn inflate(&mut self, deflated: &[u8]) -> Option<&[u8]> {
        let slot = hash(deflated) as usize % self.remembered.len();
        let remembered = &mut self.remembered[slot];
        if remembered.deflated != deflated {
            remembered.deflated.clear();
            remembered.deflated.extend_from_slice(deflated);
            remembered.deflated.extend_from_slice(TAIL);
            remembered.payload.clear();
            // One byte more, so that what is longer shows.
            remembered.payload.reserve_exact(self.message + 1);
            self.state.reset(false);
            let result = self.state.decompress_vec(
                &remembered.deflated,
                &mut remembered.payload,
                FlushDecompress::Sync,
            );
            remembered.deflated.truncate(deflated.len());
            if result.is_err() || remembered.payload.len() != self.message {
                remembered.payload.clear();
            }
        }
        Some(remembered.payload.as_slice()).filter(|payload| !payload.is_empty())
    }
}

/// Eight bytes a step: only to find the slot, the bytes are compared.
fn hash(bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let step =
        |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| {
        step(hash, u64::from_ne_bytes(*word))
    });
    // The upper bits are the well-mixed ones.
    tail.iter()
        .fold(hash, |hash, byte| step(hash, u64::from(*byte)))
        >> 32
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    fn deflate(payload: &[u8]) -> Vec<u8> {
        let mut deflated = Vec::with_capacity(payload.len() + 100);
        let mut state = Compress::new(Compression::fast(), false);
        state
            .compress_vec(payload, &mut deflated, FlushCompress::Sync)
            .expect("it deflates");
        deflated
            .strip_suffix(TAIL)
            .expect("a whole message")
            .to_vec()
    }

    #[test]
    fn messages_are_inflated_the_first_time_and_every_other_time() {
        let mut inflater = Inflater::new(300);
        let payloads: Vec<Vec<u8>> = (0..=255)
            .map(|byte| [vec![byte; 100], vec![b'x'; 200]].concat())
            .collect();
        for _ in 0..2 {
            for payload in &payloads {
                assert_eq!(inflater.inflate(&deflate(payload)), Some(&payload[..]));
            }
        }
    }

    #[test]
    fn what_is_no_message_of_ours_is_none() {
        let mut inflater = Inflater::new(300);
        for _ in 0..2 {
            assert_eq!(inflater.inflate(&deflate(&[b'x'; 299])), None);
            assert_eq!(inflater.inflate(&deflate(&[b'x'; 100_000])), None);
            assert_eq!(inflater.inflate(b"\xff\xff nonsense"), None);
        }
    }

    #[test]
    fn large_messages_leave_room_for_at_least_one() {
        assert_eq!(Inflater::new(1 << 20).remembered.len(), 8);
        assert_eq!(Inflater::new(40).remembered.len(), MOST);
    }
}
