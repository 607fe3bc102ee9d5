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
    let Some((_, kind, bytes)) = FILES.iter().find(|(name, _, _)| *name == path) else {
        let text = "no such file; paths under /_/ are the page's own\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    if method != Method::GET && method != Method::HEAD {
        let allow = [(header::ALLOW, "GET, HEAD")];
        return (StatusCode::METHOD_NOT_ALLOWED, allow, "only GET here\n").into_response();
    }
    let mut response = serve(kind, *bytes);
    if *kind == SCRIPT {
        // Other sites' pages may use the client module.
        let any = HeaderValue::from_static("*");
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
    }
    response
}

fn serve(kind: &'static str, bytes: impl Into<Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        // They are small, and a page must have the files of its server's version.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, bytes.into()).into_response()
}
