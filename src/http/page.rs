//! The page of a channel and its files.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A page may load its own files and connect to its own server, and nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &[u8] = include_bytes!("../../static/index.html");

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The page's files: path, type, bytes.
const FILES: [(&str, &str, &[u8]); 3] = [
    ("/_/app.js", SCRIPT, include_bytes!("../../static/app.js")),
    (
        "/_/echocast.js",
        SCRIPT,
        include_bytes!("../../static/echocast.js"),
    ),
    (
        "/_/style.css",
        "text/css; charset=utf-8",
        include_bytes!("../../static/style.css"),
    ),
];

/// The page of a channel. Every channel has the same one.
pub(super) fn page() -> Response {
    html(PAGE.into())
}

/// A page. The same address has other answers for programs.
pub(super) fn html(html: Bytes) -> Response {
    let mut response = serve("text/html; charset=utf-8", html);
    let vary = HeaderValue::from_static("accept, upgrade");
    response.headers_mut().insert(header::VARY, vary);
    response
}

/// A file of the page, by its path.
pub(super) fn file(method: &Method, path: &str) -> Response {
    match FILES.iter().find(|(name, _, _)| *name == path) {
        Some(_) if method != Method::GET && method != Method::HEAD => (
            StatusCode::METHOD_NOT_ALLOWED,
            [(header::ALLOW, "GET, HEAD")],
            "only GET here\n",
        )
            .into_response(),
        Some((_, SCRIPT, bytes)) => {
            // Other sites' pages may use the client module.
            (
                [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")],
                serve(SCRIPT, *bytes),
            )
                .into_response()
        }
        Some((_, kind, bytes)) => serve(kind, *bytes),
        None => (
            StatusCode::NOT_FOUND,
            "no such file; paths under /_/ are the page's own\n",
        )
            .into_response(),
    }
}

fn serve(kind: &'static str, bytes: impl Into<Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        // Small, and always those of this version of the server.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, bytes.into()).into_response()
}
