//! Runs a load on one thread without tasks: publishes, reads and checks until the time is over, and
//! then drains: waits for the deliveries that are still in flight.
//!
//! Whether to stop early is decided by the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::connection::{Connection, read_buffer};
use super::dial::{Dialed, Opened};
use super::dialect::Dialect;
use super::frames::Received;
use super::inflate::Inflater;
use super::monitor::{Monitor, Snapshot};
use super::outcome::{self, Outcome, ServerMemory};
use super::plan::{Pace, Plan};
use super::progress::Progress;
use super::publisher::Publisher;
use super::sockets::Sockets;
use super::tally::{Delivery, Tally};
use super::template::Template;

/// The longest wait for an event, which is also how soon a stop is noticed.
const TURN: Duration = Duration::from_millis(20);
/// Waits end at whole milliseconds. A message that became due this recently is not late, so its
/// latency counts from now.
const GRAIN: Duration = Duration::from_millis(2);
/// Time between the last handshake and the measurement of idle memory: servers release what the
/// handshakes needed.
const SETTLE: Duration = Duration::from_millis(300);
/// All messages have arrived, and nothing for this long: there will be no duplicates.
const QUIET: Duration = Duration::from_millis(200);
/// Messages are missing, and nothing has arrived for this long: they are lost.
const LOST: Duration = Duration::from_secs(5);
/// Messages that are missing for this long after the end are lost, even if others still arrive.
const MAX_DRAIN: Duration = Duration::from_secs(30);

/// A load that is ready to begin.
pub(super) struct Load {
    plan: Arc<Plan>,
    sockets: Sockets,
    /// Connections that are held open and never read.
    silent: Vec<Opened>,
    publishers: Vec<Publisher>,
    template: Template,
    inflater: Inflater,
    tally: Tally,
    /// For reading, shared by all connections.
    buffer: Vec<u8>,
    /// When publishing began.
    began: Instant,
    monitor: Monitor,
    connected_in: Duration,
    /// Memory of the server before the connections were opened, in bytes.
    memory_before: u64,
}

impl Load {
    pub(super) fn new(
        plan: Arc<Plan>,
        mut dialed: Dialed,
        progress: Progress,
    ) -> anyhow::Result<Self> {
        // Silent connections are never registered, so nothing ever reads them.
        let silent = dialed.connections.split_off(plan.listeners());
        let opened = dialed.connections.into_iter();
        let connections = opened.map(|opened| Connection::new(opened, plan.publishers));
        let began = Instant::now();
        Ok(Self {
            sockets: Sockets::new(connections.collect(), plan.publishers)?,
            silent,
            publishers: (0..plan.publishers).map(|_| Publisher::new()).collect(),
            template: Template::new(plan.message),
            inflater: Inflater::new(plan.message.length),
            tally: Tally::new(began),
            buffer: read_buffer(plan.message),
            began,
            monitor: Monitor::new(progress, plan.processes.clone()),
            connected_in: dialed.took,
            memory_before: dialed.memory_before,
            plan,
        })
    }

    pub(super) fn run(mut self, stopped: &AtomicBool) -> anyhow::Result<Outcome> {
        // Idle connections are measured before the first message.
        thread::sleep(SETTLE);
        let memory_connected = self.monitor.server_memory()?;
        self.began = Instant::now();
        self.warm_up(stopped)?;
        let (first, last) = self.measure(stopped)?;
        self.drain()?;
        let memory = ServerMemory {
            of_connections: memory_connected.saturating_sub(self.memory_before),
            max: self.monitor.max_memory(),
        };
        Ok(self.finish(memory, first, last))
    }

    fn warm_up(&mut self, stopped: &AtomicBool) -> anyhow::Result<()> {
        let progress = self.monitor.progress();
        progress.begin(self.plan.warmup + self.plan.duration);
        progress.phase("warming up");
        self.publish_for(self.plan.warmup, stopped)
    }

