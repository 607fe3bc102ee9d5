//! The progress bar on standard error, shown only if that is a terminal.

use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::show::latency;

/// A bar that disappears when the load is over.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new() -> Self {
        let target = ProgressDrawTarget::stderr();
        Self(ProgressBar::with_draw_target(None, target))
    }

    pub(super) fn connecting(&self, connections: usize) {
        let template = "connecting {wide_bar} {human_pos}/{human_len}";
        self.0.set_style(style(template));
        self.0.set_length(connections as u64);
    }

    pub(super) fn connected(&self) {
        self.0.inc(1);
    }

    /// The load itself begins, and lasts for `total`.
    pub(super) fn begin(&self, total: Duration) {
        self.0.set_style(style("{prefix:10} {wide_bar} {msg}"));
        self.0.set_length(total.as_millis() as u64);
        // The bar was used for connecting before.
        self.0.set_position(0);
    }

    pub(super) fn phase(&self, name: &'static str) {
        self.0.set_prefix(name);
    }

    /// Shows the deliveries a second and, once it is known, the 99th percentile of the latency in
    /// microseconds.
    pub(super) fn show(&self, elapsed: Duration, deliveries: f64, p99: Option<u64>) {
        self.0.set_position(elapsed.as_millis() as u64);
        self.0.set_message(message(deliveries, p99));
    }

    pub(super) fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }
}

/// However the load ends, errors included, the bar must not stay on the terminal.
impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn message(deliveries: f64, p99: Option<u64>) -> String {
    let deliveries = HumanCount(deliveries as u64);
    match p99 {
        Some(us) => format!("{deliveries} deliveries/s, p99 {}", latency(us)),
        None => format!("{deliveries} deliveries/s"),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("a valid template")
        .progress_chars("█▉▊▋▌▍▎▏ ")
}
