//! The public port: one path is one channel. Method and headers choose the kind of answer, which
//! the modules beside this one write.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::accept::{Accept, Wanted};
use super::bad_name::bad_name;
use super::context::Context;
use super::cors::{CorsRequest, METHODS};
use super::{events, head, page, publish, snapshot, websocket};
use crate::channel::{BadName, ChannelName};
use crate::client::caller::Caller;
use crate::client::origin::is_handshake;
use crate::client::percent;
use crate::client::rejection::Rejection;
use crate::ws::handshake;

/// All paths.
pub fn router(context: Context) -> Router {
    Router::new().fallback(any).with_state(Arc::new(context))
}

async fn any(State(context): State<Arc<Context>>, request: Request) -> Response {
    let cors = CorsRequest::of(request.headers());
    let accept = Accept::of(request.headers());
    let form = RejectionForm::of(&request, &accept);
    let wanted = accept.wanted();
    // A handler may wait for the broker without end, so the whole request has a time limit.
    let answered = timeout(context.patience(), answer(&context, wanted, request)).await;
    let mut response = answered
        .unwrap_or(Err(Rejection::BrokerAway))
        .unwrap_or_else(|rejection| {
            context.count(&rejection);
            form.response(&context, &rejection)
        });
    cors.answer(&context.origins, &mut response);
    response
}

/// The form in which a client can read why its request was rejected.
enum RejectionForm {
    /// One line of text.
    Line,
    /// An event stream, whose client gives up for good at any other answer.
    Events,
    /// A page, if the path is no channel name: a person has typed it.
    Page { path: String },
}

impl RejectionForm {
    fn of(request: &Request, accept: &Accept) -> Self {
        let is_get = request.method() == Method::GET;
        if is_get && accept.wanted() == Wanted::Events {
            Self::Events
        } else if accept.names_page() && (is_get || request.method() == Method::HEAD) {
            Self::Page {
                path: request.uri().path().to_owned(),
            }
        } else {
            Self::Line
        }
    }

    fn response(&self, context: &Context, rejection: &Rejection) -> Response {
        match (self, rejection) {
            (Self::Events, rejection) if rejection.is_temporary() => {
                events::come_back(context, rejection)
            }
            (Self::Page { path }, Rejection::BadChannel(error)) => {
                bad_name(error, path, rejection.status())
            }
            _ => rejection.response(),
        }
    }
}

async fn answer(
    context: &Context,
    wanted: Wanted,
    request: Request,
) -> Result<Response, Rejection> {
    // The limits first, so that a request over them costs the least.
    let caller = Caller::of(&request, &context.proxies, &context.limits)?;
    head::check(&request)?;
    // Decoded before it is compared: a name is the same however it is encoded.
    let path = percent::decoded(request.uri().path()).ok_or(BadName::Encoding)?;
    if path.starts_with("/_/") {
        return Ok(page::file(request.method(), &path));
    }
    let name = ChannelName::from_path(&path)?;
    channel(context, wanted, &name, caller, request).await
}

/// Answers a request of a channel by its method and headers.
async fn channel(
    context: &Context,
    wanted: Wanted,
    name: &ChannelName,
    caller: Caller,
    request: Request,
) -> Result<Response, Rejection> {
    if is_handshake(request.headers()) {
        return websocket::websocket(context, name, caller, request).await;
    }
    if handshake::is_stripped(request.headers()) {
        return Err(Rejection::NoUpgrade);
    }
    match (request.method(), wanted) {
        (&Method::POST, _) => publish::publish(context, name, &caller, request).await,
        (&Method::OPTIONS, _) => {
            Ok((StatusCode::NO_CONTENT, [(header::ALLOW, METHODS)]).into_response())
        }
        (&Method::GET, Wanted::Events) => events::events(context, name, caller, request).await,
        (&Method::GET | &Method::HEAD, Wanted::Snapshot) => {
            snapshot::snapshot(context, name, request).await
        }
        (&Method::HEAD, Wanted::Events) => events::answer_head(&request),
        (&Method::GET | &Method::HEAD, Wanted::Page) => Ok(page::page()),
        (&Method::GET | &Method::HEAD, _) => Ok(not_acceptable()),
        _ => Ok(method_not_allowed()),
    }
}

fn not_acceptable() -> Response {
    let text = "here are a page (text/html), text/event-stream, application/json and websockets\n";
    (StatusCode::NOT_ACCEPTABLE, text).into_response()
}

fn method_not_allowed() -> Response {
    let allow = [(header::ALLOW, METHODS)];
    let text = "only GET, POST and websockets here\n";
    (StatusCode::METHOD_NOT_ALLOWED, allow, text).into_response()
}
