//! From settings as they are written to a [`Config`]: each one is read, then those that depend on
//! each other are compared.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::check::Check;
use super::{Complaints, Config, LogFormat, Settings, SlowClient, Switch};
use crate::budget::{DEFAULT_LIMIT, LEAST_LIMIT};
use crate::feed::Retention;

/// The largest message over Redis, in bytes: half of what its `client-output-buffer-limit pubsub`
/// allows by default.
const REDIS_MESSAGE: usize = 16 * 1024 * 1024;

/// Largest messages that `--memory` has room for at least: one that arrives takes twice its size,
/// and is in the inbox, too.
const MESSAGES_IN_MEMORY: usize = 4;

/// The least `--idle-timeout`: clients are told whole seconds.
const LEAST_IDLE: Duration = Duration::from_secs(1);

impl Settings {
    /// Checks every setting; all complaints at once.
    pub fn validate(&self) -> Result<Config, Complaints> {
        let mut check = Check(Vec::new());
        let period = |check: &mut Check, flag, value: &str| {
            check.time(flag, value, Duration::from_millis(1))
        };
        let any_time =
            |check: &mut Check, flag, value: &str| check.time(flag, value, Duration::ZERO);
        let config = Config {
            listen: check.address("--listen", &self.listen),
            ops_listen: check.address("--ops-listen", &self.ops_listen),
            trusted_proxy: check.list("--trusted-proxy", &self.trusted_proxy, |part| {
                // A single address is a network of one.
                part.parse()
                    .or_else(|_| part.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| "not a network like 10.0.0.0/8")
            }),
            redis_url: self
                .redis_url
                .as_deref()
                .filter(|url| !url.is_empty())
                .map(|url| check.redis_url(url)),
            redis_tls: check.redis_tls(self),
            redis_prefix: check.prefix(&self.redis_prefix),
            retention: Retention {
                messages: check.number("--history", &self.history),
                history_bytes: check.size("--history-bytes", &self.history_bytes, 1),
                bytes: check.size("--feed-bytes", &self.feed_bytes, 1024),
                ttl: period(&mut check, "--history-ttl", &self.history_ttl),
            },
            memory: self
                .memory
                .as_deref()
                .map(|memory| check.size("--memory", memory, LEAST_LIMIT)),
            max_message: check.size("--max-message", &self.max_message, 1),
            max_connections: check.limit("--max-connections", &self.max_connections),
            address_connections: check.limit("--address-connections", &self.address_connections),
            address_rate: check.limit("--address-rate", &self.address_rate),
            message_rate: check.limit("--message-rate", &self.message_rate),
            byte_rate: Some(check.size("--byte-rate", &self.byte_rate, 0) as u64)
                .filter(|bytes| *bytes > 0),
            max_channels: check.limit("--max-channels", &self.max_channels),
            deflate: check.choice("--deflate", &self.deflate, &[("on", true), ("off", false)]),
            allow_origin: check.origins(&self.allow_origin),
            slow_client: check.choice(
                "--slow-client",
                &self.slow_client,
                &[
                    ("disconnect", SlowClient::Disconnect),
                    ("skip", SlowClient::Skip),
                ],
            ),
            ping_interval: period(&mut check, "--ping-interval", &self.ping_interval),
            ping_timeout: period(&mut check, "--ping-timeout", &self.ping_timeout),
            idle_timeout: check.time("--idle-timeout", &self.idle_timeout, LEAST_IDLE),
            drain_delay: any_time(&mut check, "--drain-delay", &self.drain_delay),
            drain_period: any_time(&mut check, "--drain-period", &self.drain_period),
            shutdown_grace: any_time(&mut check, "--shutdown-grace", &self.shutdown_grace),
            log_format: check.choice(
                "--log-format",
                &self.log_format,
                &[
                    ("auto", LogFormat::Auto),
                    ("text", LogFormat::Text),
                    ("json", LogFormat::Json),
                ],
            ),
            log_messages: check.choice(
                "--log-messages",
                &self.log_messages,
                &[
                    ("auto", Switch::Auto),
                    ("on", Switch::On),
                    ("off", Switch::Off),
                ],
            ),
        };
        check.that(
            self.max_connections_per_ip.is_none(),
            "--max-connections-per-ip",
            "is --address-connections now, and counts every kind of connection",
        );
        check.that(
            config.max_message <= 1 << 28,
            "--max-message",
            "at most 256MiB",
        );
        check.that(
            config.redis_url.is_none() || config.max_message <= REDIS_MESSAGE,
            "--max-message",
            "at most 16MiB with --redis-url: redis cuts off subscribers who are 32MiB behind",
        );
        check.that(
            config.retention.messages == 0 || config.retention.history_bytes >= config.max_message,
            "--history-bytes",
            "less than --max-message: a history could not keep a single message of that size",
        );
        check.that(
            config.max_message <= config.memory.unwrap_or(DEFAULT_LIMIT) / MESSAGES_IN_MEMORY,
            "--memory",
            "less than four times --max-message: one message would take all of it while it arrives",
        );
        check.that(
            !are_one(config.listen, config.ops_listen),
            "--ops-listen",
            "the port of --listen, and one address is also the other's",
        );
        check.that(
            config.shutdown_grace >= config.drain_period,
            "--shutdown-grace",
            "shorter than --drain-period: clients would be cut off instead of sent away",
        );
        if check.0.is_empty() {
            Ok(config)
        } else {
            Err(Complaints(check.0))
        }
    }
}

/// Whether one socket would take what the other listens on.
fn are_one(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    // The unspecified address of IPv6 is every one of both families.
    let covers = |all: IpAddr, ip: IpAddr| {
        all == ip || all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4())
    };
    one.port() == other.port() && one.port() != 0 && (covers(ip, other_ip) || covers(other_ip, ip))
}
