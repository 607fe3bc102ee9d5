//! Taking payloads: each is appended if it is next, left out if it was received before, or given
//! back.

use bytes::Bytes;

use super::super::super::envelope::{Envelope, Payload};
use super::super::warnings::Trouble;
use super::Receivers;
use super::state::{Placed, State};
use crate::feed::Accepted;
use crate::hub::Channel;
use crate::message::{BatchBuilder, Missed, now_ns};
use crate::metrics::LossCause;
use crate::telemetry;

impl Receivers {
    /// Appends what a payload holds, if it is next; gives it back if something before it is
    /// missing. How long it took is measured if it is `timed`.
    pub(super) fn take(
        &self,
        channel: &Channel,
        state: &mut State,
        payload: Bytes,
        timed: bool,
    ) -> Result<(), Bytes> {
        match Payload::decode(payload.clone()) {
            Payload::Batch(envelope) if self.has_history() && envelope.offset > 0 => {
                return self
                    .take_next(channel, state, envelope, timed)
                    .then_some(())
                    .ok_or(payload);
            }
            Payload::Batch(envelope) => self.take_any(channel, state, envelope),
            Payload::Foreign(kind, payload) => {
                let mut batch = BatchBuilder::default();
                batch.push(kind, &payload, 0);
                self.link.metrics.messages_relayed.inc();
                channel.feed.append_foreign(batch.build(now_ns()));
            }
            Payload::Malformed => {
                self.link.metrics.lost(LossCause::Malformed, 1);
                channel.feed.mark_gap(Missed::Exactly(1));
                if self.warnings.allows(Trouble::Malformed, &channel.name) {
                    tracing::warn!(
                        channel = channel.name.as_str(),
                        "dropped a payload from redis that begins like a batch and is none"
                    );
                }
            }
        }
        Ok(())
    }

    /// With history: whether it was next, or older.
    pub(super) fn take_next(
        &self,
        channel: &Channel,
        state: &mut State,
        envelope: Envelope,
        timed: bool,
    ) -> bool {
        let Envelope {
            epoch,
            offset,
            published_ns,
            ref traceparent,
            ref messages,
            ..
        } = envelope;
        let (count, last) = (messages.len(), envelope.last());
        let (placed, before) = (Placed::of(&envelope), envelope.published_before());
        let span = telemetry::relay_span("redis", channel.name.as_str(), count, traceparent);
        let own = placed.publisher_id == channel.publisher_id;
        if let Some(newest) = state.heard.get_mut(&placed.publisher_id)
            && channel.feed.expects() == (epoch, offset)
        {
            if last <= newest.last {
                // Heard from a Redis that has lost it, and published again because its publisher
                // got no answer.
                channel.feed.jump(epoch, offset + count as u64);
                newest.moved(last, offset);
                if own {
                    channel.feed.confirm(last);
                }
                return true;
            }
            if newest.epoch != epoch {
                self.missed(channel, before.saturating_sub(newest.published));
            }
        }
        if state.was_live && channel.feed.expects().0 == 0 && offset == 1 && before > 0 {
            // Not its publisher's first: there was another history, of which nothing was heard
            // here.
            channel.feed.mark_gap(Missed::Unknown);
        }
        let mut batch = envelope.into_batch(own).build(published_ns);
        batch.offset = offset;
        let subscribers = || self.link.hub.subscribers(&channel.name);
        match telemetry::deliver(&span, subscribers, || {
            channel.feed.accept(epoch, batch, own.then_some(last))
        }) {
            Accepted::Gap => return false,
            Accepted::Duplicate => state.repeated(placed),
            Accepted::Appended => {
                state.hear(placed);
                if own {
                    channel.in_flight.received(last);
                }
                self.count(count, timed.then_some(published_ns));
            }
        }
        true
    }

    /// Of a node without history: everything as it comes, but nothing twice. It takes no offset
    /// here if we have history, because Redis gave it none.
    fn take_any(&self, channel: &Channel, state: &mut State, envelope: Envelope) {
        let Envelope {
            published_ns,
            ref traceparent,
            ref messages,
            ..
        } = envelope;
        let (count, last) = (messages.len(), envelope.last());
        let publisher_id = envelope.publisher_id();
        match state.heard.get(&publisher_id) {
            // Published again because the first answer was lost.
            Some(newest) if last <= newest.last => return,
            Some(newest) => self.missed(
                channel,
                envelope.published_before().saturating_sub(newest.published),
            ),
            None => {}
        }
        state.hear(Placed {
            epoch: 0,
            offset: channel.feed.expects().1,
            ..Placed::of(&envelope)
        });
        let span = telemetry::relay_span("redis", channel.name.as_str(), count, traceparent);
        let own = publisher_id == channel.publisher_id;
        let batch = envelope.into_batch(own).build(published_ns);
        let subscribers = || self.link.hub.subscribers(&channel.name);
        telemetry::deliver(&span, subscribers, || {
            if self.has_history() {
                channel.feed.append_foreign(batch);
            } else {
                channel.feed.append(batch, own.then_some(last));
            }
        });
        self.count(count, Some(published_ns));
    }

    fn count(&self, messages: usize, published_ns: Option<u64>) {
        let metrics = &self.link.metrics;
        metrics.messages_relayed.inc_by(messages as u64);
        if let Some(published_ns) = published_ns {
            metrics
                .relay_seconds
                .observe(now_ns().saturating_sub(published_ns) as f64 / 1e9);
        }
    }
}
