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
        thread::sleep(SETTLE);
        let memory_connected = self.monitor.server_memory()?;
        self.began = Instant::now();
        let total = self.plan.warmup + self.plan.duration;
        self.monitor.progress().begin(total);

        self.monitor.progress().phase("warming up");
        self.publish_for(self.plan.warmup, stopped)?;
        self.monitor.progress().phase("measuring");
        let (first, last) = self.measure(stopped)?;
        self.monitor.progress().phase("draining");
        self.drain()?;

        let memory = ServerMemory {
            of_connections: memory_connected.saturating_sub(self.memory_before),
            max: self.monitor.max_memory(),
        };
        Ok(self.finish(memory, first, last))
    }

    /// Returns the counters from before and after.
    fn measure(&mut self, stopped: &AtomicBool) -> anyhow::Result<(Snapshot, Snapshot)> {
        let first = self.monitor.snapshot(&self.tally)?;
        self.tally.measuring = true;
        self.publish_for(self.plan.duration, stopped)?;
        self.tally.measuring = false;
        let last = self.monitor.snapshot(&self.tally)?;
        Ok((first, last))
    }

    fn finish(mut self, memory: ServerMemory, first: Snapshot, last: Snapshot) -> Outcome {
        // Before we close connections ourselves: these are the ends that are worth a report.
        let ended = self
            .sockets
            .connections
            .iter()
            .filter_map(Connection::ended);
        let ended = ended.map(str::to_owned).collect();
        self.sockets
            .connections
            .iter_mut()
            .for_each(Connection::close);
        drop(self.silent);
        Outcome {
            connected_in: self.connected_in,
            memory,
            first,
            last,
            received: self
                .sockets
                .connections
                .iter()
                .map(outcome::Received::by)
                .collect(),
            ended,
            tally: self.tally,
        }
    }

    /// Publishes and reads for this time, or until stopped, or until no connection is left.
    fn publish_for(&mut self, time: Duration, stopped: &AtomicBool) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            if now >= end || stopped.load(Ordering::Relaxed) || !self.can_go_on() {
                return Ok(());
            }
            let next = match self.plan.pace {
                Pace::Window(window) => self.fill_windows(window, now),
                Pace::Rate(rate) => self.publish_due(rate, now),
            };
            self.turn(next.min(end - now))?;
        }
    }

    /// Whether a connection is open that the load needs: a publisher, if there are any.
    fn can_go_on(&self) -> bool {
        let needed = match self.plan.publishers {
            0 => &self.sockets.connections,
            publishers => &self.sockets.connections[..publishers],
        };
        needed.iter().any(Connection::is_open)
    }

    /// Publishes as many messages as the windows allow. Returns the longest time until the next
    /// call.
    fn fill_windows(&mut self, window: u32, now: Instant) -> Duration {
        for index in 0..self.publishers.len() {
            let mut room = self.publishers[index].room(window, now);
            while room > 0 && self.sockets.connections[index].has_room() {
                room -= 1;
                self.publish(index, now);
            }
            self.sockets.connections[index].flush();
        }
        TURN
    }

    /// Publishes all messages that are due. Returns the time until the next one is.
    fn publish_due(&mut self, rate: f64, now: Instant) -> Duration {
        let mut wait = TURN;
        while !self.publishers.is_empty() {
            let due = self.began + Duration::from_secs_f64(self.tally.published as f64 / rate);
            if due > now {
                wait = wait.min(due - now);
                break;
            }
            // If the server does not keep up, the messages stay due, and their latency grows.
            let Some(index) = self.next_publisher() else {
                break;
            };
            let sent = if now - due < GRAIN { now } else { due };
            self.publish(index, sent);
        }
        self.flush();
        wait
    }

    /// Publishers take turns, without those whose connections have ended. `None` if the next one
    /// has no room, or no connection is left.
    fn next_publisher(&self) -> Option<usize> {
        let count = self.publishers.len();
        let turn = self.tally.published as usize % count;
        (turn..count)
            .chain(0..turn)
            .find(|index| self.sockets.connections[*index].is_open())
            .filter(|index| self.sockets.connections[*index].has_room())
    }

    /// Queues the next message of a publisher.
    fn publish(&mut self, index: usize, sent: Instant) {
        let stamp = self.tally.stamp(index, &mut self.publishers[index], sent);
        self.template
            .put(stamp, self.sockets.connections[index].output());
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
        if filled.more {
            self.sockets.read_again(index);
        }
    }

    /// Reads on until every connection has received everything, or until it is certain that the
    /// missing messages are lost.
    fn drain(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut progress_at = began;
        let mut arrived = self.tally.arrived();
        while began.elapsed() < MAX_DRAIN {
            self.flush();
            self.turn(TURN)?;
            let now = Instant::now();
            if self.tally.arrived() != arrived {
                arrived = self.tally.arrived();
                progress_at = now;
            }
            let patience = if self.is_missing_any() { LOST } else { QUIET };
            if now - progress_at > patience {
                break;
            }
        }
        Ok(())
    }

    /// Whether an open connection has not received everything.
    fn is_missing_any(&self) -> bool {
        let published = self.tally.published;
        self.sockets
            .connections
            .iter()
            .any(|connection| connection.is_open() && connection.sequence.received() < published)
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
