//! Deflating messages for clients that understand it (RFC 7692). Each message is deflated by itself,
//! so that all clients can share the bytes.

use std::cell::RefCell;

use flate2::{Compress, Compression, FlushCompress};

/// Shorter payloads, in bytes, are not deflated: their frame fits into a packet anyway, and inflating
/// costs every client.
const LEAST: usize = 128;

/// The end of a deflated message, which is not sent.
const TAIL: &[u8] = &[0, 0, 0xff, 0xff];

/// How far back a client can look when it inflates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeflateWindow {
    /// 512 bytes: for those that ask for less than all.
    Smallest,
    /// 32 KiB.
    Full,
}

impl DeflateWindow {
    /// Its size as clients name it, a power of two.
    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::Smallest => 9,
            Self::Full => 15,
        }
    }
}

struct Deflaters {
    smallest: Compress,
    full: Compress,
    output: Vec<u8>,
}

thread_local! {
    /// Large, and the same for every message: one a worker thread.
    static DEFLATERS: RefCell<Deflaters> = RefCell::new(Deflaters {
        smallest: Compress::new_with_window_bits(Compression::fast(), false, DeflateWindow::Smallest.bits()),
        full: Compress::new_with_window_bits(Compression::fast(), false, DeflateWindow::Full.bits()),
        output: Vec::new(),
    });
}

/// Deflates a payload and passes the result to `with`, or `None` if it is not worth it.
pub(super) fn deflated(payload: &[u8], window: DeflateWindow, with: impl FnOnce(Option<&[u8]>)) {
    if payload.len() < LEAST {
        return with(None);
    }
    DEFLATERS.with_borrow_mut(|deflaters| with(deflaters.deflate(payload, window)));
}

impl Deflaters {
    /// The deflated payload without its tail, if that is shorter.
    fn deflate(&mut self, payload: &[u8], window: DeflateWindow) -> Option<&[u8]> {
        let Self {
            smallest,
            full,
            output,
        } = self;
        let state = match window {
            DeflateWindow::Smallest => smallest,
            DeflateWindow::Full => full,
        };
        state.reset();
        output.clear();
        // Room for the worst case, because a longer result is dropped anyway.
        output.reserve_exact(payload.len() + payload.len() / 8 + 1024);
        let flushed = state.compress_vec(payload, output, FlushCompress::Sync);
        let is_whole =
            flushed.is_ok() && state.total_in() == payload.len() as u64 && output.ends_with(TAIL);
        let deflated = &output[..output.len().saturating_sub(TAIL.len())];
        (is_whole && deflated.len() < payload.len()).then_some(deflated)
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};

    use super::*;

    #[test]
    fn whatever_is_deflated_inflates_to_itself_in_its_window() {
        for round in 0..300_usize {
            let letters = 1 + round % 7;
            let text: Vec<u8> = (0..round * 251 % 70_000)
                .map(|_| b'a' + rand::random_range(0..letters) as u8)
                .collect();
            let noise: Vec<u8> = (0..round % 3000).map(|_| rand::random()).collect();
            for payload in [&text, &noise] {
                for window in [DeflateWindow::Smallest, DeflateWindow::Full] {
                    deflated(payload, window, |deflated| {
                        let Some(deflated) = deflated else { return };
                        let mut inflated = Vec::with_capacity(payload.len() + 1);
                        let mut state = Decompress::new_with_window_bits(false, window.bits());
                        let whole = [deflated, TAIL].concat();
                        let status =
                            state.decompress_vec(&whole, &mut inflated, FlushDecompress::Sync);
                        assert!(
                            status.is_ok() && inflated == *payload,
                            "{} bytes, {window:?}",
                            payload.len()
                        );
                    });
                }
            }
        }
    }
}
