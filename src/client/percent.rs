//! Percent-encoding of paths and queries: decoded once, and only if it is valid. Lenient decoders
//! keep a broken sequence as it is, so that two of them in a row disagree about the name.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The text that is encoded here; `None` if it is no percent-encoded UTF-8.
pub(crate) fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.split('%').skip(1).all(begins_with_byte) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok()
}

/// Whether the text after a `%` begins with two hexadecimal digits.
fn begins_with_byte(text: &str) -> bool {
    text.len() >= 2 && text.bytes().take(2).all(|digit| digit.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sequence_is_decoded_once_or_nothing_is() {
        for (text, expected) in [
            ("", Some("")),
            ("/a/b", Some("/a/b")),
            ("%2Fa%2fb", Some("/a/b")),
            ("a%2520b", Some("a%20b")),
            ("caf%C3%A9", Some("caf\u{e9}")),
            ("caf\u{e9}", Some("caf\u{e9}")),
            ("%C3", None),
            ("%ff", None),
            ("%", None),
            ("a%2", None),
            ("%zz", None),
            ("%%41", None),
            ("%2%30", None),
            ("%+1", None),
            ("%\u{e9}", None),
        ] {
            assert_eq!(decoded(text).as_deref(), expected, "{text}");
        }
    }
}
