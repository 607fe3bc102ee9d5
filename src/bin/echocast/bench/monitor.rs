//! Samples a running load: for the progress bar, and for the report.

use std::time::{Duration, Instant};

use super::processes::Processes;
use super::progress::Progress;
use super::tally::Tally;

/// Time between two samples.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Monitor {
    progress: Progress,
    /// The server's processes, if they are on this machine.
    server: Processes,
    /// This program, where it can be measured.
    this: Option<Processes>,
    /// When the next sample is due.
    next: Instant,
    /// Deliveries up to the last sample.
    deliveries: u64,
    /// The most server memory while measuring, in bytes.
    max_memory: u64,
}

/// Counters at one moment.
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) deliveries: u64,
    pub(super) bytes: u64,
    pub(super) published: u64,
    /// CPU time of the server, if it is measured.
    pub(super) server_cpu: Duration,
    /// CPU time of this program, where it can be measured.
    pub(super) own_cpu: Option<Duration>,
}

impl Monitor {
    pub(super) fn new(progress: Progress, server: Processes) -> Self {
        Self {
            progress,
            server,
            this: Processes::this().ok(),
            next: Instant::now(),
            deliveries: 0,
            max_memory: 0,
        }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Memory of the server now, in bytes.
    pub(super) fn server_memory(&self) -> anyhow::Result<u64> {
        self.server.memory()
    }

    /// The most server memory seen while measuring, in bytes.
    pub(super) fn max_memory(&self) -> u64 {
        self.max_memory
    }

    pub(super) fn snapshot(&self, tally: &Tally) -> anyhow::Result<Snapshot> {
        Ok(Snapshot {
            at: Instant::now(),
            deliveries: tally.deliveries,
            bytes: tally.bytes,
            published: tally.published,
            server_cpu: self.server.cpu()?,
            own_cpu: self.this.as_ref().and_then(|this| this.cpu().ok()),
        })
    }

    /// Takes a sample if one is due. `began` is when publishing began.
    pub(super) fn sample(&mut self, began: Instant, tally: &Tally) -> anyhow::Result<()> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        // The last sample was due at `next`, minus an interval.
        let since_last = now + INTERVAL - self.next;
        self.next = now + INTERVAL;
        // Memory of the warm-up does not count.
        if tally.measuring {
            self.max_memory = self.max_memory.max(self.server.memory()?);
        }
        self.show_progress(now - began, since_last, tally);
        Ok(())
    }

    fn show_progress(&mut self, elapsed: Duration, since_last: Duration, tally: &Tally) {
        // Percentiles take too long to compute them for nobody.
        if self.progress.is_hidden() {
            return;
        }
        let deliveries = tally.deliveries - self.deliveries;
        self.deliveries = tally.deliveries;
        let rate = deliveries as f64 / since_last.as_secs_f64();
        self.progress.show(elapsed, rate, tally.p99_us());
    }
}
