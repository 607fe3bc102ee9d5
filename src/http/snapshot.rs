//! A channel as data, at one moment.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::context::Context;
use crate::budget::{Charge, Part};
use crate::channel::ChannelName;
use crate::client::query;
use crate::client::rejection::Rejection;
use crate::feed::{Cursor, Lagged, Start, Taken};
use crate::hub::Subscription;
use crate::message::{Batch, Missed, put_json};

/// Bytes of messages in one answer; what came after has to be asked for again.
const ANSWER_BYTES: usize = 1024 * 1024;

/// Bytes of an answer that are written before other tasks get their turn.
const TURN_BYTES: usize = 16 * 1024;

pub(super) async fn snapshot(
    context: &Context,
    name: &ChannelName,
    request: Request,
) -> Result<Response, Rejection> {
    context.admit(&Method::GET, request.headers())?;
    let start =
        query::subscribe_options(request.uri().query().unwrap_or_default(), request.headers())?
            .start;
    let hub = &context.shared.hub;
    let subscribers = hub.subscribers(name);
    // Reserved before it is collected: many answers may be collected at the same time.
    let reserved = if start == Start::Newest {
        0
    } else {
        ANSWER_BYTES
    };
    let mut charge = hub.budget().charge(Part::Answers, reserved);
    if !hub.budget().has_room() || hub.budget().is_crowded(Part::Answers) {
        hub.make_room();
        return Err(Rejection::Memory);
    }
    let subscription = hub.join_as_subscriber(name)?.subscribe(start).await?;
    let mut answer = json!({
        "channel": name.as_str(),
        "subscribers": subscribers,
        "id": subscription.newest.map(|id| id.to_string()),
    });
    let mut messages = None;
    if start != Start::Newest {
        let mut list = List {
            json: Vec::new(),
            messages: 0,
            gave_way: 0,
            missed: Missed::Exactly(0),
            lagged: false,
        };
        answer["recovered"] = subscription.recovered.into();
        list.collect(subscription, &context.collecting).await?;
        answer["missed"] = list.missed.count().map_or(Value::Null, Value::from);
        answer["more"] = (list.is_full() || list.lagged).into();
        context.shared.metrics.http.delivered.inc_by(list.messages);
        messages = Some(list.json);
    }
    let mut body = answer.to_string().into_bytes();
    if let Some(messages) = messages {
        // Put in as they are: they are JSON already.
        body.pop();
        body.reserve_exact(messages.len() + 16);
        body.extend_from_slice(b",\"messages\":[");
        body.extend_from_slice(&messages);
        body.extend_from_slice(b"]}");
    }
    context
        .shared
        .metrics
        .http
        .sent_bytes
        .inc_by(body.len() as u64);
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept"),
    ];
    charge.set(body.capacity());
    Ok((
        headers,
        Body::from(Bytes::from_owner(Answer {
            body,
            _charge: charge,
        })),
    )
        .into_response())
}

/// The body of an answer, which counts in the memory budget until it is written.
struct Answer {
    body: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

struct List {
    /// Messages as JSON, with commas between them.
    json: Vec<u8>,
    messages: u64,
    /// Bytes it had when other tasks had their turn.
    gave_way: usize,
    /// How many messages are missing in it.
    missed: Missed,
    /// The feed went on faster than it was collected.
    lagged: bool,
}

impl List {
    /// Everything from where the subscription begins to now, as far as it fits.
    async fn collect(
        &mut self,
        mut subscription: Subscription,
        collecting: &Semaphore,
    ) -> Result<(), Rejection> {
        while let Some(page) = subscription.next_replay_page().await? {
            // Not while it waits for the broker: one slow history must not keep all others waiting.
            let _turn = collecting.acquire().await;
            self.miss(page.gap);
            for (batch, index) in page.messages() {
                self.add(batch, index).await;
                if self.is_full() {
                    return Ok(());
                }
            }
        }
        let _turn = collecting.acquire().await;
        let (_membership, mut cursor) = subscription.into_live();
        let mut taken = Taken::new();
        // Who asks for the newest does not wait for what comes.
        while self.takes(&mut cursor, &mut taken) {
            for (position, batch) in taken.iter().enumerate() {
                self.miss(batch.gap);
                let from = if position == 0 {
                    cursor.messages_behind()
                } else {
                    0
                };
                for index in from..batch.len() {
                    self.add(batch, index).await;
                    if self.is_full() {
                        return Ok(());
                    }
                }
            }
            cursor.skip(&taken);
            taken.clear();
        }
        Ok(())
    }

    async fn add(&mut self, batch: &Batch, index: usize) {
        let Some((kind, payload)) = batch.message(index) else {
            return;
        };
        if self.messages > 0 {
            self.json.push(b',');
        }
        put_json(
            batch.id(index),
            batch.time_ms(),
            kind,
            payload,
            &mut self.json,
        );
        self.messages += 1;
        if self.json.len() - self.gave_way >= TURN_BYTES {
            self.gave_way = self.json.len();
            // Writing JSON takes time, and others' messages do not wait for that.
            tokio::task::yield_now().await;
        }
    }

    /// Takes what there is; a client that was overtaken goes on after its last message.
    fn takes(&mut self, cursor: &mut Cursor, taken: &mut Taken) -> bool {
        match cursor.take_now(taken) {
            Ok(some) => some,
            Err(Lagged) => {
                self.lagged = true;
                false
            }
        }
    }

    fn miss(&mut self, gap: Option<Missed>) {
        if let Some(missed) = gap {
            self.missed = self.missed + missed;
        }
    }

    fn is_full(&self) -> bool {
        self.json.len() >= ANSWER_BYTES
    }
}
