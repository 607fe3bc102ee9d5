//! Masking of client frames (RFC 6455, section 5.3), undone in place. Whether a frame must be
//! masked is decided by the frame reader.

/// Unmasks the next bytes of a payload. Returns the key rotated for the byte after them, because a
/// payload may arrive in pieces of any length.
#[must_use]
pub(super) fn unmask(payload: &mut [u8], mut key: [u8; 4]) -> [u8; 4] {
    let mut wide = [0; 16];
    wide.as_chunks_mut::<4>().0.fill(key);
    let wide = u128::from_ne_bytes(wide);

    // Sixteen bytes at a time, then four. That lets the compiler use vector registers without
    // alignment.
    let (blocks, rest) = payload.as_chunks_mut::<16>();
    for block in blocks {
        *block = (u128::from_ne_bytes(*block) ^ wide).to_ne_bytes();
    }
    let (words, tail) = rest.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(key) {
        *byte ^= mask;
    }
    key.rotate_left(tail.len());
    key
}
