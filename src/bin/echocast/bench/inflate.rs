//! Inflates what a server deflated (RFC 7692), each message by itself.
//!
//! A good server sends all subscribers the same bytes, so results are cached: to inflate them anew
//! for every subscriber would make this program the slow side. A cached result is used only for
//! exactly the same bytes.

use flate2::{Decompress, FlushDecompress};

/// Every message is deflated up to these bytes, which the server leaves out.
const TAIL: &[u8] = &[0, 0, 0xff, 0xff];
/// How much longer than plain one of our messages can be when it is deflated, in bytes. Half of
/// each message is redundant, so only the overhead of every deflated message counts.
pub(super) const SLACK: usize = 64;
/// Most messages in the cache: more than are in flight to one subscriber and not to another.
const MAX_SLOTS: usize = 1024;
/// Memory of the cache, in bytes.
const CACHE_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Inflater {
    state: Decompress,
    /// Length of this load's messages.
    message: usize,
    cache: Vec<Slot>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    deflated: Vec<u8>,
    /// Empty if the bytes do not inflate to a message of this load.
    payload: Vec<u8>,
}

impl Inflater {
    pub(super) fn new(message: usize) -> Self {
        let slots = (CACHE_BYTES / (2 * message)).clamp(1, MAX_SLOTS);
        Self {
            state: Decompress::new(false),
            message,
            cache: vec![Slot::default(); slots],
        }
    }

    /// The payload, if it is as long as this load's messages.
    pub(super) fn inflate(&mut self, deflated: &[u8]) -> Option<&[u8]> {
        let index = hash(deflated) as usize % self.cache.len();
        // Different messages may share a slot. The later one replaces the earlier one.
        let slot = &mut self.cache[index];
        if slot.deflated != deflated {
            slot.fill(deflated, self.message, &mut self.state);
        }
        slot.payload()
    }
}

impl Slot {
    fn fill(&mut self, deflated: &[u8], message: usize, state: &mut Decompress) {
        // Messages are deflated independently, so nothing of the last one may be left.
        state.reset(false);
        self.payload.clear();
        // One byte more than a message, so that a longer one is noticed.
        self.payload.reserve_exact(message + 1);
        if !self.inflate(deflated, state) || self.payload.len() != message {
            self.payload.clear();
        }
    }

    /// Whether these bytes could be inflated.
    fn inflate(&mut self, deflated: &[u8], state: &mut Decompress) -> bool {
        self.deflated.clear();
        self.deflated.extend_from_slice(deflated);
        self.deflated.extend_from_slice(TAIL);
        let result = state.decompress_vec(&self.deflated, &mut self.payload, FlushDecompress::Sync);
        // The tail is not part of the key.
        self.deflated.truncate(deflated.len());
        result.is_ok()
    }

    fn payload(&self) -> Option<&[u8]> {
        Some(self.payload.as_slice()).filter(|payload| !payload.is_empty())
    }
}

/// Finds the slot, where the bytes themselves are compared. Eight bytes a step, for speed.
fn hash(bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_ne_bytes(*word));
    let tail = tail.iter().map(|byte| u64::from(*byte));
    let hash = words.chain(tail).fold(bytes.len() as u64, mix);
    // The upper bits are the well-mixed ones.
    hash >> 32
}

/// A step of FxHash.
fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
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
    fn other_messages_inflate_to_none() {
        let mut inflater = Inflater::new(300);
        for _ in 0..2 {
            assert_eq!(inflater.inflate(&deflate(&[b'x'; 299])), None);
            assert_eq!(inflater.inflate(&deflate(&[b'x'; 100_000])), None);
            assert_eq!(inflater.inflate(b"\xff\xff nonsense"), None);
        }
    }

    #[test]
    fn large_messages_leave_room_for_at_least_one() {
        assert_eq!(Inflater::new(1 << 20).cache.len(), 8);
        assert_eq!(Inflater::new(40).cache.len(), MAX_SLOTS);
    }
}
