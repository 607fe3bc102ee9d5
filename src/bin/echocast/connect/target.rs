//! Where to connect, and the headers of the handshake, from what the user typed. Pure: it opens no
//! connection.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::{
    AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL, USER_AGENT,
};
use url::Url;
use url::form_urlencoded::byte_serialize;

use super::address::{self, take_credentials};
use super::v1;

/// A server, a channel and the headers of the handshake. They are checked, so that every request
/// made from them is valid.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    url: Url,
    headers: HeaderMap,
    offers_v1: bool,
}

/// Options of a handshake besides the URL.
#[derive(Debug, Default)]
pub(crate) struct TargetOptions {
    /// Lines `Name: value`, which replace headers of our own.
    pub(crate) headers: Vec<String>,
    /// Offered in this order.
    pub(crate) subprotocols: Vec<String>,
    /// Do not offer `echocast.v1`.
    pub(crate) raw: bool,
    pub(crate) origin: Option<String>,
    /// `user:password`, sent as HTTP basic authentication. It replaces that of the URL.
    pub(crate) auth: Option<String>,
}

impl Target {
    pub(crate) fn new(text: &str, mut options: TargetOptions) -> Result<Self, String> {
        let mut url = address::parse(text)?;
        // Taken out of the URL in any case, even if --auth replaces them.
        let credentials = take_credentials(&mut url);
        options.auth = options.auth.or(credentials);
        // Given headers come last, because they replace ours.
        let mut headers = headers(&options)?;
        headers.extend(given_headers(&options.headers)?);
        // Built once here, so that `request` cannot fail later.
        url.as_str()
            .into_client_request()
            .map_err(|error| format!("'{text}': {error}"))?;
        Ok(Self {
            url,
            offers_v1: !options.raw && !headers.contains_key(SEC_WEBSOCKET_PROTOCOL),
            headers,
        })
    }

    /// With its whole query, so do not print it.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether to ask the server for `echocast.v1`. Not if the user chose a subprotocol, or none.
    pub(crate) fn offers_v1(&self) -> bool {
        self.offers_v1
    }

    /// A new handshake, because its key must not be used twice.
    pub(crate) fn request(&self, offer_v1: bool) -> Request {
        let mut request = self
            .url
            .as_str()
            .into_client_request()
            .expect("the URL was checked in `new`");
        let headers = request.headers_mut();
        // These replace headers of the library, such as Host.
        headers.extend(self.headers.clone());
        if offer_v1 {
            let protocol = HeaderValue::from_static(v1::PROTOCOL);
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        request
    }

    /// The same target, with a replay of the newest `count` messages.
    pub(crate) fn with_last(&self, count: u64) -> Self {
        self.starting_at(&format!("last={count}"))
    }

    /// The same target, with a replay of all messages after this one.
    pub(crate) fn with_since(&self, id: &v1::Id) -> Self {
        let id: String = byte_serialize(id.to_string().as_bytes()).collect();
        self.starting_at(&format!("since={id}"))
    }

    /// Replaces the parameters that decide where to start.
    fn starting_at(&self, start: &str) -> Self {
        let query = self.url.query().unwrap_or_default();
        let others = query.split('&').filter(|pair| is_other(pair));
        let query: Vec<&str> = others.chain([start]).collect();
        let mut target = self.clone();
        target.url.set_query(Some(&query.join("&")));
        target
    }

    /// Whether the server sends a connection its own messages, too.
    pub(crate) fn has_echo(&self) -> bool {
        let mut pairs = self.url.query_pairs();
        !pairs.any(|(name, value)| name == "echo" && value == "false")
    }
}

impl fmt::Display for Target {
    /// Without the query: this is printed, and a query may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        url.set_query(None);
        url.fmt(f)
    }
}

/// Whether a parameter does not decide where to start.
fn is_other(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    !matches!(name, "" | "last" | "since" | "lastEventId")
}

/// Headers of our own, and those of flags other than --header.
fn headers(options: &TargetOptions) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let agent = concat!("echocast/", env!("CARGO_PKG_VERSION"));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
    if let Some(auth) = &options.auth {
        headers.insert(AUTHORIZATION, basic(auth)?);
    }
    if let Some(origin) = &options.origin {
        headers.insert(ORIGIN, value("--origin", origin)?);
    }
    // An empty list of subprotocols would be an invalid header.
    if !options.subprotocols.is_empty() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, offer(&options.subprotocols)?);
    }
    Ok(headers)
}

fn basic(auth: &str) -> Result<HeaderValue, String> {
    value("--auth", &format!("Basic {}", BASE64_STANDARD.encode(auth)))
}

fn offer(subprotocols: &[String]) -> Result<HeaderValue, String> {
    value("--subprotocol", &subprotocols.join(", "))
}

