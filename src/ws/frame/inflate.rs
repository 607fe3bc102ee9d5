//! Inflating what clients deflate (RFC 7692). Every message stands alone, because we ask clients for that, so the state is
//! the worker thread's and a session holds none.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use super::{Limits, Violation};

/// What a client leaves off the end of each message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

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

/// Calls `with` with what `payload` inflates to.
pub(super) fn inflated<T>(
    payload: &[u8],
    limits: &Limits,
    with: impl FnOnce(&[u8]) -> Result<T, Violation>,
) -> Result<T, Violation> {
    INFLATER.with_borrow_mut(|inflater| {
        let outcome = inflater.inflate(payload, limits).and_then(|()| with(&inflater.output));
        inflater.output.clear();
        inflater.output.shrink_to(KEPT);
        outcome
    })
}

impl Inflater {
    /// The output never grows beyond the limit and one byte, however much the input claims to be.
    fn inflate(&mut self, payload: &[u8], limits: &Limits) -> Result<(), Violation> {
        self.state.reset(false);
        for input in [payload, &TAIL] {
            let mut done = 0;
            loop {
                let room =
                    self.output.len().max(payload.len()).max(256).min(limits.max_message + 1 - self.output.len());
                self.output.reserve(room);
                let before = self.state.total_in();
                let status = self.state.decompress_vec(&input[done..], &mut self.output, FlushDecompress::None);
                done += (self.state.total_in() - before) as usize;
                if self.output.len() > limits.max_message {
                    return Err(Violation::TooBig { limit: limits.max_message });
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
