//! The output of a session: what it writes while it follows the live feed and while it ends.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{PENDING, Progress, READY, Session, Tally};
use crate::feed::{Cursor, GroupBatches, Taken};
use crate::message::{Batch, Missed, now_ns, put_gap};
use crate::ws::write_buffer::WriteBuffer;
use crate::ws::write_plan::{Recipient, WritePlan, Written};

/// One delivery in this many is timed: two clock readings would cost more than the rest of the
/// bookkeeping.
const TIMED_DELIVERY: u64 = 16;

/// What a session writes.
#[derive(Debug)]
pub(super) struct Output {
    /// Its place in the feed, or in the page of a replay.
    pub(super) cursor: Cursor,
    pub(super) recipient: Recipient,
    /// Frames for this client alone.
    pub(super) buffer: WriteBuffer,
    /// Writes that ended a batch: one in [`TIMED_DELIVERY`] is timed.
    deliveries: u64,
}

impl Output {
    pub(super) fn new(cursor: Cursor, recipient: Recipient, greeting: &[u8]) -> Self {
        Self {
            cursor,
            recipient,
            buffer: WriteBuffer::framed(greeting),
            deliveries: 0,
        }
    }

    /// The next write: all of `batches`, or only up to `item_end` in the first of them; and the
    /// client's own frames.
    #[inline]
    pub(super) fn plan<'a>(
        &'a self,
        batches: &'a [Arc<Batch>],
        item_end: Option<usize>,
    ) -> WritePlan<'a> {
        match item_end {
            None => WritePlan::all(batches, &self.cursor, &self.buffer, self.recipient),
            Some(end) => {
                WritePlan::rest_of_item(batches, end, &self.cursor, &self.buffer, self.recipient)
            }
        }
    }

    #[inline]
    pub(super) fn advance(&mut self, written: Written, batches: &[Arc<Batch>]) {
        written.apply(&mut self.cursor, batches, &mut self.buffer, self.recipient);
    }

    /// The batch of an item that is partly written, and the item's end in it.
    pub(super) fn unfinished_item(&self) -> Option<(Arc<Batch>, usize)> {
        self.cursor.unfinished_item(self.recipient.format)
    }

    /// Informs the client that messages are missing here.
    pub(super) fn push_gap(&mut self, missed: Missed) {
        let mut mark = Vec::new();
        put_gap(self.recipient.format, missed, &mut mark);
        self.buffer.push_framed(&mark);
    }
}

impl Session {
    /// Writes once. Pending if there is nothing to write or the socket is full.
    pub(super) fn write(
        &mut self,
        context: &mut Context<'_>,
        group_batches: GroupBatches<'_>,
        tally: &mut Tally,
    ) -> Progress {
        if self.follows_feed() {
            self.write_live(context.waker(), group_batches, tally)
        } else if self.closing().is_none() {
            self.write_replay(context, tally)
        } else if self.only_reads() {
            PENDING
        } else {
            self.write_last(tally)
        }
    }

    /// Writes batches of the live feed.
    #[inline]
    fn write_live(
        &mut self,
        waker: &Waker,
        group_batches: GroupBatches<'_>,
        tally: &mut Tally,
    ) -> Progress {
        // 1. In its group it uses the batches that the group has taken once for all: no lock.
        if let Some(batches) = self.output.cursor.unread(group_batches) {
            let end = self.output.cursor.position() + batches.len() as u64;
            let reaches_end = end >= group_batches.end();
            return self.write_batches(batches, None, reaches_end, tally);
        }
        // 2. Behind its group it takes for itself. It joins the group once there is nothing left.
        let mut taken = Taken::new();
        if self
            .output
            .cursor
            .take_or_join_group(waker, &mut taken)
            .is_ok()
        {
            return self.write_batches(&taken, None, false, tally);
        }
        // 3. The feed has dropped what comes next. The item that was begun is still here.
        let item_end = self.lagged(&mut taken);
        if item_end.is_none() && self.follows_feed() {
            return READY;
        }
        self.write_batches(&taken, item_end, false, tally)
    }

    /// Writes the rest of an item that was begun, and then the close frame.
    fn write_last(&mut self, tally: &mut Tally) -> Progress {
        let mut taken = Taken::new();
        let item_end = self.output.unfinished_item().map(|(batch, end)| {
            taken.push(batch);
            end
        });
        self.write_batches(&taken, item_end, false, tally)
    }

    /// Writes once of `batches` and of the client's own frames: see [`Output::plan`].
    /// `reaches_end` if these batches are the newest.
    #[inline]
    fn write_batches(
        &mut self,
        batches: &[Arc<Batch>],
        item_end: Option<usize>,
        reaches_end: bool,
        tally: &mut Tally,
    ) -> Progress {
        let plan = self.output.plan(batches, item_end);
        // The feed counts what its batches were encoded into, and may have to drop others for it.
        if plan.encoded > 0 {
            tally.work += plan.encoded;
            self.output.cursor.account(batches);
            self.shared.hub.make_room();
        }
        if plan.is_empty() {
            if batches.is_empty() {
                return PENDING;
            }
            // Gap marks that this format does not show, or messages of its own.
            let written = plan.written(0);
            self.output.advance(written, batches);
            return READY;
        }
        let result = self.socket.write(&plan.slices());
        let bytes = match result {
            Poll::Ready(Ok(bytes)) if bytes > 0 => bytes,
            Poll::Ready(_) => return self.write_failed(),
            Poll::Pending => return PENDING,
        };
        let written = plan.written(bytes);
        // While own frames waited, it may not have been read from: look again once they are gone.
        let had_own_frames = self.output.buffer.waiting() > 0;
        let is_live = !self.output.cursor.is_replaying();
        self.output.advance(written, batches);
        tally.count_sent(self.transport(), bytes, written.messages);
        if is_live && written.batches() > 0 {
            self.time_delivery(batches);
        }
        // A second try would write nothing: what comes next wakes the session.
        let is_done = reaches_end && written.batches() == batches.len() && !had_own_frames;
        if is_done { PENDING } else { READY }
    }

    /// Measures the time from publishing to here, of some deliveries.
    #[inline]
    fn time_delivery(&mut self, batches: &[Arc<Batch>]) {
        let is_timed = self.output.deliveries.is_multiple_of(TIMED_DELIVERY);
        self.output.deliveries += 1;
        if let Some(batch) = batches.first().filter(|_| is_timed) {
            self.shared
                .metrics
                .delivery_seconds
                .observe(now_ns().saturating_sub(batch.published_ns) as f64 / 1e9);
        }
    }
}
