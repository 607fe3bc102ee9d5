//! Percent-encoding of paths and queries: decoded once, and only if it is valid. Lenient decoders
//! leave a broken sequence as it is, so that two of them on the way disagree about the name it
//! stands for.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The text that is encoded here; `None` if it is no percent-encoded UTF-8.
pub fn decoded(text: &str) -> Option<Cow<'_, str>> {
    let is_whole =
        |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(is_whole) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok()
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
