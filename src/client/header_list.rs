//! Headers whose value is a list of words, possibly on several lines (RFC 9110, section 5.6.1).

use axum::http::{HeaderMap, HeaderName};

/// Whether the list has this word, in any case.
pub(crate) fn contains(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    lines(headers, name)
        .flat_map(|line| line.split(','))
        .any(|element| element.trim().eq_ignore_ascii_case(word))
}

/// The lines of a header that are visible ASCII.
pub(crate) fn lines(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
}
