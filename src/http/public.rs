//! The public port: one path is one channel, told apart by method and headers. Beside that the page and its files.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;

use super::listen::Peer;
use crate::channel::ChannelName;
use crate::ws::handshake::{self, Door, Refusal};

/// Nothing but the page's own files and its own server.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &[u8] = include_bytes!("../../static/index.html");

/// The page's files: path, type, bytes.
const FILES: [(&str, &str, &[u8]); 2] = [
    ("/_/app.js", "text/javascript; charset=utf-8", include_bytes!("../../static/app.js")),
    ("/_/style.css", "text/css; charset=utf-8", include_bytes!("../../static/style.css")),
];

/// What the public port needs of its node.
#[derive(Debug)]
pub struct Public {
    /// Where sessions begin.
    pub door: Door,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxy: Vec<IpNet>,
}

/// All paths.
pub fn router(public: Public) -> Router {
    Router::new().fallback(any).with_state(Arc::new(public))
}

async fn any(State(public): State<Arc<Public>>, request: Request) -> Response {
    if request.uri().path().starts_with("/_/") {
        return file(request.method(), request.uri().path());
    }
    if handshake::is_meant(request.headers()) {
        return public.websocket(request).await;
    }
    if let Err(bad) = ChannelName::from_path(request.uri().path()) {
        return Refusal::from(bad).response();
    }
    match *request.method() {
        Method::GET | Method::HEAD => page(request.headers()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], "only GET and websockets here\n")
            .into_response(),
    }
}

impl Public {
    async fn websocket(&self, request: Request) -> Response {
        let entered = match ChannelName::from_path(request.uri().path()) {
            Ok(name) => self.door.enter(&name, self.client(&request), request).await,
            Err(bad) => Err(bad.into()),
        };
        entered.unwrap_or_else(|refusal| {
            self.door.shared.metrics.handshakes_refused.with_label_values(&[refusal.label()]).inc();
            tracing::debug!(reason = refusal.label(), "refused: {refusal}");
            refusal.response()
        })
    }

    /// The client's address: that of the connection, or what trusted proxies say. Each proxy appends the address it
    /// saw, so the last one that is not itself a trusted proxy's is the client's; what stands before it anybody can write.
    fn client(&self, request: &Request) -> IpAddr {
        let peer =
            request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip().to_canonical());
        let trusted = |ip: &IpAddr| self.trusted_proxy.iter().any(|net| net.contains(ip));
        if !trusted(&peer) {
            return peer;
        }
        let forwarded = request.headers().get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = forwarded.flat_map(|value| value.split(',')).collect();
        let hops = hops.into_iter().rev().map_while(address).map(|ip| ip.to_canonical());
        let mut client = peer;
        for hop in hops {
            client = hop;
            if !trusted(&hop) {
                break;
            }
        }
        client
    }
}

/// An address as proxies write it, some with the port.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    hop.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

fn page(headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("*/*");
    if !["text/html", "text/*", "*/*"].iter().any(|kind| accept.contains(kind)) {
        return (StatusCode::NOT_ACCEPTABLE, "here are a page (text/html) and websockets\n").into_response();
    }
    let mut response = serve("text/html; charset=utf-8", PAGE);
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("accept, upgrade"));
    response
}

fn file(method: &Method, path: &str) -> Response {
    match FILES.iter().find(|(name, _, _)| *name == path) {
        Some(_) if method != Method::GET && method != Method::HEAD => {
            (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], "only GET here\n").into_response()
        }
        Some((_, kind, bytes)) => serve(kind, bytes),
        None => (StatusCode::NOT_FOUND, "no such file; paths under /_/ are the page's own\n").into_response(),
    }
}

fn serve(kind: &'static str, bytes: &'static [u8]) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        // Small, and always those of this version of the server.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Body::from(bytes)).into_response()
}
