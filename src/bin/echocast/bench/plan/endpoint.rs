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
    // TLS would make this program the slow side.
    if target.url().scheme() != "ws" {
        let instead = "connect to the server behind the TLS proxy";
        return Err(format!("'{target}': bench speaks ws:// only; {instead}"));
    }
    // Windows are refilled by own messages that come back.
    if !target.has_echo() {
        let instead = "leave out echo=false";
        return Err(format!(
            "'{target}': publishers must receive their own messages, {instead}"
        ));
    }
    Ok(())
}

async fn look_up(url: &Url) -> Result<Vec<SocketAddr>, String> {
    let found = lookup_host(host_and_port(url)?)
        .await
        .map_err(|error| error.to_string())?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err("no address".to_owned());
    }
    Ok(addresses)
}

fn host_and_port(url: &Url) -> Result<String, String> {
    let host = url.host_str().ok_or("no host")?;
    let port = url.port_or_known_default().ok_or("no port")?;
    Ok(format!("{host}:{port}"))
}

/// A complaint if the URLs are not all of one channel.
pub(super) fn not_one_channel(endpoints: &[Endpoint]) -> Option<String> {
    let mut channels = endpoints.iter().map(Endpoint::channel);
    let first = channels.next()?;
    let other = channels.find(|channel| *channel != first)?;
    let problem = "all URLs must be of one channel";
    Some(format!("{problem}, not of '{first}' and '{other}'"))
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
    endpoints.iter().find_map(Endpoint::outside)
}

impl Endpoint {
    fn outside(&self) -> Option<String> {
        let address = self.addresses.iter().find(|address| !is_local(address))?;
        Some(format!("'{}' ({})", self.target, address.ip()))
    }

    fn channel(&self) -> &str {
        channel(self.target.url())
    }
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
