//! The public port: one path is one channel, told apart by method and headers. What is answered is others' business.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;

use super::listen::Peer;
use super::{events, page, publish, snapshot};
use crate::broker::Status;
use crate::channel::ChannelName;
use crate::ws::handshake::{self, Door, Refusal};

/// What channels answer to.
const METHODS: &str = "GET, HEAD, POST, OPTIONS";

/// What the public port needs of its node.
#[derive(Debug)]
pub struct Public {
    /// Where sessions begin.
    pub door: Door,
    /// How the broker is.
    pub status: Arc<Status>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxy: Vec<IpNet>,
}

/// All paths.
pub fn router(public: Public) -> Router {
    Router::new().fallback(any).with_state(Arc::new(public))
}

async fn any(State(public): State<Arc<Public>>, request: Request) -> Response {
    if request.uri().path().starts_with("/_/") {
        return page::file(request.method(), request.uri().path());
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let answered = match ChannelName::from_path(request.uri().path()) {
        Ok(name) => public.answer(&name, request).await,
        Err(bad) => Err(bad.into()),
    };
    let mut response = answered.unwrap_or_else(|refusal| {
        public.door.shared.metrics.handshakes_refused.with_label_values(&[refusal.label()]).inc();
        tracing::debug!(reason = refusal.label(), "refused: {refusal}");
        refusal.response()
    });
    public.share(&mut response, origin);
    response
}

/// What a GET asks for.
enum Wanted {
    Events,
    Page,
    Snapshot,
    Nothing,
}

impl Wanted {
    fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("*/*");
        let wants = |kinds: &[&str]| kinds.iter().any(|kind| accept.contains(kind));
        if wants(&["text/event-stream"]) {
            Self::Events
        } else if wants(&["text/html"]) {
            Self::Page
        } else if wants(&["application/json"]) {
            Self::Snapshot
        } else if wants(&["text/*", "*/*"]) {
            Self::Page
        } else {
            Self::Nothing
        }
    }
}

impl Public {
    async fn answer(&self, name: &ChannelName, request: Request) -> Result<Response, Refusal> {
        let ip = self.client(&request);
        if handshake::is_meant(request.headers()) {
            return self.door.enter(name, ip, request).await;
        }
        match (request.method(), Wanted::of(request.headers())) {
            (&Method::POST, _) => publish::publish(self, name, request).await,
            (&Method::OPTIONS, _) => Ok((StatusCode::NO_CONTENT, [(header::ALLOW, METHODS)]).into_response()),
            (&Method::GET, Wanted::Events) => events::events(self, name, ip, request).await,
            (&Method::GET | &Method::HEAD, Wanted::Snapshot) => snapshot::snapshot(self, name, request).await,
            (&Method::HEAD, Wanted::Events) => Ok(events::head()),
            (&Method::GET | &Method::HEAD, Wanted::Page) => Ok(page::page()),
            (&Method::GET | &Method::HEAD, _) => {
                let text = "here are a page (text/html), text/event-stream, application/json and websockets\n";
                Ok((StatusCode::NOT_ACCEPTABLE, text).into_response())
            }
            _ => {
                let text = "only GET, POST and websockets here\n";
                Ok((StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, METHODS)], text).into_response())
            }
        }
    }

    /// Lets pages of allowed origins read the answer, as they may open WebSockets.
    fn share(&self, response: &mut Response, origin: Option<HeaderValue>) {
        let Some(origin) = origin else { return };
        let headers = response.headers_mut();
        let allowed = match &self.door.allow_origin {
            None => HeaderValue::from_static("*"),
            Some(_) if self.door.allows(&origin) => origin,
            Some(_) => return,
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        let asked = "authorization, content-type, idempotency-key, last-event-id, traceparent";
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(asked));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
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
