//! Where to connect and what to say in the handshake, from what the user typed. Pure: nothing is
//! reached here.

use std::fmt;
use std::process::ExitCode;

use base64::prelude::{BASE64_STANDARD, Engine};
use percent_encoding::percent_decode_str;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::{
    AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL, USER_AGENT,
};
use url::Url;

use super::v1;
use crate::show::notice;

pub(crate) const DEFAULT_URL: &str = "ws://localhost:8080";

/// A server, a channel and the handshake's own headers: checked, so that every request built from
/// it is valid.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    url: Url,
    headers: HeaderMap,
    offers_v1: bool,
}

/// What may be asked of a handshake besides the URL.
#[derive(Debug, Default)]
pub(crate) struct TargetOptions {
    /// `Name: value` lines; they win over the ones of our own.
    pub(crate) headers: Vec<String>,
    /// Offered in this order.
    pub(crate) subprotocols: Vec<String>,
    /// Offers nothing of our own.
    pub(crate) raw: bool,
    pub(crate) origin: Option<String>,
    /// `user:password`, sent as HTTP basic authentication. Wins over the URL's.
    pub(crate) auth: Option<String>,
}

impl Target {
    pub(crate) fn new(text: &str, options: TargetOptions) -> Result<Self, String> {
        let mut url = parse_url(text)?;
        let mut headers = HeaderMap::new();
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("echocast/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(auth) = options.auth.or_else(|| take_credentials(&mut url)) {
            headers.insert(
                AUTHORIZATION,
                value("--auth", &format!("Basic {}", BASE64_STANDARD.encode(auth)))?,
            );
        }
        if let Some(origin) = &options.origin {
            headers.insert(ORIGIN, value("--origin", origin)?);
        }
        if !options.subprotocols.is_empty() {
            headers.insert(
                SEC_WEBSOCKET_PROTOCOL,
                value("--subprotocol", &options.subprotocols.join(", "))?,
            );
        }
        let mut given = HeaderMap::new();
        for line in &options.headers {
            let (name, text) = line
                .split_once(':')
                .ok_or_else(|| format!("--header '{line}': expected 'Name: value'"))?;
            let name = HeaderName::try_from(name.trim())
                .map_err(|error| format!("--header '{line}': {error}"))?;
            given.append(name, value("--header", text.trim())?);
        }
        headers.extend(given);
        let offers_v1 = !options.raw && !headers.contains_key(SEC_WEBSOCKET_PROTOCOL);
        url.as_str()
            .into_client_request()
            .map_err(|error| format!("'{text}': {error}"))?;
        Ok(Self {
            url,
            headers,
            offers_v1,
        })
    }

    /// Where it is: with everything of the query, so not for showing.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether the server may be asked for `echocast.v1`: not where the user chose a subprotocol or
    /// none.
    pub(crate) fn offers_v1(&self) -> bool {
        self.offers_v1
    }

    /// A fresh handshake: its key must never be used twice.
    pub(crate) fn request(&self, offer_v1: bool) -> Request {
        let mut request = self
            .url
            .as_str()
            .into_client_request()
            .expect("the URL was checked in `new`");
        request.headers_mut().extend(self.headers.clone());
        if offer_v1 {
            request.headers_mut().insert(
                SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static(v1::PROTOCOL),
            );
        }
        request
    }

    /// The same target, asking for a replay of the newest `count` messages.
    pub(crate) fn with_last(&self, count: u64) -> Self {
        self.beginning_with(&format!("last={count}"))
    }

    /// The same target, asking for everything after a message.
    pub(crate) fn with_since(&self, id: &v1::Id) -> Self {
        let id = id.to_string();
        self.beginning_with(&format!(
            "since={}",
            url::form_urlencoded::byte_serialize(id.as_bytes()).collect::<String>()
        ))
    }

    /// Replaces whatever says where to begin.
    fn beginning_with(&self, place: &str) -> Self {
        let query = self.url.query().unwrap_or_default();
        let is_place = |pair: &str| {
            matches!(
                pair.split('=').next(),
                Some("last" | "since" | "lastEventId")
            )
        };
        let others = query
            .split('&')
            .filter(|pair| !pair.is_empty() && !is_place(pair));
        let query = others.chain([place]).collect::<Vec<_>>().join("&");
        let mut target = self.clone();
        target.url.set_query(Some(&query));
        target
    }

    /// Whether the server was asked to leave out this connection's own messages.
    pub(crate) fn hears_itself(&self) -> bool {
        !self
            .url
            .query_pairs()
            .any(|(name, value)| name == "echo" && value == "false")
    }
}

impl fmt::Display for Target {
    /// Without the query: it may carry a token, and this is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        url.set_query(None);
        url.fmt(f)
    }
}

/// Says what is wrong with the command line; 64 is `EX_USAGE` of sysexits(3).
pub(crate) fn usage_error(problem: &str) -> ExitCode {
    notice(problem);
    ExitCode::from(64)
}

/// Takes `ws://` and `wss://`, what a browser's address bar gives, and the short forms `host:port`,
/// `:port` and `/channel`.
fn parse_url(text: &str) -> Result<Url, String> {
    let wrong = |what: &str| format!("'{text}' is not a WebSocket URL: {what}");
    let full = match text {
        "" => return Err(wrong("it is empty")),
        _ if text.contains("://") => text.to_owned(),
        _ if text.starts_with(':') => format!("ws://localhost{text}"),
        _ if text.starts_with('/') => format!("{DEFAULT_URL}{text}"),
        _ => format!("ws://{text}"),
    };
    let mut url = Url::parse(&full).map_err(|error| wrong(&error.to_string()))?;
    let scheme = match url.scheme() {
        "ws" | "http" => "ws",
        "wss" | "https" => "wss",
        other => {
            return Err(wrong(&format!(
                "unknown scheme '{other}', expected ws, wss, http or https"
            )));
        }
    };
    url.set_scheme(scheme)
        .map_err(|()| wrong("its scheme cannot be a WebSocket's"))?;
    if url.fragment().is_some() {
        return Err(wrong("it has a #fragment, which is never sent to a server"));
    }
    if url.port() == Some(0) {
        return Err(wrong("port 0 cannot be connected to"));
    }
    Ok(url)
}

/// The user and password of the URL, which do not belong into the request line.
fn take_credentials(url: &mut Url) -> Option<String> {
    let user = url.username().to_owned();
    let password = url.password().map(str::to_owned);
    if user.is_empty() && password.is_none() {
        return None;
    }
    url.set_username("")
        .and_then(|()| url.set_password(None))
        .expect("a URL with credentials has a host");
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some(format!(
        "{}:{}",
        plain(&user),
        plain(&password.unwrap_or_default())
    ))
}

fn value(flag: &str, text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
        format!(
            "{flag} '{}': a header cannot hold this",
            text.escape_debug()
        )
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
    fn a_url_that_cannot_work_is_refused_with_its_reason() {
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
    fn a_place_replaces_the_one_in_the_query_and_keeps_the_rest() {
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
