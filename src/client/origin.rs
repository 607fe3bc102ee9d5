//! Which web pages may use this node: `--allow-origin`. Programs that are no browsers always may.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, header};

use super::header_list;
use super::rejection::Rejection;

/// Origins of web pages that may connect.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    /// As browsers write them, such as `https://example.org`; `None` is any.
    allowed: Option<Vec<String>>,
}

impl Origins {
    /// These origins; `None` is any.
    pub(crate) fn new(allowed: Option<Vec<String>>) -> Self {
        Self { allowed }
    }

    /// Whether pages of every origin may connect.
    pub(crate) fn are_any(&self) -> bool {
        self.allowed.is_none()
    }

    /// Whether pages of this origin may connect.
    pub(crate) fn allow(&self, origin: &HeaderValue) -> bool {
        self.allowed
            .as_ref()
            .is_none_or(|allowed| allowed.contains(&readable(origin)))
    }

    /// Checks where a request comes from.
    ///
    /// # Errors
    /// If it comes from a page that may not connect.
    pub(crate) fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Rejection> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        if let Some(origin) = origins.find(|origin| !self.allow(origin)) {
            return Err(Rejection::Origin(readable(origin)));
        }
        if headers.contains_key(header::ORIGIN) {
            return Ok(());
        }
        // Browsers send `Origin` with every handshake and with everything that publishes.
        let is_read = *method == Method::GET && !is_handshake(headers);
        self.check_host(headers, is_read)
    }

    /// Checks `Host` of a browser's request without `Origin`. DNS rebinding makes a page believe
    /// that this node is its own server, so its requests have no `Origin`. But `Host` still names
    /// the page's host, and other headers show the browser.
    fn check_host(&self, headers: &HeaderMap, is_read: bool) -> Result<(), Rejection> {
        let Some(allowed) = &self.allowed else {
            return Ok(());
        };
        if !is_browser(headers, is_read) {
            return Ok(());
        }
        let named = headers.get(header::HOST).map(readable).unwrap_or_default();
        let mut allowed_hosts = allowed
            .iter()
            .filter_map(|origin| origin.split_once("://"))
            .map(|(_, authority)| host(authority));
        if allowed_hosts.any(|allowed| allowed == host(&named)) {
            Ok(())
        } else {
            Err(Rejection::Host(named))
        }
    }
}

/// Whether a request asks to become a WebSocket.
pub(crate) fn is_handshake(headers: &HeaderMap) -> bool {
    header_list::contains(headers, header::UPGRADE, "websocket")
}

/// The host in `host` or `host:port`.
fn host(host: &str) -> &str {
    host.parse::<Authority>()
        .map_or(host, |authority| &host[..authority.host().len()])
}

/// Whether a request shows signs of a browser. Node's `fetch` sends some of them, too. Those count
/// only for a read, because a page can leave out `Origin` only there.
pub(crate) fn is_browser(headers: &HeaderMap, is_read: bool) -> bool {
    let is_mozilla = headers
        .get(header::USER_AGENT)
        .is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    let has_language = headers
        .get(header::ACCEPT_LANGUAGE)
        .is_some_and(|language| is_read || language != "*");
    let has_fetch_metadata = headers.keys().any(|name| {
        name.as_str().starts_with("sec-fetch-") && (is_read || name != "sec-fetch-mode")
    });
    is_mozilla || has_fetch_metadata || has_language || headers.contains_key(header::REFERER)
}

fn readable(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase()
}
