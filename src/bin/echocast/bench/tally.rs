//! The sums of a load: every message that any connection heard is judged and counted here, once.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::publisher::{Publisher, Template};
use super::stamp::Stamp;
use super::truth::{Heard, Truth};

/// The longest latency that is told apart from longer ones, in microseconds.
const LONGEST: u64 = 120_000_000;
/// Digits of a latency that are right.
const DIGITS: u8 = 3;

#[derive(Debug)]
pub(super) struct Tally {
    run: u32,
    began: Instant,
    /// Microseconds from publish to receipt, while measuring.
    pub(super) latencies: Histogram<u64>,
    pub(super) measuring: bool,
    /// Messages heard for the first time by a connection.
    pub(super) deliveries: u64,
    /// Bytes received, with everything that is no message.
    pub(super) bytes: u64,
    pub(super) published: u64,
    pub(super) duplicated: u64,
    pub(super) out_of_order: u64,
    /// Messages that have our stamp and are not what was said.
    pub(super) damaged: u64,
    /// Messages on the channel that are not of this load.
    pub(super) foreign: u64,
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
        let number = publisher.sent;
        publisher.sent += 1;
        self.published += 1;
        Stamp {
            run: self.run,
            publisher: index as u32,
            number,
            sent: self.since_began(sent).as_nanos() as u64,
        }
    }

    /// Judges a payload that the connection `listener` heard.
    #[inline]
    pub(super) fn take(
        &mut self,
        listener: usize,
        payload: &[u8],
        truth: &mut Truth,
        publishers: &mut [Publisher],
        template: &Template,
        now: Instant,
    ) {
        let Some((stamp, text)) = payload.split_first_chunk() else {
            return;
        };
        let stamp = Stamp::read(stamp);
        if stamp.run != self.run {
            self.foreign += 1;
            return;
        }
        let publisher = publishers
            .get_mut(stamp.publisher as usize)
            .filter(|publisher| stamp.number < publisher.sent);
        let (Some(publisher), true) = (publisher, text == template.text()) else {
            self.damaged += 1;
            return;
        };
        match truth.hear(stamp.publisher, stamp.number) {
            Heard::New => {}
            Heard::Late => self.out_of_order += 1,
            Heard::Again => {
                self.duplicated += 1;
                return;
            }
        }
        self.deliveries += 1;
        if listener == stamp.publisher as usize {
            publisher.heard_itself(stamp.number, now);
        }
        if self.measuring {
            let sent = Duration::from_nanos(stamp.sent);
            self.latencies
                .saturating_record(self.since_began(now).saturating_sub(sent).as_micros() as u64);
        }
    }

    /// How many of our messages were heard, whatever was wrong with them.
    pub(super) fn heard(&self) -> u64 {
        self.deliveries + self.duplicated + self.damaged
    }

    fn since_began(&self, time: Instant) -> Duration {
        time.saturating_duration_since(self.began)
    }
}
