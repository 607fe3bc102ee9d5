//! Cross-origin requests: the headers by which a browser lets pages of other origins read an answer
//! (the CORS protocol of the Fetch standard).

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use crate::client::origin::Origins;

/// Methods of a channel.
pub(super) const METHODS: &str = "GET, HEAD, POST, OPTIONS";

/// Request headers that pages may send.
const REQUEST_HEADERS: &str =
    "authorization, content-type, echocast-kind, idempotency-key, last-event-id, traceparent";

/// A request's headers by which a browser asks whether a page may read the answer.
#[derive(Debug)]
pub(super) struct CorsRequest {
    /// The page's origin.
    origin: Option<HeaderValue>,
    /// Headers that the page wants to send. Only in a preflight request.
    headers: Option<HeaderValue>,
}

impl CorsRequest {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            origin: headers.get(header::ORIGIN).cloned(),
            headers: headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
        }
    }

    /// Lets pages of allowed origins read the answer: the same pages that may open WebSockets.
    pub(super) fn answer(self, origins: &Origins, response: &mut Response) {
        let Some(origin) = self.origin else { return };
        let headers = response.headers_mut();
        let vary = HeaderValue::from_static("origin, access-control-request-headers");
        headers.append(header::VARY, vary);
        if origins.are_any() {
            // Without credentials: any page could use its visitor's cookies.
            let any = HeaderValue::from_static("*");
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
        } else if origins.allow(&origin) {
            let credentials = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        } else {
            return;
        }
        // Every header that a preflight asks for, because tracing libraries add many of their own.
        // No header grants anything here.
        let ours = || HeaderValue::from_static(REQUEST_HEADERS);
        let allowed = self.headers.unwrap_or_else(ours);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "retry-after"),
            (header::ACCESS_CONTROL_MAX_AGE, "3600"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}