    /// Returns the counters from before and after.
    fn measure(&mut self, stopped: &AtomicBool) -> anyhow::Result<(Snapshot, Snapshot)> {
        self.monitor.progress().phase("measuring");
        let first = self.monitor.snapshot(&self.tally)?;
        // The warm-up is checked like everything else, but not measured.
        self.tally.measuring = true;
        self.publish_for(self.plan.duration, stopped)?;
        self.tally.measuring = false;
        let last = self.monitor.snapshot(&self.tally)?;
        Ok((first, last))
    }

    fn finish(mut self, memory: ServerMemory, first: Snapshot, last: Snapshot) -> Outcome {
        let ended = self.ended();
        self.close_all();
        // Only now: while open they cost the server what they are here to cost.
        drop(self.silent);
        let connections = self.sockets.connections.iter();
        Outcome {
            connected_in: self.connected_in,
            memory,
            first,
            last,
            received: connections.map(outcome::Received::by).collect(),
            ended,
            tally: self.tally,
        }
    }

    /// Why connections ended that we have not closed ourselves.
    fn ended(&self) -> Vec<String> {
        let connections = self.sockets.connections.iter();
        let reasons = connections.filter_map(Connection::ended);
        reasons.map(str::to_owned).collect()
    }

    fn close_all(&mut self) {
        let connections = self.sockets.connections.iter_mut();
        connections.for_each(Connection::close);
    }

