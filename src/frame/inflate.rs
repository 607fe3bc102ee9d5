//! Inflating messages of clients (RFC 7692). The state of the algorithm belongs to the worker
//! thread. A client whose messages refer to its earlier ones has a [`History`] in its decoder.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use super::Violation;

/// The end of each message that clients leave off, and then an empty last block: only if the stream
/// ends right there was the message whole.
const END: [u8; 6] = [0, 0, 0xff, 0xff, 3, 0];

/// Where the last block of it begins.
const TAIL: usize = 4;

/// Streams in one message. A client may end a stream with any block and begin another (RFC 7692,
/// 7.2.3.4); each costs us a copy of the window.
const STREAMS: usize = 32;

/// A block may refer to so many bytes before it.
const WINDOW: usize = 32 * 1024;

/// How a client that sends more bytes a second than it may is told.
pub const TOO_MANY_BYTES: &str = "too many bytes a second";

/// What is kept of the buffer between messages, in bytes.
const KEPT: usize = 64 * 1024;

/// The end of a client's earlier messages, to which its next one may refer.
#[derive(Debug, Default)]
pub(super) struct History {
    bytes: Vec<u8>,
}

struct Inflater {
    state: Decompress,
    /// The client's history, and behind it the message.
    output: Vec<u8>,
}

thread_local! {
    static INFLATER: RefCell<Inflater> =
        RefCell::new(Inflater { state: Decompress::new(false), output: Vec::new() });
}

/// Bounds of one message, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The largest message.
    pub(super) message: usize,
    /// All that its client may send now.
    pub(super) rate: usize,
    /// How much of the message and of those before it the next one may refer to.
    pub(super) history: usize,
}

/// Calls `with` with the inflated `payload`. Then `history` ends with that message.
pub(super) fn inflated<T>(
    payload: &[u8],
    bounds: Bounds,
    history: &mut History,
    with: impl FnOnce(&[u8]) -> Result<T, Violation>,
) -> Result<T, Violation> {
    INFLATER.with_borrow_mut(|inflater| {
        let before = history.bytes.len();
        let outcome = inflater
            .inflate(payload, &history.bytes, bounds.message.min(bounds.rate))
            .map_err(|violation| bounds.name_limit(violation))
            .and_then(|()| with(&inflater.output[before..]));
        if outcome.is_ok() {
            history.replace(&inflater.output, bounds.history);
        }
        // A large message must not leave its buffer to a thread that rarely sees one.
        inflater.output.clear();
        inflater.output.shrink_to(KEPT);
        outcome
    })
}

impl Bounds {
    /// Names the limit that a message broke which is too big.
    fn name_limit(self, violation: Violation) -> Violation {
        match violation {
            Violation::TooBig { .. } if self.rate < self.message => Violation::Rate(TOO_MANY_BYTES),
            Violation::TooBig { .. } => Violation::TooBig {
                limit: self.message,
            },
            other => other,
        }
    }
}

