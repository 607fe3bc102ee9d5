//! Every setting of a node: as people write it in [`Settings`], and as the service uses it in
//! [`Config`]. A setting is defined in one place, its group's file: flag, variable, default, help,
//! parser, and its field in the checked group. Nothing here touches the world, except that files
//! named by settings are read to see whether they can be used.

mod given;
mod network;
mod redis;
mod history;
mod limits;
mod lifetime;
mod logs;

use clap::{Args, FromArgMatches};

use self::given::Complaining;
use self::history::HistorySettings;
pub(crate) use self::lifetime::{KeepaliveConfig, ShutdownConfig};
use self::lifetime::{KeepaliveSettings, ShutdownSettings};
use self::limits::LimitSettings;
pub(crate) use self::limits::{Limits, SlowClient};
use self::logs::LogSettings;
pub(crate) use self::logs::Logs;
pub(crate) use self::network::Network;
use self::network::NetworkSettings;
pub(crate) use self::redis::RedisConfig;
use self::redis::RedisSettings;
use crate::feed::Retention;

/// The settings of `echocast serve` as given. Every flag has an environment variable; flags win.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    #[command(flatten)]
    network: NetworkSettings,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    history: HistorySettings,
    #[command(flatten)]
    limits: LimitSettings,
    #[command(flatten)]
    keepalive: KeepaliveSettings,
    #[command(flatten)]
    shutdown: ShutdownSettings,
    #[command(flatten)]
    logs: LogSettings,
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ports of a node, and the proxies in front of it.
    pub network: Network,
    /// Redis, or none for the embedded broker.
    pub redis: Option<RedisConfig>,
    /// Bounds of histories and feeds: `--history`, `--history-bytes`, `--feed-bytes`,
    /// `--history-ttl`.
    pub retention: Retention,
    /// Bounds of a node and of each client.
    pub limits: Limits,
    /// When a silent connection ends.
    pub keepalive: KeepaliveConfig,
    /// How the node stops.
    pub shutdown: ShutdownConfig,
    /// Settings of the log.
    pub logs: Logs,
}

/// Everything that is wrong with the settings, a line each, naming the flag.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Complaints(pub Vec<String>);

impl Settings {
    /// Checks every setting.
    ///
    /// # Errors
    /// If some cannot be used: all complaints at once.
    pub fn validate(&self) -> Result<Config, Complaints> {
        let mut complaining = Complaining::default();
        let config = Config {
            network: self.network.check(&mut complaining),
            redis: self.redis.check(&mut complaining),
            retention: self.history.check(&mut complaining),
            limits: self.limits.check(&mut complaining),
            keepalive: self.keepalive.check(&mut complaining),
            shutdown: self.shutdown.check(&mut complaining),
            logs: self.logs.check(&mut complaining),
        };
        // Groups that depend on each other.
        let retention = &config.retention;
        let history_bytes = (retention.messages > 0).then_some(retention.history_bytes);
        let has_redis = config.redis.is_some();
        config
            .limits
            .check_largest_message(&mut complaining, has_redis, history_bytes);

        let complaints = complaining.into_complaints();
        if complaints.is_empty() {
            Ok(config)
        } else {
            Err(Complaints(complaints))
        }
    }
}

impl Config {
    /// The checked settings of these flags (without the program's name) and the environment.
    ///
    /// # Errors
    /// If clap or a check rejects them.
    pub fn from_args<'a>(flags: impl IntoIterator<Item = &'a str>) -> Result<Self, Complaints> {
        let command = Settings::augment_args(clap::Command::new("serve").no_binary_name(true));
        let settings = command
            .try_get_matches_from(flags)
            .and_then(|matches| Settings::from_arg_matches(&matches));
        settings
            .map_err(|error| Complaints(vec![error.to_string()]))?
            .validate()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = Config::from_args([]).expect("defaults are valid");
        assert_eq!(config.network.listen, SocketAddr::from(([0; 8], 8080)));
        assert_eq!(config.network.ops_listen, SocketAddr::from(([0; 8], 8081)));
        assert_eq!(config.keepalive.idle_timeout, Duration::from_secs(75));
        assert_eq!(
            (config.retention.messages, config.retention.bytes),
            (1000, 8 * 1024 * 1024)
        );
        assert_eq!(config.retention.history_bytes, 4 * 1024 * 1024);
        assert_eq!(
            (config.limits.max_message, config.retention.ttl),
            (64 * 1024, Duration::from_secs(600))
        );
        assert_eq!(
            (
                config.limits.max_connections,
                config.limits.allow_origin,
                config.redis.map(|redis| redis.prefix)
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
    fn a_setting_that_cannot_be_read_has_one_complaint() {
        // Each is also compared with another setting.
        for bad in [
            "--history-bytes=big",
            "--shutdown-grace=long",
            "--memory=much",
            "--max-message=large",
            "--ops-listen=here",
        ] {
            let complaints = Config::from_args([bad]).expect_err(bad).0;
            let flag = bad.split('=').next().unwrap_or_default();
            assert!(
                complaints.len() == 1 && complaints[0].starts_with(&format!("{flag} ")),
                "{complaints:?}"
            );
        }
    }

    #[test]
    fn several_bad_values_of_a_list_have_a_complaint_each() {
        let networks = "--trusted-proxy=10.0.0.0/8,here,,10.0.0.0/99";
        let complaints = Config::from_args([networks]).expect_err("two are bad").0;
        let why = "not a network like 10.0.0.0/8";
        let expected =
            ["here", "10.0.0.0/99"].map(|part| format!("--trusted-proxy {part:?}: {why}"));
        assert_eq!(complaints, expected);
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
