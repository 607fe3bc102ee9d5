//! Taking payloads: each is appended if it is next, left out if it was received before, or given
//! back.

use bytes::Bytes;
use tracing::warn;

use super::super::super::envelope::{Envelope, Payload};
use super::super::warnings::Trouble;
use super::known::{Placed, Relation};
use super::{Receiver, State};
use crate::feed::Accepted;
use crate::message::{BatchBuilder, Kind, Missed, now_ns};
use crate::metrics::LossCause;
use crate::telemetry;

/// The name of this broker in traces.
const SYSTEM: &str = "redis";

impl Receiver {
    /// Appends what a payload holds, if it is next; gives it back if something before it is
    /// missing. How long it took is measured if it is `timed`.
    pub(super) fn take(&self, state: &mut State, payload: Bytes, timed: bool) -> Result<(), Bytes> {
        match Payload::decode(payload.clone()) {
            Payload::Batch(batch) if self.shared.has_history() && batch.offset > 0 => {
                match self.take_next(state, batch, timed) {
                    true => return Ok(()),
                    false => return Err(payload),
                }
            }
            Payload::Batch(batch) => self.take_unnumbered(state, batch),
            Payload::Foreign(kind, payload) => self.take_foreign(state, kind, &payload),
            Payload::Malformed => self.drop_malformed(state),
        }
        Ok(())
    }

    /// With history: appends a batch if it is next. Returns false if something before it is
    /// missing.
    pub(super) fn take_next(&self, state: &mut State, batch: Envelope, timed: bool) -> bool {
        let placed = Placed::of(&batch);
        let last = self.own(&placed).then_some(placed.last);
        let is_next = state.expects() == (placed.epoch, placed.offset);
        // 1. Compare it with the newest batch of its publisher.
        match state.known.relation(&batch) {
            Relation::Received if is_next => {
                // Redis has lost it and got it again, because its publisher got no answer. Readers
                // have it already.
                let end = placed.offset + batch.messages.len() as u64;
                state.writer.jump(placed.epoch, end);
                state.known.moved(placed);
                if let Some(last) = last {
                    state.writer.settle(last);
                }
                return true;
            }
            // Offsets began anew, so that only sequences show what is missing between.
            Relation::Later {
                missed,
                same_epoch: false,
            } if is_next => self.missed(state, missed),
            _ => {}
        }
        if state.was_live && state.expects().0 == 0 && is_not_first(&batch) {
            // There was another history before, of which nothing was received here.
            state.writer.mark_gap(Missed::Unknown);
        }
        // 2. Append it.
        let (count, published_ns) = (batch.messages.len(), batch.published_ns);
        let span = telemetry::relay_span(
            SYSTEM,
            self.channel.name.as_str(),
            count,
            &batch.traceparent,
        );
        let mut messages = batch.into_batch(last.is_some()).build(published_ns);
        messages.offset = placed.offset;
        let accepted = telemetry::deliver(
            &span,
            || self.subscribers(),
            || state.writer.accept(placed.epoch, messages, last),
        );
        // 3. Take note of it.
        match accepted {
            Accepted::Gap => return false,
            Accepted::Duplicate => state.rewound |= state.known.shows_rewind(placed),
            Accepted::Appended => {
                state.known.record(placed);
                if let Some(last) = last {
                    self.channel.in_flight.received(last);
                }
                self.count(count, timed.then_some(published_ns));
            }
        }
        true
    }

    /// Of a node without history: appends everything as it comes, but nothing twice. It takes no
    /// offset here if we have history, because Redis gave it none.
    fn take_unnumbered(&self, state: &mut State, batch: Envelope) {
        match state.known.relation(&batch) {
            // Published again because the first answer was lost.
            Relation::Received => return,
            Relation::Later { missed, .. } => self.missed(state, missed),
            Relation::Unknown => {}
        }
        let placed = Placed {
            epoch: 0,
            offset: state.expects().1,
            ..Placed::of(&batch)
        };
        state.known.record(placed);
        let last = self.own(&placed).then_some(placed.last);
        let (count, published_ns) = (batch.messages.len(), batch.published_ns);
        let span = telemetry::relay_span(
            SYSTEM,
            self.channel.name.as_str(),
            count,
            &batch.traceparent,
        );
        let messages = batch.into_batch(last.is_some()).build(published_ns);
        let append = || {
            if self.shared.has_history() {
                state.writer.append_unnumbered(messages);
            } else {
                state.writer.append(messages, last);
            }
        };
        telemetry::deliver(&span, || self.subscribers(), append);
        self.count(count, Some(published_ns));
    }

    /// Appends a message that no node published.
    fn take_foreign(&self, state: &mut State, kind: Kind, payload: &[u8]) {
        let mut batch = BatchBuilder::default();
        batch.push(kind, payload, 0);
        self.shared.link.metrics.messages_relayed.inc();
        state.writer.append_unnumbered(batch.build(now_ns()));
    }

    fn drop_malformed(&self, state: &mut State) {
        self.shared.link.metrics.lost(LossCause::Malformed, 1);
        state.writer.mark_gap(Missed::Exactly(1));
        let name = &self.channel.name;
        if self.shared.warnings.allows(Trouble::Malformed, name) {
            warn!(
                channel = name.as_str(),
                "dropped a malformed payload from redis: it begins like a batch"
            );
        }
    }

    /// Whether this node has published it.
    fn own(&self, batch: &Placed) -> bool {
        batch.publisher_id == self.channel.publisher_id
    }

    fn subscribers(&self) -> usize {
        self.shared.link.hub.subscribers(&self.channel.name)
    }

    fn count(&self, messages: usize, published_ns: Option<u64>) {
        let metrics = &self.shared.link.metrics;
        metrics.messages_relayed.inc_by(messages as u64);
        if let Some(published_ns) = published_ns {
            let seconds = now_ns().saturating_sub(published_ns) as f64 / 1e9;
            metrics.relay_seconds.observe(seconds);
        }
    }
}

/// Whether a batch begins a history although its publisher has published something before.
fn is_not_first(batch: &Envelope) -> bool {
    batch.offset == 1 && batch.published_before() > 0
}
