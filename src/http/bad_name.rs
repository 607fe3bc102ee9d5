//! The answer to a browser whose address is no channel name: a page that says what is wrong and
//! links to the most similar right name. Programs get the same reason as one line of text.

use axum::http::StatusCode;
use axum::response::Response;
use percent_encoding::percent_decode_str;

use super::page;
use crate::channel::{BadName, ChannelName, MAX_NAME};

/// The page, with `{why}` and `{suggestion}`.
const PAGE: &str = include_str!("../../static/bad-name.html");

/// The page for this path, which is percent-encoded as in the request.
pub(super) fn bad_name(error: &BadName, path: &str, status: StatusCode) -> Response {
    let suggestion = suggested(path).map_or_else(String::new, |name| {
        format!("<p>Did you mean <a id=\"suggested\" href=\"/{name}\">/{name}</a>?</p>")
    });
    let html = PAGE.replacen("{suggestion}", &suggestion, 1).replacen(
        "{why}",
        &escaped(&error.to_string()),
        1,
    );
    let mut response = page::html(html.into());
    *response.status_mut() = status;
    response
}

/// The right name that is most similar to this path, if anything of it is left. A name needs no
/// escaping: it has no character that HTML or an address gives a meaning, except slashes.
fn suggested(path: &str) -> Option<ChannelName> {
    let path = percent_decode_str(path).decode_utf8_lossy();
    // Characters that names don't have become dashes, as people write spaces in addresses.
    let segments = path.split('/').map(|segment| {
        let words = segment.split(|c: char| !ChannelName::allows(c));
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        words.join("-")
    });
    let segments: Vec<String> = segments.filter(|segment| !segment.is_empty()).collect();
    let name: String = segments.join("/").chars().take(MAX_NAME).collect();
    ChannelName::new(name.trim_end_matches('/')).ok()
}

/// The text as HTML.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            character => html.push(character),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_similar_right_name_is_suggested_if_anything_is_left() {
        let name = |path: &str| suggested(path).map(|name| name.to_string());
        for (path, expected) in [
            ("/my%20room", Some("my-room")),
            ("/my%20%20room%20", Some("my-room")),
            ("/a//b/", Some("a/b")),
            ("/caf%C3%A9/menu", Some("caf/menu")),
            ("/a%2520b", Some("a-20b")),
            ("/%ffx", Some("x")),
            (
                "/%3Cscript%3Ealert(1)%3C/script%3E",
                Some("script-alert-1/script"),
            ),
            ("//", None),
            ("/%E6%BC%A2%E5%AD%97", None),
        ] {
            assert_eq!(name(path).as_deref(), expected, "{path}");
        }
        assert_eq!(
            name(&format!("/{}", "x".repeat(300))),
            Some("x".repeat(128))
        );
        let cut_at_slash = format!("/{}/{}", "x".repeat(127), "y".repeat(9));
        assert_eq!(name(&cut_at_slash), Some("x".repeat(127)));
    }

    #[test]
    fn nothing_of_a_path_is_markup() {
        let error = BadName::Character('<');
        let response = bad_name(&error, "/<script>", StatusCode::BAD_REQUEST);
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(
            escaped("<a href=\"x\">&'"),
            "&lt;a href=&quot;x&quot;&gt;&amp;&#39;"
        );
    }
}
