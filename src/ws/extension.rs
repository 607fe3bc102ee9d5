//! The one extension we know, permessage-deflate (RFC 7692): which offers are taken, and how. Neither side keeps anything
//! from one message to the next, so that a message is deflated once for everybody and an idle session holds no window.

use crate::message::Window;

const NAME: &str = "permessage-deflate";

/// The first of a client's offers that can be taken, if there is one.
pub(super) fn negotiate<'a>(offers: impl Iterator<Item = &'a str>) -> Option<Window> {
    offers.flat_map(|value| value.split(',')).find_map(take)
}

/// What the client is told.
pub(super) fn answer(window: Window) -> &'static str {
    match window {
        Window::Full => "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        Window::Least => {
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9"
        }
    }
}

/// The window for one offer; `None` if it asks for something that we cannot do, or makes no sense.
fn take(offer: &str) -> Option<Window> {
    let mut parts = offer.split(';').map(str::trim);
    if parts.next() != Some(NAME) {
        return None;
    }
    let mut window = Window::Full;
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        };
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match (name, value) {
            ("server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(bits)) => drop(window_bits(bits)?),
            // Deflate with a window of 256 bytes is what no library does.
            ("server_max_window_bits", Some(bits)) => match window_bits(bits)? {
                15 => {}
                9..15 => window = Window::Least,
                _ => return None,
            },
            _ => return None,
        }
    }
    Some(window)
}

fn window_bits(text: &str) -> Option<u8> {
    let bits: u8 = text.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (bits.to_string() == text).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(offers: &[&str]) -> Option<Window> {
        negotiate(offers.iter().copied())
    }

    #[test]
    fn the_first_offer_that_can_be_taken_is() {
        assert_eq!(negotiated(&["permessage-deflate; client_max_window_bits"]), Some(Window::Full));
        assert_eq!(negotiated(&["x-webkit-deflate-frame, permessage-deflate"]), Some(Window::Full));
        assert_eq!(
            negotiated(&["permessage-deflate; server_max_window_bits=8, permessage-deflate"]),
            Some(Window::Full)
        );
        assert_eq!(negotiated(&["permessage-deflate; server_max_window_bits=\"10\""]), Some(Window::Least));
        assert_eq!(negotiated(&["other", "permessage-deflate;server_max_window_bits=15"]), Some(Window::Full));
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
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        ] {
            assert_eq!(negotiated(&[offer]), None, "{offer}");
        }
    }
}