impl History {
    /// Keeps the last `most` bytes of `output`.
    fn replace(&mut self, output: &[u8], most: usize) {
        let kept = &output[output.len() - output.len().min(most)..];
        self.bytes.clear();
        // Exact, because many connections may keep one.
        self.bytes.reserve_exact(kept.len());
        self.bytes.extend_from_slice(kept);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes held for it.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// What one call of the inflater came to.
enum Progress {
    /// It wants more room for its output.
    NeedsRoom,
    /// It has used up the input and produced all that follows from it.
    InputUsed,
    /// A last block ended, `true` if nothing of the input is left.
    StreamEnded(bool),
}

impl Inflater {
    /// Inflates a whole message behind its client's history. The message never grows beyond
    /// `limit` and one byte, however large the input claims it to be.
    fn inflate(&mut self, payload: &[u8], history: &[u8], limit: usize) -> Result<(), Violation> {
        self.state.reset(false);
        self.output.extend_from_slice(history);
        if payload.is_empty() {
            return Ok(());
        }
        if !history.is_empty() {
            self.refer_to_output()?;
        }
        let end = history.len() + limit;
        let mut streams = 0;
        if self.inflate_part(payload, end, &mut streams)? {
            return Ok(());
        }
        // A client that sends the end of the flush, too, has the same message.
        let tail = if payload.ends_with(&END[..TAIL]) {
            &END[TAIL..]
        } else {
            &END
        };
        // Only if the stream ends right behind the tail it was whole.
        if self.inflate_part(tail, end, &mut streams)? {
            Ok(())
        } else {
            Err(Violation::Deflated)
        }
    }

    /// Inflates all of `input`, until the output is longer than `end`. Returns whether a stream
    /// ended with the last byte of it.
    fn inflate_part(
        &mut self,
        input: &[u8],
        end: usize,
        streams: &mut usize,
    ) -> Result<bool, Violation> {
        let mut done = 0;
        loop {
            match self.step(input, &mut done, end)? {
                Progress::NeedsRoom => {}
                Progress::InputUsed => return Ok(false),
                Progress::StreamEnded(true) => return Ok(true),
                Progress::StreamEnded(false) => {
                    *streams += 1;
                    if *streams > STREAMS {
                        return Err(Violation::Deflated);
                    }
                    // The next stream of a message may refer to those before it.
                    self.state.reset(false);
                    self.refer_to_output()?;
                }
            }
        }
    }

    /// Makes room for some output and inflates as much of `input[done..]` as fits it.
    fn step(&mut self, input: &[u8], done: &mut usize, end: usize) -> Result<Progress, Violation> {
        // Doubles the output, but one byte beyond the end is enough to know that it is too long.
        let produced = self.output.len();
        let room = produced.max(input.len()).max(256).min(end + 1 - produced);
        self.output.reserve(room);
        let before = self.state.total_in();
        let status =
            self.state
                .decompress_vec(&input[*done..], &mut self.output, FlushDecompress::None);
        *done += (self.state.total_in() - before) as usize;
        if self.output.len() > end {
            return Err(Violation::TooBig { limit: end });
        }
        let is_full = self.output.len() == self.output.capacity();
        match status {
            Ok(Status::StreamEnd) => Ok(Progress::StreamEnded(*done == input.len())),
            // With room left, the inflater holds nothing back.
            Ok(_) if *done == input.len() && !is_full => Ok(Progress::InputUsed),
            Ok(Status::Ok) => Ok(Progress::NeedsRoom),
            Ok(Status::BufError) if is_full => Ok(Progress::NeedsRoom),
            Ok(Status::BufError) | Err(_) => Err(Violation::Deflated),
        }
    }

    /// Lets the next stream refer to the end of what was produced so far.
    fn refer_to_output(&mut self) -> Result<(), Violation> {
        let window = &self.output[self.output.len().saturating_sub(WINDOW)..];
        if window.is_empty() {
            return Ok(());
        }
        self.state
            .set_dictionary(window)
            .map_err(|_| Violation::Deflated)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    const BOUNDS: Bounds = Bounds {
        message: 1000,
        rate: 1000,
        history: 0,
    };

    fn alone(payload: &[u8]) -> Result<Vec<u8>, Violation> {
        inflated(payload, BOUNDS, &mut History::default(), |output| {
            Ok(output.to_vec())
        })
    }

    #[test]
    fn a_message_refers_to_the_messages_before_it_as_far_back_as_its_window() {
        let mut deflater = Compress::new(Compression::best(), false);
        let mut history = History::default();
        let bounds = Bounds {
            history: 600,
            ..BOUNDS
        };
        let text: String = (0..100).map(|number| format!("{number} ")).collect();
        for round in 0..5 {
            let mut payload = Vec::with_capacity(1000);
            deflater
                .compress_vec(text.as_bytes(), &mut payload, FlushCompress::Sync)
                .expect("room enough");
            payload.truncate(payload.len() - TAIL);
            assert!(round == 0 || payload.len() < 20, "it refers back");
            assert!(
                round == 0 || alone(&payload).is_err(),
                "not without history"
            );
            let output = inflated(&payload, bounds, &mut history, |output| Ok(output.to_vec()));
            assert_eq!(output.as_deref(), Ok(text.as_bytes()));
            assert!(history.capacity() <= 600);
        }
    }

    #[test]
    fn a_stream_inflates_to_all_of_it_or_not_at_all() {
        let one: &[u8] = &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let open: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let cases: [(Vec<u8>, Option<&[u8]>); 8] = [
            (open.to_vec(), Some(b"Hello")),
            (one.to_vec(), Some(b"Hello")),
            ([one, &[0]].concat(), Some(b"Hello")),
            ([one, one].concat(), Some(b"HelloHello")),
            ([one, open].concat(), Some(b"HelloHello")),
            ([one, b"garbage"].concat(), None),
            (open[..4].to_vec(), None),
            (Vec::new(), Some(b"")),
        ];
        for (payload, wanted) in cases {
            let result = alone(&payload);
            assert_eq!(result.ok().as_deref(), wanted, "{payload:x?}");
        }
    }
}
