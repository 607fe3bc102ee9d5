//! What people see while a load runs: a bar on standard error, if that is a terminal.

use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that is gone when the load is over.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new() -> Self {
        Self(ProgressBar::with_draw_target(
            None,
            ProgressDrawTarget::stderr(),
        ))
    }

    pub(super) fn connecting(&self, connections: usize) {
        self.0
            .set_style(style("connecting {wide_bar} {human_pos}/{human_len}"));
        self.0.set_length(connections as u64);
    }

    pub(super) fn connected(&self) {
        self.0.inc(1);
    }

    /// The load itself begins, for this time.
    pub(super) fn begin(&self, total: Duration) {
        self.0.set_style(style("{prefix:10} {wide_bar} {msg}"));
        self.0.set_length(total.as_millis() as u64);
        self.0.set_position(0);
    }

    pub(super) fn phase(&self, name: &'static str) {
        self.0.set_prefix(name);
    }

    /// Deliveries a second, and the latency in microseconds that one of a hundred exceeds, once
    /// that is known.
    pub(super) fn show(&self, elapsed: Duration, deliveries: f64, p99: Option<u64>) {
        self.0.set_position(elapsed.as_millis() as u64);
        let p99 = p99
            .map(|p99| format!(", p99 {}", crate::show::latency(p99)))
            .unwrap_or_default();
        self.0.set_message(format!(
            "{} deliveries/s{p99}",
            HumanCount(deliveries as u64)
        ));
    }

    pub(super) fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }
}

/// Whatever ends the load, its bar does not stay behind.
impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("a template of ours")
        .progress_chars("█▉▊▋▌▍▎▏ ")
}
