//! The load itself, on one thread without tasks: who is readable is read and checked, who may
//! publish publishes, until the time is over; then everybody is heard out. When to stop early is
//! left to the caller.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use mio::{Events, Interest, Poll, Token};

use super::connection::{Connection, buffer};
use super::dial::{Crowd, Opened};
use super::inflate::Inflater;
use super::plan::{Pace, Plan};
use super::progress::Progress;
use super::publisher::{Publisher, Template};
use super::tally::Tally;
use super::truth::Truth;
use super::watch::{Snapshot, Watch};

/// The longest wait for something to happen: how soon a stop is noticed.
const TURN: Duration = Duration::from_millis(20);
/// Waits end at whole milliseconds. What was due that recently was not kept by anybody, so it
/// counts from now on.
const GRAIN: Duration = Duration::from_millis(2);
/// New connections are left alone for this long before their memory is measured: handshakes leave
/// things behind.
const SETTLING: Duration = Duration::from_millis(300);
/// Everything was heard, and nothing else for this long: nothing comes twice any more.
const QUIET: Duration = Duration::from_millis(200);
/// Something is missing, and nothing new was heard for this long: it is lost.
const LOST: Duration = Duration::from_secs(5);
/// However slowly it comes, this long after the end it is lost.
const LONGEST_DRAIN: Duration = Duration::from_secs(30);

/// A load that is ready to begin.
pub(super) struct Load {
    plan: Arc<Plan>,
    /// Who listens; the publishers first.
    connections: Vec<Connection>,
    /// Held open, never read.
    silent: Vec<Opened>,
    publishers: Vec<Publisher>,
    template: Template,
    inflater: Inflater,
    tally: Tally,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    /// Connections whose turn it is. Empty between turns.
    readable: Vec<usize>,
    /// Connections that may have more to read, of which no event will tell.
    again: Vec<usize>,
    /// When publishing began.
    began: Instant,
    watch: Watch,
    connected_in: Duration,
    /// Server memory before the connections, in bytes.
    memory_before: u64,
}

/// What a load came to.
pub(super) struct Outcome {
    pub(super) connected_in: Duration,
    /// Server memory that the connections took before anything was said, in bytes.
    pub(super) memory_of_connections: u64,
    /// The most server memory while measuring, in bytes.
    pub(super) memory_max: u64,
    /// When measuring began.
    pub(super) first: Snapshot,
    /// When it ended.
    pub(super) last: Snapshot,
    pub(super) tally: Tally,
    /// For each listening connection how many messages it heard, each counted once.
    pub(super) heard: Vec<u64>,
    /// For each listening connection a hash of the order in which it did.
    pub(super) orders: Vec<u64>,
    /// Why connections ended that should not have.
    pub(super) ended: Vec<String>,
}

