//! The one extension we know, permessage-deflate (RFC 7692): which offers are taken, and how.
//! Neither side keeps anything from one message to the next, so that a message is deflated once for
//! everybody and an idle session holds no window.

use crate::message::DeflateWindow;

const NAME: &str = "permessage-deflate";

/// An offer that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    /// How far back what we send may refer.
    pub(super) window: DeflateWindow,
    /// What the client is told.
    pub(super) answer: &'static str,
}

/// The first of a client's offers that can be taken, if there is one.
pub(super) fn negotiate<'a>(offers: impl Iterator<Item = &'a str>) -> Option<Agreement> {
    offers.flat_map(|value| unquoted(value, ',')).find_map(take)
}

/// The agreement for one offer; `None` if it asks for something that we cannot do, or makes no
/// sense.
fn take(offer: &str) -> Option<Agreement> {
    let mut parts = unquoted(offer, ';').map(str::trim);
    if parts.next() != Some(NAME) {
        return None;
    }
    // Whoever asks for a window is told one.
    let mut asked = None;
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value_of(value.trim())?)),
            None => (part, None),
        };
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match (name, value) {
            (
                "server_no_context_takeover"
                | "client_no_context_takeover"
                | "client_max_window_bits",
                None,
            ) => {}
            ("client_max_window_bits", Some(bits)) => drop(window_bits(bits)?),
            ("server_max_window_bits", Some(bits)) => asked = Some(window_bits(bits)?),
            _ => return None,
        }
    }
    match asked {
        None => Some(Agreement {
            window: DeflateWindow::Full,
            answer: "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        }),
        Some(15) => Some(Agreement {
            window: DeflateWindow::Full,
            answer: "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                     server_max_window_bits=15",
        }),
        Some(9..15) => Some(Agreement {
            window: DeflateWindow::Smallest,
            answer: "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                     server_max_window_bits=9",
        }),
        // Deflate with a window of 256 bytes is what no library does.
        Some(_) => None,
    }
}

/// The parts between separators that are not in quotes.
fn unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |character| {
        quoted ^= character == '"';
        character == separator && !quoted
    })
}

/// A parameter's value, without its quotes; `None` if these are not a pair.
fn value_of(text: &str) -> Option<&str> {
    let inner = text
        .strip_prefix('"')
        .map_or(Some(text), |rest| rest.strip_suffix('"'))?;
    (!inner.contains('"')).then_some(inner)
}

fn window_bits(text: &str) -> Option<u8> {
    let bits: u8 = text.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (bits.to_string() == text).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(offers: &[&str]) -> Option<DeflateWindow> {
        negotiate(offers.iter().copied()).map(|agreement| agreement.window)
    }

    #[test]
    fn a_client_that_asks_for_a_window_is_told_one_and_others_are_not() {
        for (offer, told) in [
            ("permessage-deflate", None),
            ("permessage-deflate; client_max_window_bits=10", None),
            (
                "permessage-deflate; server_max_window_bits=15",
                Some("; server_max_window_bits=15"),
            ),
            (
                "permessage-deflate; server_max_window_bits=12",
                Some("; server_max_window_bits=9"),
            ),
            (
                "other; a=\"permessage-deflate, b\", permessage-deflate; server_max_window_bits=9",
                Some("_bits=9"),
            ),
        ] {
            let answer = negotiate(std::iter::once(offer))
                .expect("it can be taken")
                .answer;
            assert_eq!(
                answer.contains("max_window_bits"),
                told.is_some(),
                "{offer}"
            );
            assert!(
                answer.ends_with(told.unwrap_or("; client_no_context_takeover")),
                "{offer}: {answer}"
            );
        }
    }

    #[test]
    fn the_first_offer_that_can_be_taken_is() {
        assert_eq!(
            negotiated(&["permessage-deflate; client_max_window_bits"]),
            Some(DeflateWindow::Full)
        );
        assert_eq!(
            negotiated(&["x-webkit-deflate-frame, permessage-deflate"]),
            Some(DeflateWindow::Full)
        );
        assert_eq!(
            negotiated(&["permessage-deflate; server_max_window_bits=8, permessage-deflate"]),
            Some(DeflateWindow::Full)
        );
        assert_eq!(
            negotiated(&["permessage-deflate; server_max_window_bits=\"10\""]),
            Some(DeflateWindow::Smallest)
        );
        assert_eq!(
            negotiated(&["other", "permessage-deflate;server_max_window_bits=15"]),
            Some(DeflateWindow::Full)
        );
        assert_eq!(negotiated(&[]), None);
    }

    #[test]
    fn offers_that_make_no_sense_are_left_alone() {
        for offer in [
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_max_window_bits=\"10",
            "permessage-deflate; server_max_window_bits=10\"",
            "permessage-deflate; server_max_window_bits=\"\"10\"\"",
            "other; a=\", permessage-deflate",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        ] {
            assert_eq!(negotiated(&[offer]), None, "{offer}");
        }
    }
}
