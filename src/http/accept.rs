//! The kind of answer that a GET asks for by its `Accept` (RFC 9110, section 12.5.1). An element
//! that is no media range is left out: the client gets an answer that its other ranges ask for.

use std::cmp::Reverse;

use axum::http::{HeaderMap, header};

/// The kind of answer that a GET asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Events,
    Page,
    Snapshot,
    Nothing,
}

/// A request's `Accept`.
#[derive(Debug)]
pub(super) struct Accept {
    ranges: Vec<Range>,
    /// It has no elements, so every type is accepted.
    is_empty: bool,
}

/// A kind of answer with its type.
struct Offer {
    wanted: Wanted,
    kind: &'static str,
    subkind: &'static str,
}

/// The kinds of answers. Of those that a client wants as much, it gets the first.
const OFFERS: [Offer; 3] = [
    Offer {
        wanted: Wanted::Events,
        kind: "text",
        subkind: "event-stream",
    },
    Offer {
        wanted: Wanted::Page,
        kind: "text",
        subkind: "html",
    },
    Offer {
        wanted: Wanted::Snapshot,
        kind: "application",
        subkind: "json",
    },
];

/// The weight of a range without `q`, in thousandths.
const FULL_WEIGHT: u16 = 1000;

/// Types that a client accepts, and how much it wants them.
#[derive(Debug)]
struct Range {
    kind: String,
    subkind: String,
    weight: u16,
}

/// How closely a range names a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Anything,
    Kind,
    Exact,
}

/// How much a client wants an offer: the fields decide in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    weight: u16,
    fit: Fit,
    place: Reverse<usize>,
}

impl Accept {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let lines = headers
            .get_all(header::ACCEPT)
            .iter()
            .map(|line| String::from_utf8_lossy(line.as_bytes()));
        let text = lines.collect::<Vec<_>>().join(",");
        let elements = text.split(',').map(str::trim);
        let mut elements = elements.filter(|element| !element.is_empty()).peekable();
        Self {
            is_empty: elements.peek().is_none(),
            ranges: elements.filter_map(Range::read).collect(),
        }
    }

    /// The kind of answer that the client wants most.
    pub(super) fn wanted(&self) -> Wanted {
        if self.is_empty {
            return Wanted::Page;
        }
        let places = OFFERS.iter().enumerate();
        let ranked = places.filter_map(|(place, offer)| Some((self.rank(offer, place)?, offer)));
        let best = ranked.max_by_key(|(rank, _)| *rank);
        best.map_or(Wanted::Nothing, |(_, offer)| offer.wanted)
    }

    /// Whether it names the type of a page. Browsers do, and programs mostly do not.
    pub(super) fn names_page(&self) -> bool {
        let mut exact = self
            .ranges
            .iter()
            .filter(|range| range.fit("text", "html") == Some(Fit::Exact));
        exact.any(|range| range.weight > 0)
    }

    /// How much the client wants an offer; `None` if not at all.
    fn rank(&self, offer: &Offer, place: usize) -> Option<Rank> {
        // The closest range decides the weight, also if it excludes the type with a weight of 0.
        let fits = self
            .ranges
            .iter()
            .filter_map(|range| Some((range.fit(offer.kind, offer.subkind)?, range.weight)));
        let (fit, weight) = fits.max()?;
        // A client that does not name the type of event streams is a person, or a person's tool:
        // a page is better.
        let is_unnamed_stream = offer.wanted == Wanted::Events && fit != Fit::Exact;
        let place = if is_unnamed_stream {
            OFFERS.len()
        } else {
            place
        };
        (weight > 0).then_some(Rank {
            weight,
            fit,
            place: Reverse(place),
        })
    }
}

impl Range {
    fn read(element: &str) -> Option<Self> {
        let mut parts = element.split(';').map(str::trim);
        let name = parts.next()?.to_ascii_lowercase();
        // Java's standard library sends `*` for `*/*`.
        let (kind, subkind) = if name == "*" {
            ("*", "*")
        } else {
            name.split_once('/')?
        };
        let weight = parts.find_map(weight).unwrap_or(FULL_WEIGHT);
        Some(Self {
            kind: kind.to_owned(),
            subkind: subkind.to_owned(),
            weight,
        })
    }

    fn fit(&self, kind: &str, subkind: &str) -> Option<Fit> {
        match (self.kind.as_str(), self.subkind.as_str()) {
            ("*", "*") => Some(Fit::Anything),
            (own, "*") if own == kind => Some(Fit::Kind),
            (own, sub) if (own, sub) == (kind, subkind) => Some(Fit::Exact),
            _ => None,
        }
    }
}

