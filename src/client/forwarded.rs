//! Addresses that proxies put into the head of a request: `X-Forwarded-For`, or where that is
//! missing `Forwarded` (RFC 7239). Pure. Everything is read from its end, because proxies append:
//! only the end is theirs, and the client may have written anything before it, half a quoted string
//! included.

use std::net::{IpAddr, Ipv4Addr};

use axum::http::HeaderMap;

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED: &str = "forwarded";

/// The addresses that the request passed, the last first; `None` for one that its proxy did not
/// tell.
pub(super) fn hops(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let hops: Vec<_> = elements(headers, X_FORWARDED_FOR)
        .iter()
        .map(|hop| address(hop))
        .collect();
    if !hops.is_empty() {
        return hops;
    }
    elements(headers, FORWARDED)
        .iter()
        .map(|element| forwarded_for(element))
        .collect()
}

/// The elements of a header that is a list, the last first. It may have several lines.
fn elements(headers: &HeaderMap, name: &str) -> Vec<String> {
    let mut elements = Vec::new();
    for line in headers.get_all(name).iter().rev() {
        let line = String::from_utf8_lossy(line.as_bytes());
        let parts = parts_from_end(&line, b',').into_iter().map(str::trim);
        // An element may be empty: RFC 9110, section 5.6.1.
        elements.extend(
            parts
                .filter(|element| !element.is_empty())
                .map(str::to_owned),
        );
    }
    elements
}

/// The parts between separators that are not in quoted strings, the last first.
fn parts_from_end(text: &str, separator: u8) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut parts, mut end, mut is_quoted) = (Vec::new(), text.len(), false);
    for at in (0..bytes.len()).rev() {
        if bytes[at] == b'"' && !is_escaped(&bytes[..at]) {
            is_quoted = !is_quoted;
        } else if bytes[at] == separator && !is_quoted {
            parts.push(&text[at + 1..end]);
            end = at;
        }
    }
    parts.push(&text[..end]);
    parts
}

/// Whether the byte after these belongs to a pair that begins with a backslash.
fn is_escaped(before: &[u8]) -> bool {
    before
        .iter()
        .rev()
        .take_while(|byte| **byte == b'\\')
        .count()
        % 2
        == 1
}

/// The address in `for=` of an element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = parts_from_end(element, b';')
        .into_iter()
        .filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    match (named.next(), named.next()) {
        (Some((_, node)), None) => address(node),
        // Each may be there once.
        _ => None,
    }
}

