//! Reads an address as people type it, and turns it into the URL of a WebSocket.

use percent_encoding::percent_decode_str;
use url::Url;

pub(crate) const DEFAULT_URL: &str = "ws://localhost:8080";

/// Accepts `ws://` and `wss://`, the address bar of a browser, and the short forms `host:port`,
/// `:port` and `/channel`.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    parse_parts(text).map_err(|why| format!("'{text}' is not a WebSocket URL: {why}"))
}

fn parse_parts(text: &str) -> Result<Url, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut url = Url::parse(&complete(text)).map_err(|error| error.to_string())?;
    // A URL copied from a browser works, too.
    let scheme = websocket_scheme(url.scheme())?;
    url.set_scheme(scheme)
        .map_err(|()| "its scheme cannot be a WebSocket's")?;
    check(&url)?;
    Ok(url)
}

/// Parts that a URL may have, but that cannot work here.
fn check(url: &Url) -> Result<(), &'static str> {
    if url.fragment().is_some() {
        return Err("it has a #fragment, which is never sent to a server");
    }
    if url.port() == Some(0) {
        return Err("port 0 cannot be connected to");
    }
    Ok(())
}

/// Adds the parts that a short form leaves out.
fn complete(text: &str) -> String {
    match text {
        _ if text.contains("://") => text.to_owned(),
        _ if text.starts_with(':') => format!("ws://localhost{text}"),
        _ if text.starts_with('/') => format!("{DEFAULT_URL}{text}"),
        _ => format!("ws://{text}"),
    }
}

fn websocket_scheme(scheme: &str) -> Result<&'static str, String> {
    match scheme {
        "ws" | "http" => Ok("ws"),
        "wss" | "https" => Ok("wss"),
        other => Err(format!(
            "unknown scheme '{other}', expected ws, wss, http or https"
        )),
    }
}

/// Takes `user:password` out of a URL, because they do not belong into the request line.
pub(super) fn take_credentials(url: &mut Url) -> Option<String> {
    let credentials = credentials(url)?;
    url.set_username("")
        .and_then(|()| url.set_password(None))
        .expect("a URL with credentials has a host");
    Some(credentials)
}

fn credentials(url: &Url) -> Option<String> {
    let user = decode(url.username());
    let password = url.password().map(decode);
    if user.is_empty() && password.is_none() {
        return None;
    }
    Some(format!("{user}:{}", password.unwrap_or_default()))
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