impl Load {
    pub(super) fn new(
        plan: Arc<Plan>,
        mut crowd: Crowd,
        progress: Progress,
    ) -> anyhow::Result<Self> {
        let poll = Poll::new().context("cannot wait for sockets")?;
        let silent = crowd.connections.split_off(plan.listeners());
        let mut connections = Vec::with_capacity(crowd.connections.len());
        for (index, opened) in crowd.connections.into_iter().enumerate() {
            let mut connection = Connection::new(opened, Truth::new(plan.publishers));
            let publishes = index < plan.publishers;
            let interest = if publishes {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            poll.registry()
                .register(&mut connection.stream, Token(index), interest)?;
            connections.push(connection);
        }
        let began = Instant::now();
        Ok(Self {
            connections,
            silent,
            publishers: (0..plan.publishers).map(|_| Publisher::new()).collect(),
            template: Template::new(plan.message),
            inflater: Inflater::new(plan.message.length),
            tally: Tally::new(began),
            poll,
            events: Events::with_capacity(1024),
            buffer: buffer(plan.message),
            readable: Vec::new(),
            again: Vec::new(),
            began,
            watch: Watch::new(progress),
            connected_in: crowd.took,
            memory_before: crowd.memory_before,
            plan,
        })
    }

    pub(super) fn run(mut self, stopped: &AtomicBool) -> anyhow::Result<Outcome> {
        std::thread::sleep(SETTLING);
        let memory_connected = self.plan.processes.memory()?;
        self.began = Instant::now();
        self.watch
            .progress()
            .begin(self.plan.warmup + self.plan.duration);
        self.watch.progress().phase("warming up");
        self.play(self.plan.warmup, stopped)?;

        self.watch.progress().phase("measuring");
        let first = self.watch.snapshot(&self.tally, &self.plan.processes)?;
        self.tally.measuring = true;
        self.play(self.plan.duration, stopped)?;
        self.tally.measuring = false;
        let last = self.watch.snapshot(&self.tally, &self.plan.processes)?;

        self.watch.progress().phase("hearing out");
        self.hear_out()?;
        let ended = self
            .connections
            .iter()
            .filter_map(|connection| connection.ended().map(str::to_owned))
            .collect();
        self.connections
            .iter_mut()
            .for_each(Connection::say_goodbye);
        drop(self.silent);
        Ok(Outcome {
            connected_in: self.connected_in,
            memory_of_connections: memory_connected.saturating_sub(self.memory_before),
            memory_max: self.watch.memory_max(),
            first,
            last,
            heard: self
                .connections
                .iter()
                .map(|connection| connection.truth.heard())
                .collect(),
            orders: self
                .connections
                .iter()
                .map(|connection| connection.truth.order())
                .collect(),
            ended,
            tally: self.tally,
        })
    }

    /// Publishes and listens for this time, as long as there is somebody to do it.
    fn play(&mut self, time: Duration, stopped: &AtomicBool) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            if now >= end || stopped.load(Ordering::Relaxed) || !self.can_go_on() {
                return Ok(());
            }
            let next = match self.plan.pace {
                Pace::Window(window) => self.fill_windows(window, now),
                Pace::Rate(rate) => self.publish_what_is_due(rate, now),
            };
            self.turn(next.min(end - now))?;
        }
    }

    fn can_go_on(&self) -> bool {
        let who_must = if self.plan.publishers > 0 {
            self.plan.publishers
        } else {
            self.connections.len()
        };
        self.connections[..who_must].iter().any(Connection::is_open)
    }

    /// Returns when to be called again, at the latest.
    fn fill_windows(&mut self, window: u32, now: Instant) -> Duration {
        for (index, publisher) in self.publishers.iter_mut().enumerate() {
            let connection = &mut self.connections[index];
            let mut room = publisher.room(window, now);
            while room > 0 && connection.has_room() {
                room -= 1;
                self.template
                    .put(self.tally.stamp(index, publisher, now), connection.out());
            }
            connection.flush();
        }
        TURN
    }

    /// Returns when the next message is due.
    fn publish_what_is_due(&mut self, rate: f64, now: Instant) -> Duration {
        let mut wait = TURN;
        while !self.publishers.is_empty() {
            let due = self.began + Duration::from_secs_f64(self.tally.published as f64 / rate);
            if due > now {
                wait = wait.min(due - now);
                break;
            }
            // In turn, and whose connection has ended is passed over.
            let turn = self.tally.published as usize % self.publishers.len();
            let open = |index: &usize| self.connections[*index].is_open();
            let Some(index) = (turn..self.publishers.len()).chain(0..turn).find(open) else {
                break;
            };
            if !self.connections[index].has_room() {
                break;
            }
            let sent = if now - due < GRAIN { now } else { due };
            let stamp = self.tally.stamp(index, &mut self.publishers[index], sent);
            self.template.put(stamp, self.connections[index].out());
        }
        self.flush();
        wait
    }

    fn flush(&mut self) {
        self.connections[..self.publishers.len()]
            .iter_mut()
            .for_each(Connection::flush);
    }

    /// Waits until somebody can be read, or that long, and reads once whoever can be.
    fn turn(&mut self, wait: Duration) -> anyhow::Result<()> {
        let wait = if self.again.is_empty() {
            wait
        } else {
            Duration::ZERO
        };
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(error).context("cannot wait for sockets");
            }
            _ => {}
        }
        self.readable.append(&mut self.again);
        for event in &self.events {
            let index = event.token().0;
            if event.is_writable() {
                self.connections[index].flush();
            }
            if event.is_read_closed() || event.is_error() {
                self.connections[index].expect_end();
            }
            self.readable.push(index);
        }
        while let Some(index) = self.readable.pop() {
            self.read(index);
        }
        self.watch
            .glance(self.began, &self.tally, &self.plan.processes)
    }

    /// One read and no more, or a flooded connection would keep the others waiting.
    fn read(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(filled) = connection.fill(&mut self.buffer) else {
            return;
        };
        let now = Instant::now();
        self.tally.bytes += filled.new as u64;
        let dialect = self.plan.message.dialect;
        let foreign = connection.scan(
            &self.buffer[..filled.length],
            self.plan.message,
            |truth, payload, deflated| {
                let message = if deflated {
                    self.inflater.inflate(payload)
                } else {
                    dialect.unwrap(payload)
                };
                match message {
                    Some(payload) => self.tally.take(
                        index,
                        payload,
                        truth,
                        &mut self.publishers,
                        &self.template,
                        now,
                    ),
                    None => self.tally.foreign += 1,
                }
            },
        );
        self.tally.foreign += foreign;
        if filled.more {
            self.again.push(index);
        }
    }

    /// After the last publish: until everybody has heard everything, or it is certain that nobody
    /// will.
    fn hear_out(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut last = (began, self.tally.heard());
        while began.elapsed() < LONGEST_DRAIN {
            self.flush();
            self.turn(TURN)?;
            let now = Instant::now();
            if self.tally.heard() != last.1 {
                last = (now, self.tally.heard());
            }
            let missing = |connection: &Connection| connection.truth.heard() < self.tally.published;
            let waiting = self
                .connections
                .iter()
                .any(|connection| connection.is_open() && missing(connection));
            if now - last.0 > if waiting { LOST } else { QUIET } {
                break;
            }
        }
        Ok(())
    }
}
