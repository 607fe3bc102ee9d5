//! The counters of a load. Every message that a connection receives is checked and counted here,
//! once.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::publisher::Publisher;
use super::sequence::{Arrival, Sequence};
use super::stamp::{STAMP_LEN, Stamp};
use super::template::Template;

/// The longest latency that is recorded as it is, in microseconds. Longer ones count as this.
const LONGEST: u64 = 120_000_000;
/// Significant digits of a latency.
const DIGITS: u8 = 3;

#[derive(Debug)]
pub(super) struct Tally {
    run: u32,
    began: Instant,
    /// Microseconds from publish to receipt, while measuring.
    pub(super) latencies: Histogram<u64>,
    pub(super) measuring: bool,
    /// Messages that a connection received for the first time.
    pub(super) deliveries: u64,
    /// Bytes received, with everything that is no message.
    pub(super) bytes: u64,
    pub(super) published: u64,
    pub(super) duplicated: u64,
    pub(super) out_of_order: u64,
    /// Messages with our stamp that differ from what was published.
    pub(super) damaged: u64,
    /// Messages on the channel that are not of this load.
    pub(super) foreign: u64,
}

/// A message that a connection received.
pub(super) struct Delivery<'a> {
    /// Index of the connection.
    pub(super) connection: usize,
    pub(super) payload: &'a [u8],
    pub(super) at: Instant,
}

impl Tally {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            run: rand::random(),
            began,
            latencies: Histogram::new_with_bounds(1, LONGEST, DIGITS)
                .expect("bounds in order and digits below six"),
            measuring: false,
            deliveries: 0,
            bytes: 0,
            published: 0,
            duplicated: 0,
            out_of_order: 0,
            damaged: 0,
            foreign: 0,
        }
    }

    /// The stamp of a publisher's next message.
    pub(super) fn stamp(
        &mut self,
        index: usize,
        publisher: &mut Publisher,
        sent: Instant,
    ) -> Stamp {
        self.published += 1;
        Stamp {
            run: self.run,
            publisher: index as u32,
            // Numbers have no gaps, because a message counts as published once it has one.
            number: publisher.next_number(),
            sent: self.since_began(sent).as_nanos() as u64,
        }
    }

    /// Checks and counts one delivery.
    #[inline]
    pub(super) fn count(
        &mut self,
        delivery: &Delivery<'_>,
        sequence: &mut Sequence,
        publishers: &mut [Publisher],
        template: &Template,
    ) {
        let Some((stamp, text)) = delivery.payload.split_first_chunk() else {
            return;
        };
        // Other programs may publish on the channel, which is no error.
        let Some(stamp) = self.own_stamp(stamp) else {
            return;
        };
        // A message with our stamp has to be one that was published, to the last byte.
        let publisher = find_publisher(publishers, &stamp).filter(|_| text == template.text());
        let Some(publisher) = publisher else {
            self.damaged += 1;
            return;
        };
        if self.count_arrival(sequence.record(stamp.publisher, stamp.number)) {
            self.on_delivered(&stamp, delivery, publisher);
        }
    }

    #[inline]
    fn on_delivered(&mut self, stamp: &Stamp, delivery: &Delivery<'_>, publisher: &mut Publisher) {
        self.deliveries += 1;
        // A publisher that receives its own message may publish another one.
        if delivery.connection == stamp.publisher as usize {
            publisher.received_own(stamp.number, delivery.at);
        }
        if self.measuring {
            self.record_latency(stamp, delivery.at);
        }
    }

    /// `None` for a message of others, which is counted as such.
    #[inline]
    fn own_stamp(&mut self, bytes: &[u8; STAMP_LEN]) -> Option<Stamp> {
        let stamp = Stamp::read(bytes);
        if stamp.run != self.run {
            self.foreign += 1;
            return None;
        }
        Some(stamp)
    }

    /// Whether it is a delivery, and not a duplicate.
    #[inline]
    fn count_arrival(&mut self, arrival: Arrival) -> bool {
        match arrival {
            Arrival::InOrder => {}
            Arrival::Late => self.out_of_order += 1,
            Arrival::Duplicate => self.duplicated += 1,
        }
        arrival != Arrival::Duplicate
    }

    #[inline]
    fn record_latency(&mut self, stamp: &Stamp, received: Instant) {
        let sent = Duration::from_nanos(stamp.sent);
        let latency = self.since_began(received).saturating_sub(sent);
        self.latencies.saturating_record(latency.as_micros() as u64);
    }

    /// The latency that 99 of 100 deliveries did not exceed, in microseconds.
    pub(super) fn p99_us(&self) -> Option<u64> {
        let latencies = &self.latencies;
        (!latencies.is_empty()).then(|| latencies.value_at_quantile(0.99))
    }

    /// How many of our messages arrived anywhere, whatever was wrong with them.
    pub(super) fn arrived(&self) -> u64 {
        self.deliveries + self.duplicated + self.damaged
    }

    #[inline]
    fn since_began(&self, time: Instant) -> Duration {
        time.saturating_duration_since(self.began)
    }
}

/// `None` if no publisher has published a message with this stamp.
#[inline]
fn find_publisher<'a>(publishers: &'a mut [Publisher], stamp: &Stamp) -> Option<&'a mut Publisher> {
    publishers
        .get_mut(stamp.publisher as usize)
        .filter(|publisher| stamp.number < publisher.sent())
}
