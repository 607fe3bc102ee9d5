//! Inflating what clients deflate (RFC 7692). Every message stands alone, because we ask clients for that, so the state is
//! the worker thread's and a session holds none.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use super::Violation;

/// What a client leaves off the end of each message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

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

/// Calls `with` with what `payload` inflates to: at most `limit` bytes, the largest message, and `most`, all that its client
/// may send now.
pub(super) fn inflated<T>(
    payload: &[u8],
    limit: usize,
    most: usize,
    with: impl FnOnce(&[u8]) -> Result<T, Violation>,
) -> Result<T, Violation> {
    INFLATER.with_borrow_mut(|inflater| {
        let outcome = inflater.inflate(payload, limit.min(most)).map_err(|bad| match bad {
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
        for input in [payload, &TAIL] {
            let mut done = 0;
            loop {
                let room = self.output.len().max(payload.len()).max(256).min(limit + 1 - self.output.len());
                self.output.reserve(room);
                let before = self.state.total_in();
                let status = self.state.decompress_vec(&input[done..], &mut self.output, FlushDecompress::None);
                done += (self.state.total_in() - before) as usize;
                if self.output.len() > limit {
                    return Err(Violation::TooBig { limit });
                }
                match status {
                    // A client may end its stream; what it says next is another message.
                    Ok(Status::StreamEnd) => return Ok(()),
                    Ok(_) if done == input.len() && self.output.len() < self.output.capacity() => break,
                    Ok(Status::Ok) => {}
                    Ok(Status::BufError) if self.output.len() == self.output.capacity() => {}
                    Ok(Status::BufError) | Err(_) => return Err(Violation::Deflated),
                }
            }
        }
        Ok(())
    }
}
