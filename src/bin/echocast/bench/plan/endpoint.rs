//! Servers of a load: their URLs, their addresses, and whether they are on this machine.

use std::net::SocketAddr;

use tokio::net::lookup_host;
use url::Url;

use crate::connect::{Target, TargetOptions};

/// Without context takeover each message is deflated by itself, so the server can send the same
/// bytes to every subscriber.
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; \
                     server_no_context_takeover; client_no_context_takeover";

/// A server, and its addresses.
#[derive(Debug)]
pub(in crate::bench) struct Endpoint {
    pub(in crate::bench) target: Target,
    /// At least one.
    pub(in crate::bench) addresses: Vec<SocketAddr>,
}

impl Endpoint {
    pub(super) async fn find(text: &str, deflate: bool) -> Result<Self, String> {
        let target = Target::new(text, options(deflate))?;
        check(&target)?;
        let addresses = look_up(target.url())
            .await
            .map_err(|why| format!("'{target}': cannot find the server: {why}"))?;
        Ok(Self { target, addresses })
    }
}

fn options(deflate: bool) -> TargetOptions {
    TargetOptions {
        raw: true,
        headers: deflate.then(|| OFFER.to_owned()).into_iter().collect(),
        ..TargetOptions::default()
    }
}

fn check(target: &Target) -> Result<(), String> {
    if target.url().scheme() != "ws" {
        return Err(format!(
            "'{target}': bench speaks ws:// only; connect to the server behind the TLS proxy"
        ));
    }
    if !target.has_echo() {
        return Err(format!(
            "'{target}': publishers must receive their own messages, leave out echo=false"
        ));
    }
    Ok(())
}

async fn look_up(url: &Url) -> Result<Vec<SocketAddr>, String> {
    let host = url.host_str().ok_or("no host")?;
    let port = url.port_or_known_default().ok_or("no port")?;
    let found = lookup_host(format!("{host}:{port}"))
        .await
        .map_err(|error| error.to_string())?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err("no address".to_owned());
    }
    Ok(addresses)
}

/// A complaint if the URLs are not all of one channel.
pub(super) fn not_one_channel(endpoints: &[Endpoint]) -> Option<String> {
    let mut channels = endpoints
        .iter()
        .map(|endpoint| channel(endpoint.target.url()));
    let first = channels.next()?;
    let other = channels.find(|channel| *channel != first)?;
    Some(format!(
        "all URLs must be of one channel, not of '{first}' and '{other}'"
    ))
}

/// Paths `/` and `/ws` are one channel. The query is left out, because it may hold a token.
fn channel(url: &Url) -> &str {
    match url.path() {
        "/ws" => "/",
        path => path,
    }
}

/// The first server that is not, or not for certain, on this machine.
pub(super) fn outside(endpoints: &[Endpoint]) -> Option<String> {
    endpoints.iter().find_map(|Endpoint { target, addresses }| {
        let address = addresses.iter().find(|address| !is_local(address))?;
        Some(format!("'{target}' ({})", address.ip()))
    })
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
