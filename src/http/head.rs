//! Rules for the head of a request, beyond what the HTTP parser checks: its size, and the one
//! `Host` that it names.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{Uri, Version, header};

use crate::client::rejection::Rejection;

/// A head is at most this long, in bytes: request line, header lines and the empty line, each with
/// its CRLF, written as `name: value`.
pub(super) const HEAD_BYTES: usize = 32 * 1024;

/// Checks the rules.
pub(super) fn check(request: &Request) -> Result<(), Rejection> {
    if length(request) > HEAD_BYTES {
        return Err(Rejection::HeadTooLarge(HEAD_BYTES));
    }
    check_host(request).map_err(Rejection::Unreadable)
}

/// Exactly one `Host`, as RFC 9112, section 3.2, asks for. Proxies and nodes that choose different
/// ones of several would disagree about the origin.
fn check_host(request: &Request) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err("more than one Host header"),
        (None, _) if request.version() == Version::HTTP_11 => Err("no Host header"),
        (Some(host), None) if !is_host(host.as_bytes()) => Err("the Host header names no host"),
        _ => Ok(()),
    }
}

/// A host with or without a port, or nothing.
fn is_host(host: &[u8]) -> bool {
    host.is_empty() || Authority::try_from(host).is_ok_and(|host| !host.as_str().contains('@'))
}

/// The length of the head as [`HEAD_BYTES`] counts it.
fn length(request: &Request) -> usize {
    let line = request.method().as_str().len() + " ".len() + target_length(request.uri());
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + " HTTP/1.1\r\n".len() + headers.sum::<usize>() + "\r\n".len()
}

/// The length of the request's target: a path, or an address with scheme and authority.
fn target_length(uri: &Uri) -> usize {
    let scheme = uri
        .scheme_str()
        .map_or(0, |scheme| scheme.len() + "://".len());
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(1, |path| path.as_str().len());
    scheme + authority + path
}
