//! Every setting of a node: as people write it in [`Settings`], and as the service uses it in
//! [`Config`]. Nothing here touches the world, but that files named by settings are read to see
//! whether they can be used.

mod check;
mod settings;
mod validate;

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

pub use self::settings::Settings;
use crate::broker::RedisTls;
use crate::feed::Retention;

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Public address.
    pub listen: SocketAddr,
    /// Address of the ops port.
    pub ops_listen: SocketAddr,
    /// Networks of proxies whose `X-Forwarded-For` or `Forwarded` is believed.
    pub trusted_proxy: Vec<IpNet>,
    /// Redis, or none for the embedded broker.
    pub redis_url: Option<String>,
    /// Files for TLS towards Redis: `--redis-ca`, `--redis-cert`, `--redis-key`.
    pub redis_tls: RedisTls,
    /// The beginning of all names in Redis.
    pub redis_prefix: String,
    /// Bounds of histories and feeds: `--history`, `--history-bytes`, `--feed-bytes`,
    /// `--history-ttl`.
    pub retention: Retention,
    /// Bytes that messages may take; `None` is [`crate::budget::default_limit`].
    pub memory: Option<usize>,
    /// Largest message in bytes of payload.
    pub max_message: usize,
    /// Connections at most; `None` is no limit.
    pub max_connections: Option<usize>,
    /// Connections of one address at most; `None` is no limit.
    pub address_connections: Option<usize>,
    /// Requests and messages a second and at once of one address; `None` is no limit.
    pub address_rate: Option<u32>,
    /// Messages a second and at once of one connection; `None` is no limit.
    pub message_rate: Option<u32>,
    /// Bytes of messages a second of one connection, after inflating; `None` is no limit.
    pub byte_rate: Option<u64>,
    /// Channels at most; `None` is no limit.
    pub max_channels: Option<usize>,
    /// Whether permessage-deflate is negotiated.
    pub deflate: bool,
    /// Origins that may connect; `None` is any.
    pub allow_origin: Option<Vec<String>>,
    /// What happens to readers that lag out.
    pub slow_client: SlowClient,
    /// Time between pings.
    pub ping_interval: Duration,
    /// Silence after a ping that counts as death.
    pub ping_timeout: Duration,
    /// How long an HTTP connection is kept between two requests.
    pub idle_timeout: Duration,
    /// Between the stop signal and closing listeners.
    pub drain_delay: Duration,
    /// Time over which clients are sent away.
    pub drain_period: Duration,
    /// After the drain delay, time until everything has ended.
    pub shutdown_grace: Duration,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Whether each message is logged.
    pub log_messages: Switch,
}

/// What happens to a reader that lags out of its feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowClient {
    /// Closed with 1013.
    Disconnect,
    /// Goes on with the newest message.
    Skip,
}

impl SlowClient {
    /// The values of the metric's label.
    pub const LABELS: [&str; 2] = ["disconnect", "skip"];

    /// The value of the metric's label.
    pub fn label(self) -> &'static str {
        Self::LABELS[self as usize]
    }
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text if standard error is a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// On, off, or on if standard error is a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// On if standard error is a terminal.
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

/// Everything that is wrong with the settings, a line each, naming the flag.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Complaints(pub Vec<String>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = Config::from_args([]).expect("defaults are valid");
        assert_eq!(config.listen, SocketAddr::from(([0; 8], 8080)));
        assert_eq!(config.ops_listen, SocketAddr::from(([0; 8], 8081)));
        assert_eq!(config.idle_timeout, Duration::from_secs(75));
        assert_eq!(
            (config.retention.messages, config.retention.bytes),
            (1000, 8 * 1024 * 1024)
        );
        assert_eq!(config.retention.history_bytes, 4 * 1024 * 1024);
        assert_eq!(
            (config.max_message, config.retention.ttl),
            (64 * 1024, Duration::from_secs(600))
        );
        assert_eq!(
            (
                config.max_connections,
                config.allow_origin,
                config.redis_url
            ),
            (None, None, None)
        );
    }

    #[test]
    fn every_bad_setting_is_named_at_once() {
        let bad = [
            "--listen=here",
            "--history=-1",
            "--max-message=big",
            "--ping-interval=0s",
            "--slow-client=kill",
        ];
        let more = [
            "--redis-url=http://x",
            "--allow-origin=example.org",
            "--trusted-proxy=10.0.0.0/99",
            "--redis-prefix={",
        ];
        let complaints = Config::from_args(bad.into_iter().chain(more))
            .expect_err("all of them are bad")
            .0;
        let named: Vec<&str> = complaints
            .iter()
            .map(|c| c.split([' ', ':']).next().unwrap_or_default())
            .collect();
        let mut expected: Vec<&str> = bad
            .iter()
            .chain(&more)
            .map(|flag| flag.split('=').next().unwrap_or_default())
            .collect();
        expected.sort_unstable();
        let mut sorted = named;
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn the_ports_are_two_whatever_their_addresses_are() {
        for (listen, ops) in [
            ("[::]:80", "[::]:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("0.0.0.0:80", "[::]:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80"),
        ] {
            let complaints = Config::from_args(["--listen", listen, "--ops-listen", ops])
                .expect_err(ops)
                .0;
            assert!(
                complaints.len() == 1 && complaints[0].starts_with("--ops-listen: "),
                "{complaints:?}"
            );
        }
        for (listen, ops) in [
            ("[::]:80", "[::]:81"),
            ("127.0.0.1:80", "[::1]:80"),
            ("0.0.0.0:80", "[::1]:80"),
            ("[::]:0", "[::]:0"),
        ] {
            assert!(
                Config::from_args(["--listen", listen, "--ops-listen", ops]).is_ok(),
                "{listen} {ops}"
            );
        }
    }

    #[test]
    fn a_history_has_room_for_the_largest_message_if_there_is_one() {
        let complaints = Config::from_args(["--max-message=8MiB"])
            .expect_err("longer than a history")
            .0;
        assert!(
            complaints.len() == 1 && complaints[0].starts_with("--history-bytes: less"),
            "{complaints:?}"
        );
        assert!(Config::from_args(["--max-message=8MiB", "--history-bytes=8MiB"]).is_ok());
        assert!(Config::from_args(["--max-message=8MiB", "--history=0"]).is_ok());
    }

    #[test]
    fn the_memory_has_room_for_some_of_the_largest_messages() {
        let flags = [
            "--memory=16MiB",
            "--max-message=4MiB",
            "--history-bytes=4MiB",
        ];
        assert!(Config::from_args(flags).is_ok());
        let complaints = Config::from_args([flags[0], "--max-message=5MiB", "--history=0"])
            .expect_err("too large")
            .0;
        assert!(
            complaints.len() == 1 && complaints[0].starts_with("--memory: less"),
            "{complaints:?}"
        );
    }

    #[test]
    fn a_password_is_never_repeated_in_a_complaint() {
        let complaints = Config::from_args(["--redis-url=redis://:secret@host/x"])
            .expect_err("the path is no number");
        assert!(!complaints.to_string().contains("secret"), "{complaints}");
    }
}
