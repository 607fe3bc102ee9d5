//! Looks at a running load from time to time: for the people who wait, and for the report.

use std::time::{Duration, Instant};

use super::processes::Processes;
use super::progress::Progress;
use super::tally::Tally;

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Watch {
    progress: Progress,
    /// This program, where that can be watched.
    this: Option<Processes>,
    /// When to look again.
    next: Instant,
    /// How many deliveries there were the last time.
    deliveries: u64,
    /// The most server memory while measuring, in bytes.
    memory_max: u64,
}

/// Sums at one moment.
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) deliveries: u64,
    pub(super) bytes: u64,
    pub(super) published: u64,
    /// Processor time of the server, where it is watched.
    pub(super) server_cpu: Duration,
    /// Processor time of this program, where that can be known.
    pub(super) own_cpu: Option<Duration>,
}

impl Watch {
    pub(super) fn new(progress: Progress) -> Self {
        Self {
            progress,
            this: Processes::this().ok(),
            next: Instant::now(),
            deliveries: 0,
            memory_max: 0,
        }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The most server memory seen while measuring, in bytes.
    pub(super) fn memory_max(&self) -> u64 {
        self.memory_max
    }

    pub(super) fn snapshot(&self, tally: &Tally, server: &Processes) -> anyhow::Result<Snapshot> {
        Ok(Snapshot {
            at: Instant::now(),
            deliveries: tally.deliveries,
            bytes: tally.bytes,
            published: tally.published,
            server_cpu: server.cpu()?,
            own_cpu: self.this.as_ref().and_then(|this| this.cpu().ok()),
        })
    }

    /// If it is time again. `began` is when publishing did.
    pub(super) fn glance(
        &mut self,
        began: Instant,
        tally: &Tally,
        server: &Processes,
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        let passed = (now + GLANCE - self.next).as_secs_f64();
        self.next = now + GLANCE;
        if tally.measuring {
            self.memory_max = self.memory_max.max(server.memory()?);
        }
        if !self.progress.is_hidden() {
            let rate = (tally.deliveries - self.deliveries) as f64 / passed;
            let p99 = Some(&tally.latencies).filter(|latencies| !latencies.is_empty());
            self.progress.show(
                now - began,
                rate,
                p99.map(|latencies| latencies.value_at_quantile(0.99)),
            );
            self.deliveries = tally.deliveries;
        }
        Ok(())
    }
}
