//! The stamp at the beginning of every message of a load: run, publisher, number and time. Each
//! receiver checks the message by it.
//!
//! It has a fixed width and is printable, because it travels as text. One letter holds four bits,
//! which is fast to decode: every delivery is decoded.

/// Bytes at the beginning of each payload.
pub(super) const STAMP_LEN: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// A random number, which tells our messages from other ones on the channel.
    pub(super) run: u32,
    /// Index of the publisher.
    pub(super) publisher: u32,
    /// The publisher's messages are numbered from 0.
    pub(super) number: u32,
    /// Nanoseconds since the run began.
    pub(super) sent: u64,
}

impl Stamp {
    pub(super) fn write(self, out: &mut [u8; STAMP_LEN]) {
        // Five words of 32 bits, of which each becomes eight letters.
        let words = [
            self.run,
            self.publisher,
            self.number,
            (self.sent >> 32) as u32,
            self.sent as u32,
        ];
        for (letters, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *letters = to_letters(word);
        }
    }

    /// Accepts any bytes: without a stamp in them they give a `run` that is not ours.
    #[inline]
    pub(super) fn read(bytes: &[u8; STAMP_LEN]) -> Self {
        let word = |index: usize| from_letters(bytes.as_chunks::<8>().0[index]);
        Self {
            run: word(0),
            publisher: word(1),
            number: word(2),
            sent: u64::from(word(3)) << 32 | u64::from(word(4)),
        }
    }
}

const A: u64 = u64::from_be_bytes([b'a'; 8]);

/// Letters `a` to `p`, the highest four bits first. Each step moves the halves of every group
/// apart, until each group is one letter.
fn to_letters(word: u32) -> [u8; 8] {
    let mut spread = u64::from(word);
    spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
    spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    (spread + A).to_be_bytes()
}

/// Each step moves neighbouring groups together, as [`to_letters`] moved them apart.
#[inline]
fn from_letters(letters: [u8; 8]) -> u32 {
    let mut packed = u64::from_be_bytes(letters).wrapping_sub(A);
    packed = (packed | packed >> 4) & 0x00ff_00ff_00ff_00ff;
    packed = (packed | packed >> 8) & 0x0000_ffff_0000_ffff;
    (packed | packed >> 16) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_is_plain_text() {
        for stamp in [
            Stamp {
                run: 0,
                publisher: 0,
                number: 0,
                sent: 0,
            },
            Stamp {
                run: 0xdead_beef,
                publisher: 3,
                number: 0x0102_0304,
                sent: 0x0123_4567_89ab_cdef,
            },
            Stamp {
                run: u32::MAX,
                publisher: u32::MAX,
                number: u32::MAX,
                sent: u64::MAX,
            },
        ] {
            let mut bytes = [0; STAMP_LEN];
            stamp.write(&mut bytes);
            assert!(
                bytes.iter().all(|byte| (b'a'..=b'p').contains(byte)),
                "{bytes:?}"
            );
            assert_eq!(Stamp::read(&bytes), stamp);
        }
    }

    #[test]
    fn anything_can_be_read() {
        for byte in 0..=u8::MAX {
            Stamp::read(&[byte; STAMP_LEN]);
        }
    }
}
