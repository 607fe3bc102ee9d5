//! The one extension we know, permessage-deflate (RFC 7692): which offers are accepted, and with
//! which answer. A message is deflated once for everybody, so ours never refer to earlier ones.
//!
//! We want the same of clients, because then a connection needs no memory for it. The RFC lets us
//! ask for that unasked (section 7.1.1.2), and browsers comply. Some other clients, Netty's first,
//! fail a connection over any parameter that they did not offer. They are answered with nothing
//! but what they offered, and the connection keeps the end of their messages once they deflate one.

use std::num::NonZeroU8;

use crate::message::DeflateWindow;

const NAME: &str = "permessage-deflate";

/// Clients that offer to refer back less far than 32 KiB are asked for 4 KiB, as a power of two:
/// enough for text, and a connection's memory.
const CLIENT_WINDOW_BITS: u8 = 12;

/// As far back as deflate can refer, as a power of two.
const MAX_WINDOW_BITS: u8 = 15;

/// An offer that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    /// How far back our messages may refer within themselves.
    pub(super) window: DeflateWindow,
    /// How much of its earlier messages the client may refer to, as a power of two.
    pub(super) client_history: Option<NonZeroU8>,
    /// The value of the header that answers the offer.
    pub(super) answer: String,
}

/// What a client offers.
#[derive(Clone, Copy, Debug, Default)]
struct Offer {
    server_no_context: bool,
    client_no_context: bool,
    /// The largest window it wants us to use.
    server_window: Option<u8>,
    /// The largest window it would use, if it offers to be told one.
    client_window: Option<u8>,
}

/// The agreement for the first acceptable one of a client's offers. Browsers may be asked for more
/// than they offer.
pub(super) fn negotiate<'a>(
    offers: impl Iterator<Item = &'a str>,
    is_browser: bool,
) -> Option<Agreement> {
    offers
        .flat_map(|value| unquoted(value, ','))
        .filter_map(Offer::parse)
        .find_map(|offer| offer.accept(is_browser))
}

impl Offer {
    /// `None` if it is of another extension or breaks the RFC's rules.
    fn parse(offer: &str) -> Option<Self> {
        let mut parts = unquoted(offer, ';').map(str::trim);
        if parts.next() != Some(NAME) {
            return None;
        }
        let mut this = Self::default();
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value_of(value.trim())?)),
                None => (part, None),
            };
            // RFC 7692, section 7.1: a parameter that comes twice makes the offer invalid.
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            this.set(name, value)?;
        }
        Some(this)
    }

    /// `None` if the parameter is unknown or has a wrong value: then the offer must be declined.
    fn set(&mut self, name: &str, value: Option<&str>) -> Option<()> {
        match (name, value) {
            ("server_no_context_takeover", None) => self.server_no_context = true,
            ("client_no_context_takeover", None) => self.client_no_context = true,
            ("client_max_window_bits", None) => self.client_window = Some(MAX_WINDOW_BITS),
            ("client_max_window_bits", Some(bits)) => self.client_window = Some(window_bits(bits)?),
            ("server_max_window_bits", Some(bits)) => self.server_window = Some(window_bits(bits)?),
            _ => return None,
        }
        Some(())
    }

    /// `None` if we cannot do what it asks for.
    fn accept(mut self, is_browser: bool) -> Option<Agreement> {
        self.server_no_context |= is_browser;
        self.client_no_context |= is_browser;
        let window = self.our_window()?;
        Some(Agreement {
            window,
            client_history: self.client_history(),
            answer: self.answer(window),
        })
    }

    /// The window in which we deflate for this client. There are only two, so that all clients
    /// share a message's deflated bytes.
    fn our_window(self) -> Option<DeflateWindow> {
        match self.server_window {
            None | Some(MAX_WINDOW_BITS) => Some(DeflateWindow::Full),
            Some(9..) => Some(DeflateWindow::Smallest),
            // No library deflates with a window of 256 bytes.
            Some(_) => None,
        }
    }

    /// Kept for a client that refers to its earlier messages. Not less than we ask for, because
    /// zlib uses 512 bytes where it was asked for 256.
    fn client_history(self) -> Option<NonZeroU8> {
        if self.client_no_context {
            return None;
        }
        let bits = self
            .client_window
            .map_or(MAX_WINDOW_BITS, |_| CLIENT_WINDOW_BITS);
        NonZeroU8::new(bits)
    }

    /// The parameters that we accept. None is in the answer that was not offered.
    fn answer(self, window: DeflateWindow) -> String {
        let mut answer = NAME.to_owned();
        if self.server_no_context {
            answer += "; server_no_context_takeover";
        }
        if self.client_no_context {
            answer += "; client_no_context_takeover";
        }
        // A client that asks for a window must be answered with one.
        if self.server_window.is_some() {
            answer += &format!("; server_max_window_bits={}", window.bits());
        }
        // A client whose messages stand alone costs no memory, whatever its window.
        if let Some(bits) = self.client_window.filter(|_| !self.client_no_context) {
            let bits = bits.min(CLIENT_WINDOW_BITS);
            answer += &format!("; client_max_window_bits={bits}");
        }
        answer
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
    // Neither a sign nor leading zeros are allowed.
    (bits.to_string() == text).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(offers: &[&str]) -> Option<DeflateWindow> {
        negotiate(offers.iter().copied(), true).map(|agreement| agreement.window)
    }

    #[test]
    fn the_first_offer_that_can_be_accepted_is() {
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