/// The weight in a parameter, in thousandths, if that is what the parameter is.
fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    let value = name
        .trim()
        .eq_ignore_ascii_case("q")
        .then(|| value.trim().parse::<f32>().ok())??;
    (0.0..=1.0)
        .contains(&value)
        .then(|| (value * f32::from(FULL_WEIGHT)).round() as u16)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn wanted(lines: &[&str]) -> Wanted {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                header::ACCEPT,
                HeaderValue::from_bytes(line.as_bytes()).expect("a header"),
            );
        }
        Accept::of(&headers).wanted()
    }

    #[test]
    fn the_type_that_is_wanted_most_is_answered() {
        for (line, expected) in [
            ("*/*", Wanted::Page),
            ("text/html", Wanted::Page),
            ("text/event-stream", Wanted::Events),
            ("application/json", Wanted::Snapshot),
            ("image/png", Wanted::Nothing),
            ("text/plain", Wanted::Nothing),
            // Browsers, axios, Java's standard library, event sources.
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
                Wanted::Page,
            ),
            ("application/json, text/plain, */*", Wanted::Snapshot),
            (
                "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
                Wanted::Page,
            ),
            ("text/event-stream, */*", Wanted::Events),
            // Case, spaces, parameters, a letter too many.
            ("TEXT/Event-Stream", Wanted::Events),
            (
                " Application/JSON ; charset=utf-8 ; Q=0.5",
                Wanted::Snapshot,
            ),
            ("text/event-streams", Wanted::Nothing),
            ("x-text/html", Wanted::Nothing),
            // Weights.
            (
                "text/event-stream;q=0.5, application/json",
                Wanted::Snapshot,
            ),
            (
                "text/html;q=0.1, application/json;q=0.11, text/event-stream;q=0.101",
                Wanted::Snapshot,
            ),
            ("text/event-stream;q=0", Wanted::Nothing),
            (
                "text/event-stream;q=0.000, application/json;q=0.001",
                Wanted::Snapshot,
            ),
            ("*/*, text/html;q=0", Wanted::Snapshot),
            ("*/*;q=0", Wanted::Nothing),
            ("*/*;q=0, application/json", Wanted::Snapshot),
            ("text/*;q=0, */*;q=0.1", Wanted::Snapshot),
            (
                "text/html;q=0.3, text/html;level=1;q=0.7, application/json;q=0.5",
                Wanted::Page,
            ),
            // The one that is named wins over the one that is meant, too.
            ("application/json, text/*", Wanted::Snapshot),
            ("text/*", Wanted::Page),
            ("application/*", Wanted::Snapshot),
            ("text/*, text/html;q=0", Wanted::Events),
            (
                "application/json, text/html, text/event-stream",
                Wanted::Events,
            ),
            // A weight that is none is a full one.
            ("application/json;q=high, text/html;q=0.9", Wanted::Snapshot),
            ("application/json;q=7, text/html;q=0.9", Wanted::Snapshot),
            ("application/json;q=nan, text/html;q=0.9", Wanted::Snapshot),
            // Elements that are no range.
            ("json, text/html;q=0.1", Wanted::Page),
            ("json", Wanted::Nothing),
            (", ,application/json,", Wanted::Snapshot),
            ("\u{e9}, application/json", Wanted::Snapshot),
        ] {
            assert_eq!(wanted(&[line]), expected, "{line}");
        }
    }

    #[test]
    fn only_a_client_that_names_the_type_of_a_page_is_taken_for_a_browser() {
        for (line, expected) in [
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                true,
            ),
            ("application/json, text/html;q=0.1", true),
            ("*/*", false),
            ("text/*", false),
            ("text/html;q=0", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(line));
            assert_eq!(Accept::of(&headers).names_page(), expected, "{line}");
        }
    }

    #[test]
    fn several_lines_are_one_and_none_accepts_anything() {
        assert_eq!(wanted(&["image/png", "application/json"]), Wanted::Snapshot);
        assert_eq!(
            wanted(&["application/json;q=0.5", "text/event-stream;q=0.6"]),
            Wanted::Events
        );
        assert_eq!(wanted(&[]), Wanted::Page);
        assert_eq!(wanted(&[""]), Wanted::Page);
        assert_eq!(wanted(&[" , ", ""]), Wanted::Page);
    }
}
