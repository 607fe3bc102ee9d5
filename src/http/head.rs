//! Rules for the head of a request, beyond what the HTTP parser checks: its size, and the one
//! `Host` that it names.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{Version, header};

use crate::client::rejection::Rejection;

/// A head is at most this long, in bytes: request line, header lines and the empty line, each with
/// its CRLF, written as `name: value`.
pub const HEAD_BYTES: usize = 32 * 1024;

/// Checks them.
pub(super) fn check(request: &Request) -> Result<(), Rejection> {
    if length(request) > HEAD_BYTES {
        return Err(Rejection::HeadTooLarge(HEAD_BYTES));
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(Rejection::Unreadable("more than one Host header")),
        (None, _) if request.version() == Version::HTTP_11 => {
            Err(Rejection::Unreadable("no Host header"))
        }
        (Some(host), None) if !is_host(host.as_bytes()) => {
            Err(Rejection::Unreadable("the Host header names no host"))
        }
        _ => Ok(()),
    }
}

/// A host with or without a port, or nothing.
fn is_host(host: &[u8]) -> bool {
    host.is_empty() || Authority::try_from(host).is_ok_and(|host| !host.as_str().contains('@'))
}

fn length(request: &Request) -> usize {
    let uri = request
        .uri()
        .path_and_query()
        .map_or(1, |path| path.as_str().len());
    // As an absolute address it has a scheme and an authority.
    let scheme = request
        .uri()
        .scheme_str()
        .map_or(0, |scheme| scheme.len() + "://".len());
    let uri = uri
        + scheme
        + request
            .uri()
            .authority()
            .map_or(0, |authority| authority.as_str().len());
    let line = request.method().as_str().len() + " ".len() + uri + " HTTP/1.1\r\n".len();
    let headers = request.headers().iter();
    line + headers
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
        .sum::<usize>()
        + "\r\n".len()
}
