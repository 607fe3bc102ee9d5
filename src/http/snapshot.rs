//! A channel as data, at one moment.

use axum::extract::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::public::Public;
use super::query;
use crate::channel::ChannelName;
use crate::feed::{Start, Taken};
use crate::hub::Subscription;
use crate::message::{Batch, put_json};
use crate::ws::handshake::Refusal;

/// Bytes of messages in one answer; what came after has to be asked for again.
const ANSWER_BYTES: usize = 1024 * 1024;

pub(super) async fn snapshot(public: &Public, name: &ChannelName, request: Request) -> Result<Response, Refusal> {
    public.door.admit(request.headers())?;
    let hub = &public.door.shared.hub;
    let subscribers = hub.followers(name);
    let start = query::start(request.uri().query().unwrap_or_default(), request.headers());
    let subscription = hub.join(name).subscribe(start).await?;
    let mut answer = json!({
        "channel": name.as_str(),
        "subscribers": subscribers,
        "id": subscription.newest.map(|id| id.to_string()),
    });
    let mut messages = None;
    if start != Start::Newest {
        let mut list = List { json: Vec::new(), messages: 0, missed: Some(0) };
        answer["recovered"] = subscription.recovered.into();
        list.collect(subscription).await?;
        answer["missed"] = list.missed.map_or(Value::Null, Value::from);
        answer["more"] = list.is_full().into();
        public.door.shared.metrics.http.delivered.inc_by(list.messages);
        messages = Some(list.json);
    }
    let mut body = answer.to_string().into_bytes();
    if let Some(messages) = messages {
        // Put in as they are: they are JSON already.
        body.pop();
        body.extend_from_slice(b",\"messages\":[");
        body.extend_from_slice(&messages);
        body.extend_from_slice(b"]}");
    }
    public.door.shared.metrics.http.sent_bytes.inc_by(body.len() as u64);
    let headers =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store"), (header::VARY, "accept")];
    Ok((headers, body).into_response())
}

struct List {
    /// Messages as JSON, with commas between them.
    json: Vec<u8>,
    messages: u64,
    /// How many messages are missing in it; `None` if nobody knows.
    missed: Option<u64>,
}

impl List {
    /// Everything from where the subscription begins to now, as far as it fits.
    async fn collect(&mut self, mut subscription: Subscription) -> Result<(), Refusal> {
        while let Some(older) = subscription.older().await? {
            self.miss(older.gap);
            for (batch, index) in older.messages() {
                self.add(batch, index);
                if self.is_full() {
                    return Ok(());
                }
            }
        }
        let (_membership, mut cursor) = subscription.into_live();
        let mut taken = Taken::new();
        // Who asks for the newest does not wait for what comes.
        while cursor.take_now(&mut taken) {
            for (position, batch) in taken.iter().enumerate() {
                self.miss(batch.gap);
                let from = if position == 0 { cursor.messages_behind() } else { 0 };
                for index in from..batch.len() {
                    self.add(batch, index);
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

    fn add(&mut self, batch: &Batch, index: usize) {
        let Some((kind, payload)) = batch.message(index) else { return };
        if self.messages > 0 {
            self.json.push(b',');
        }
        put_json(batch.id(index), kind, payload, &mut self.json);
        self.messages += 1;
    }

    fn miss(&mut self, gap: Option<Option<u64>>) {
        if let Some(missed) = gap {
            self.missed = self.missed.zip(missed).map(|(before, more)| before + more);
        }
    }

    fn is_full(&self) -> bool {
        self.json.len() >= ANSWER_BYTES
    }
}