fn given_headers(lines: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) =
            given_header(line).map_err(|why| format!("--header '{line}': {why}"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn given_header(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, text) = line.split_once(':').ok_or("expected 'Name: value'")?;
    let name = HeaderName::try_from(name.trim()).map_err(|error| error.to_string())?;
    let value = HeaderValue::from_str(text.trim()).map_err(|_| "a header cannot hold this")?;
    Ok((name, value))
}

fn value(flag: &str, text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
        let text = text.escape_debug();
        format!("{flag} '{text}': a header cannot hold this")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, String> {
        Target::new(text, TargetOptions::default())
    }

    #[test]
    fn short_and_browser_forms_become_websocket_urls() {
        for (text, url) in [
            ("localhost:8080", "ws://localhost:8080/"),
            (":9000", "ws://localhost:9000/"),
            (":9000/news", "ws://localhost:9000/news"),
            ("/news", "ws://localhost:8080/news"),
            ("example.org", "ws://example.org/"),
            ("http://example.org/a?last=3", "ws://example.org/a?last=3"),
            ("HTTPS://example.org", "wss://example.org/"),
            ("wss://[::1]:8443/a:b", "wss://[::1]:8443/a:b"),
            ("192.168.0.1:80/x", "ws://192.168.0.1/x"),
        ] {
            assert_eq!(
                target(text).map(|target| target.url.to_string()),
                Ok(url.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_url_that_cannot_work_is_rejected_with_its_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("ftp://example.org", "unknown scheme 'ftp'"),
            ("ws://", "empty host"),
            ("ws://host:99999", "port"),
            ("ws://host:0", "port 0"),
            ("ws://host/#a", "fragment"),
            ("ws://a b/", "invalid"),
        ] {
            let error = target(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_start_replaces_the_one_in_the_query_and_keeps_the_rest() {
        let with_last = |text: &str| {
            target(text).map(|target| target.with_last(20).url.query().map(str::to_owned))
        };
        assert_eq!(with_last("ws://host"), Ok(Some("last=20".to_owned())));
        let kept = "token=a%2Bb&lastly=1&last=20".to_owned();
        assert_eq!(
            with_last("ws://host?token=a%2Bb&last=5&lastly=1&since=e-1"),
            Ok(Some(kept))
        );
        let since = target("ws://host?last=5&echo=false&since=e-1&lastEventId=e-1")
            .map(|target| target.with_since(&v1::Id::new("e-2")));
        assert_eq!(
            since.expect("a good URL").url.query(),
            Some("echo=false&since=e-2")
        );
    }

    #[test]
    fn a_subprotocol_of_ours_is_offered_unless_the_user_chose() {
        let offered = |options| {
            Target::new("host", options)
                .expect("good options")
                .offers_v1()
        };
        assert!(offered(TargetOptions::default()));
        assert!(!offered(TargetOptions {
            raw: true,
            ..Default::default()
        }));
        assert!(!offered(TargetOptions {
            subprotocols: vec!["chat".into()],
            ..Default::default()
        }));
        let header = vec!["sec-websocket-protocol: chat".into()];
        assert!(!offered(TargetOptions {
            headers: header,
            ..Default::default()
        }));
        let request = Target::new("host", TargetOptions::default())
            .expect("a good URL")
            .request(true);
        assert_eq!(request.headers()[SEC_WEBSOCKET_PROTOCOL], v1::PROTOCOL);
    }

    #[test]
    fn credentials_of_the_url_are_sent_but_never_shown() {
        let target = target("ws://me:p%40ss@host/a?token=secret").expect("a good URL");
        assert_eq!(target.to_string(), "ws://host/a");
        assert_eq!(
            target.request(false).headers()[AUTHORIZATION],
            "Basic bWU6cEBzcw=="
        );
        assert_eq!(target.request(false).headers()["host"], "host");
        let auth = Some("other:one".to_owned());
        let options = TargetOptions {
            auth,
            ..Default::default()
        };
        let target = Target::new("ws://me:p%40ss@host/a", options).expect("a good URL");
        assert_eq!(target.to_string(), "ws://host/a");
        assert_eq!(
            target.request(false).headers()[AUTHORIZATION],
            "Basic b3RoZXI6b25l"
        );
    }

    #[test]
    fn given_headers_win_and_bad_ones_are_named() {
        let with = |line: &str| {
            Target::new(
                "host",
                TargetOptions {
                    headers: vec![line.into()],
                    ..Default::default()
                },
            )
        };
        assert_eq!(
            with("user-agent: mine")
                .expect("a good header")
                .request(false)
                .headers()[USER_AGENT],
            "mine"
        );
        assert_eq!(
            with("Host: other")
                .expect("a good header")
                .request(false)
                .headers()
                .get_all("host")
                .iter()
                .count(),
            1
        );
        assert!(
            with("nonsense")
                .expect_err("no colon")
                .contains("'nonsense': expected 'Name: value'")
        );
        assert!(with("a b: c").expect_err("no such name").contains("a b"));
    }
}
