//! Inflating what clients deflate (RFC 7692). Every message stands alone, because we ask clients
//! for that, so the state is the worker thread's and a session holds none.

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

struct Inflater {
    state: Decompress,
    output: Vec<u8>,
}

thread_local! {
    static INFLATER: RefCell<Inflater> =
        RefCell::new(Inflater { state: Decompress::new(false), output: Vec::new() });
}

/// Calls `with` with what `payload` inflates to: at most `limit` bytes, the largest message, and
/// `most`, all that its client may send now.
pub(super) fn inflated<T>(
    payload: &[u8],
    limit: usize,
    most: usize,
    with: impl FnOnce(&[u8]) -> Result<T, Violation>,
) -> Result<T, Violation> {
    INFLATER.with_borrow_mut(|inflater| {
        let outcome = inflater
            .inflate(payload, limit.min(most))
            .map_err(|bad| match bad {
                Violation::TooBig { .. } if most < limit => Violation::Rate(TOO_MANY_BYTES),
                Violation::TooBig { .. } => Violation::TooBig { limit },
                bad => bad,
            });
        let outcome = outcome.and_then(|()| with(&inflater.output));
        inflater.output.clear();
        inflater.output.shrink_to(KEPT);
        outcome
    })
}

impl Inflater {
    /// The output never grows beyond the limit and one byte, however much the input claims to be.
    fn inflate(&mut self, payload: &[u8], limit: usize) -> Result<(), Violation> {
        self.state.reset(false);
        if payload.is_empty() {
            return Ok(());
        }
        // A client that does not leave the end off has the same message.
        let end = if payload.ends_with(&END[..TAIL]) {
            &END[TAIL..]
        } else {
            &END
        };
        let mut streams = 0;
        for (input, is_end) in [(payload, false), (end, true)] {
            let mut done = 0;
            loop {
                let room = self
                    .output
                    .len()
                    .max(payload.len())
                    .max(256)
                    .min(limit + 1 - self.output.len());
                self.output.reserve(room);
                let before = self.state.total_in();
                let status = self.state.decompress_vec(
                    &input[done..],
                    &mut self.output,
                    FlushDecompress::None,
                );
                done += (self.state.total_in() - before) as usize;
                if self.output.len() > limit {
                    return Err(Violation::TooBig { limit });
                }
                match status {
                    // Also where a client has ended its stream with the message.
                    Ok(Status::StreamEnd) if done == input.len() => return Ok(()),
                    Ok(Status::StreamEnd) => {
                        streams += 1;
                        if streams > STREAMS {
                            return Err(Violation::Deflated);
                        }
                        self.begin_stream()?;
                    }
                    Ok(_) if done == input.len() && self.output.len() < self.output.capacity() => {
                        if is_end {
                            return Err(Violation::Deflated);
                        }
                        break;
                    }
                    Ok(Status::Ok) => {}
                    Ok(Status::BufError) if self.output.len() == self.output.capacity() => {}
                    Ok(Status::BufError) | Err(_) => return Err(Violation::Deflated),
                }
            }
        }
        Err(Violation::Deflated)
    }

    /// Goes on behind the end of a stream: the next one may refer to bytes of those before it.
    fn begin_stream(&mut self) -> Result<(), Violation> {
        self.state.reset(false);
        let window = &self.output[self.output.len().saturating_sub(WINDOW)..];
        if !window.is_empty() {
            self.state
                .set_dictionary(window)
                .map_err(|_| Violation::Deflated)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let result = inflated(&payload, 1000, 1000, |output| Ok(output.to_vec()));
            assert_eq!(result.ok().as_deref(), wanted, "{payload:x?}");
        }
    }
}