    /// Publishes and reads for this time, or until stopped, or until no connection is left.
    fn publish_for(&mut self, time: Duration, stopped: &AtomicBool) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            if now >= end || stopped.load(Ordering::Relaxed) || !self.can_go_on() {
                return Ok(());
            }
            // A turn ends in time for the next message, and at the end of the phase.
            let next = self.publish(now);
            self.turn(next.min(end - now))?;
        }
    }

    /// Publishes what is allowed now. Returns the longest time until the next call.
    fn publish(&mut self, now: Instant) -> Duration {
        match self.plan.pace {
            Pace::Window(window) => self.fill_windows(window, now),
            Pace::Rate(rate) => self.publish_due(rate, now),
        }
    }

    /// Whether a connection is open that the load needs.
    fn can_go_on(&self) -> bool {
        self.needed().iter().any(Connection::is_open)
    }

    /// The publishers, or, without any, all connections.
    fn needed(&self) -> &[Connection] {
        match self.plan.publishers {
            0 => &self.sockets.connections,
            publishers => &self.sockets.connections[..publishers],
        }
    }

    fn fill_windows(&mut self, window: u32, now: Instant) -> Duration {
        for index in 0..self.publishers.len() {
            self.fill_window(index, window, now);
            // Written together, because a server reads them together, too.
            self.sockets.connections[index].flush();
        }
        TURN
    }

    fn fill_window(&mut self, index: usize, window: u32, now: Instant) {
        let room = self.publishers[index].room(window, now);
        for _ in 0..room {
            // The server is slower than the load: the window stays open, but nothing piles up here.
            if !self.sockets.connections[index].has_room() {
                return;
            }
            self.publish_one(index, now);
        }
    }

    /// Publishes all messages that are due. Returns the time until the next one is.
    fn publish_due(&mut self, rate: f64, now: Instant) -> Duration {
        while let Some(index) = self.next_publisher() {
            let due = self.next_due(rate);
            if due > now {
                break;
            }
            // A message that is late because of the server counts from when it was due. Otherwise a
            // slow server would slow the load down, and so hide its own latency.
            let sent = if now - due < GRAIN { now } else { due };
            self.publish_one(index, sent);
        }
        self.flush();
        // A server that does not keep up leaves messages due. Their latency grows meanwhile.
        let wait = self.next_due(rate).saturating_duration_since(now);
        if wait.is_zero() { TURN } else { wait.min(TURN) }
    }

    fn next_due(&self, rate: f64) -> Instant {
        self.began + Duration::from_secs_f64(self.tally.published as f64 / rate)
    }

    /// The publisher whose turn it is. `None` if it has no room, or no connection is left.
    fn next_publisher(&self) -> Option<usize> {
        let index = self.next_open()?;
        self.sockets.connections[index].has_room().then_some(index)
    }

    /// Publishers take turns, without those whose connections have ended.
    fn next_open(&self) -> Option<usize> {
        let count = self.publishers.len();
        let turn = (self.tally.published as usize).checked_rem(count)?;
        let is_open = |index: &usize| self.sockets.connections[*index].is_open();
        (turn..count).chain(0..turn).find(is_open)
    }

    /// Queues the next message of a publisher.
    fn publish_one(&mut self, index: usize, sent: Instant) {
        let stamp = self.tally.stamp(index, &mut self.publishers[index], sent);
        let output = self.sockets.connections[index].output();
        self.template.put(stamp, output);
    }

    fn flush(&mut self) {
        self.sockets.connections[..self.publishers.len()]
            .iter_mut()
            .for_each(Connection::flush);
    }

    /// Waits for events, at most for this time, and reads every readable connection once.
    fn turn(&mut self, wait: Duration) -> anyhow::Result<()> {
        self.sockets.wait(wait)?;
        while let Some(index) = self.sockets.next_readable() {
            self.read(index);
        }
        self.monitor.sample(self.began, &self.tally)
    }

    fn read(&mut self, index: usize) {
        let connection = &mut self.sockets.connections[index];
        let Some(filled) = connection.fill(&mut self.buffer) else {
            return;
        };
        // One time for all messages of a read: they were all there at this moment.
        let at = Instant::now();
        self.tally.bytes += filled.new as u64;
        let message = self.plan.message;
        let bytes = &self.buffer[..filled.length];
        let foreign = connection.scan(bytes, message, |sequence, received| {
            let Some(payload) = unwrap(received, message.dialect, &mut self.inflater) else {
                self.tally.foreign += 1;
                return;
            };
            let delivery = Delivery {
                connection: index,
                payload,
                at,
            };
            self.tally
                .count(&delivery, sequence, &mut self.publishers, &self.template);
        });
        self.tally.foreign += foreign;
        // Not in this turn, see `next_readable`.
        if filled.more {
            self.sockets.read_again(index);
        }
    }

    /// Reads on until every connection has received everything, or until it is certain that the
    /// missing messages are lost.
    fn drain(&mut self) -> anyhow::Result<()> {
        self.monitor.progress().phase("draining");
        let began = Instant::now();
        let mut progress_at = began;
        let mut arrived = self.tally.arrived();
        // A server that goes on sending something must not keep the load from ending.
        while began.elapsed() < MAX_DRAIN && progress_at.elapsed() <= self.patience() {
            self.flush();
            self.turn(TURN)?;
            if self.tally.arrived() != arrived {
                arrived = self.tally.arrived();
                progress_at = Instant::now();
            }
        }
        Ok(())
    }

    /// How long to wait for further messages.
    fn patience(&self) -> Duration {
        if self.is_missing_any() { LOST } else { QUIET }
    }

    /// Whether an open connection has not received everything.
    fn is_missing_any(&self) -> bool {
        let mut connections = self.sockets.connections.iter();
        connections.any(|connection| self.is_missing(connection))
    }

    fn is_missing(&self, connection: &Connection) -> bool {
        connection.is_open() && connection.sequence.received() < self.tally.published
    }
}

/// The message itself. `None` if it is not one of this load.
#[inline]
fn unwrap<'a>(
    received: Received<'a>,
    dialect: Dialect,
    inflater: &'a mut Inflater,
) -> Option<&'a [u8]> {
    match received {
        Received::Plain(payload) => dialect.unwrap(payload),
        Received::Deflated(payload) => inflater.inflate(payload),
    }
}