/// An address as proxies write it: with or without a port, brackets and quotes. `unknown` and
/// made-up names are none.
fn address(node: &str) -> Option<IpAddr> {
    let node = node.trim();
    let node = node
        .strip_prefix('"')
        .and_then(|node| node.strip_suffix('"'))
        .unwrap_or(node)
        .trim();
    if let Some(bracketed) = node.strip_prefix('[') {
        let (ip, port) = bracketed.split_once(']')?;
        return ip
            .parse()
            .ok()
            .filter(|_| port.is_empty() || port.starts_with(':'));
    }
    // A port of RFC 7239 may be a made-up name, too.
    let with_port = || {
        node.split_once(':')?
            .0
            .parse::<Ipv4Addr>()
            .ok()
            .map(IpAddr::V4)
    };
    node.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn hops_of(lines: &[(&'static str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                *name,
                HeaderValue::from_bytes(value.as_bytes()).expect("a header"),
            );
        }
        hops(&headers)
            .into_iter()
            .map(|hop| hop.map_or("?".to_owned(), |ip| ip.to_string()))
            .collect()
    }

    #[test]
    fn an_address_is_read_in_every_way_that_proxies_write_it() {
        for (node, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("192.0.2.1:_port", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("\"[2001:db8::1]\"", "2001:db8::1"),
            ("\"192.0.2.1:4711\"", "192.0.2.1"),
            (" \" 192.0.2.1\" ", "192.0.2.1"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
            ("unknown", "?"),
            ("_hidden", "?"),
            ("192.0.2", "?"),
            ("192.0.2.256:1", "?"),
            ("example.org:80", "?"),
            ("[2001:db8::1", "?"),
            ("[2001:db8::1]4711", "?"),
            ("2001:db8::1]", "?"),
            ("\"192.0.2.1", "?"),
            ("\u{e9}", "?"),
        ] {
            assert_eq!(hops_of(&[(X_FORWARDED_FOR, node)]), [expected], "{node}");
            if !node.starts_with('[') {
                assert_eq!(
                    hops_of(&[(FORWARDED, &format!("For={node};proto=http"))]),
                    [expected],
                    "{node}"
                );
            }
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines = [
            (X_FORWARDED_FOR, "192.0.2.1, 192.0.2.2"),
            (X_FORWARDED_FOR, "192.0.2.3,"),
        ];
        assert_eq!(hops_of(&lines), ["192.0.2.3", "192.0.2.2", "192.0.2.1"]);
        let lines = [
            (
                FORWARDED,
                "for=192.0.2.1;by=192.0.2.9,for=\"[2001:db8::1]\"",
            ),
            (FORWARDED, " , FOR = 192.0.2.3 "),
        ];
        assert_eq!(hops_of(&lines), ["192.0.2.3", "2001:db8::1", "192.0.2.1"]);
        assert!(hops_of(&[]).is_empty());
    }

    #[test]
    fn forwarded_counts_only_where_the_other_header_says_nothing() {
        let forwarded = (FORWARDED, "for=192.0.2.1");
        assert_eq!(
            hops_of(&[forwarded, (X_FORWARDED_FOR, "192.0.2.2")]),
            ["192.0.2.2"]
        );
        assert_eq!(hops_of(&[forwarded, (X_FORWARDED_FOR, "unknown")]), ["?"]);
        assert_eq!(hops_of(&[forwarded, (X_FORWARDED_FOR, "")]), ["192.0.2.1"]);
        assert_eq!(
            hops_of(&[forwarded, (X_FORWARDED_FOR, " , ")]),
            ["192.0.2.1"]
        );
    }

    #[test]
    fn a_client_cannot_reach_into_what_the_proxy_behind_it_appends() {
        for (written, appended) in [
            ("for=\"192.0.2.66", "for=192.0.2.1"),
            ("for=\"192.0.2.66\\", "for=192.0.2.1"),
            (
                "for=192.0.2.66;x=\"",
                "for=\"[2001:db8::1]:80\";proto=https",
            ),
            ("x=\"\\\"", "for=\"192.0.2.1\""),
            ("\\", "for=\"192.0.2.1\""),
            ("\u{e9}\"", "for=192.0.2.1"),
            // The name of the host is the client's, quoted by the proxy.
            ("for=192.0.2.66", "for=192.0.2.1;host=\"a,for=192.0.2.66\""),
            ("for=192.0.2.66", "for=192.0.2.1;host=\"a;for=192.0.2.66\""),
            (
                "for=192.0.2.66",
                "host=\"a\\\",for=\\\"192.0.2.66\\\\\";for=192.0.2.1",
            ),
        ] {
            let line = format!("{written}, {appended}");
            let client = hops_of(&[(FORWARDED, &line)]).swap_remove(0);
            assert!(
                ["192.0.2.1", "2001:db8::1"].contains(&client.as_str()),
                "{line}: {client}"
            );
        }
        // An element that says it twice, or not at all, says nothing.
        assert_eq!(
            hops_of(&[(FORWARDED, "for=192.0.2.1;for=192.0.2.2")]),
            ["?"]
        );
        assert_eq!(
            hops_of(&[(FORWARDED, "for=192.0.2.1, by=192.0.2.2")]),
            ["?", "192.0.2.1"]
        );
        assert_eq!(
            hops_of(&[(X_FORWARDED_FOR, "\u{e9}, \"192.0.2.66, 192.0.2.1")]),
            ["192.0.2.1", "?"]
        );
    }
}
