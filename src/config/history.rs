//! How much of each channel is kept, in Redis and in the node.

use std::time::Duration;

use super::given::{Complaining, Given, number, size, time};
use crate::feed::Retention;

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "History")]
pub(super) struct HistorySettings {
    /// Messages a channel keeps, for newcomers (?last=N) and to repair what a node missed; 0 is
    /// plain pub/sub
    #[arg(
        long,
        env = "ECHOCAST_HISTORY",
        default_value = "1000",
        value_name = "N",
        value_parser = number::<usize>
    )]
    history: Given<usize>,
    /// Bytes a channel keeps at most of those messages, in Redis and in the node, keys included;
    /// the newest always stay
    #[arg(
        long,
        env = "ECHOCAST_HISTORY_BYTES",
        default_value = "4MiB",
        value_name = "SIZE",
        value_parser = size(1)
    )]
    history_bytes: Given<usize>,
    /// How long a channel's history lives after its last message
    #[arg(
        long,
        env = "ECHOCAST_HISTORY_TTL",
        default_value = "10m",
        value_name = "TIME",
        value_parser = time(Duration::from_millis(1))
    )]
    history_ttl: Given<Duration>,
    /// Bytes a channel's feed holds at most in this node; a reader that lags further behind is slow
    #[arg(
        long,
        env = "ECHOCAST_FEED_BYTES",
        default_value = "8MiB",
        value_name = "SIZE",
        value_parser = size(1024)
    )]
    feed_bytes: Given<usize>,
}

impl HistorySettings {
    pub(super) fn check(&self, complaining: &mut Complaining) -> Retention {
        Retention {
            messages: complaining.value("--history", &self.history),
            history_bytes: complaining.value("--history-bytes", &self.history_bytes),
            bytes: complaining.value("--feed-bytes", &self.feed_bytes),
            ttl: complaining.value("--history-ttl", &self.history_ttl),
        }
    }
}
