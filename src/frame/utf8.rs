//! UTF-8 checks, of complete text and of text that is still arriving.

/// `bytes` as text, if they are valid as a whole.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    simdutf8::basic::from_utf8(bytes).ok()
}

/// How many of `bytes` are complete characters. The others, three at most, begin a character that
/// more bytes can complete. `None` if no more bytes can make them valid.
pub(super) fn complete_prefix(bytes: &[u8]) -> Option<usize> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(_) => Some(bytes.len()),
        Err(error) if error.error_len().is_none() => Some(error.valid_up_to()),
        Err(_) => None,
    }
}
