//! Every setting of a node: its flag, variable, default and meaning in [`Settings`], as people write it; and the checked
//! plain data in [`Config`], as the service uses it. Nothing here touches the world.

mod check;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Args, FromArgMatches};
use ipnet::IpNet;

use self::check::Check;
use crate::feed::Retention;

/// The settings of `echocast serve` as given. Every flag has an environment variable; flags win.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Where it listens")]
pub struct Settings {
    /// Address and port for clients
    #[arg(long, env = "ECHOCAST_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDR")]
    listen: String,
    /// Address and port for /metrics, /livez and /readyz; keep it from the public
    #[arg(long, env = "ECHOCAST_OPS_LISTEN", default_value = "0.0.0.0:8081", value_name = "ADDR")]
    ops_listen: String,
    /// Networks of proxies whose X-Forwarded-For is believed, separated by commas
    #[arg(
        long,
        env = "ECHOCAST_TRUSTED_PROXY",
        default_value = "",
        value_name = "CIDR,...",
        hide_default_value = true
    )]
    trusted_proxy: String,

    /// Redis that connects the replicas: redis://[user:password@]host[:port][/db],
    /// redis+sentinel://host:26379,host:26379/mymaster or redis+cluster://host,host; rediss instead of redis is TLS.
    /// Without it, one process serves everybody and nothing else is needed
    #[arg(long, env = "ECHOCAST_REDIS_URL", value_name = "URL", hide_env_values = true, help_heading = "Broker")]
    redis_url: Option<String>,
    /// What names in Redis begin with
    #[arg(
        long,
        env = "ECHOCAST_REDIS_PREFIX",
        default_value = "echocast",
        value_name = "NAME",
        help_heading = "Broker"
    )]
    redis_prefix: String,

    /// Messages a channel keeps, for newcomers (?last=N) and to repair what a node missed; 0 is plain pub/sub
    #[arg(long, env = "ECHOCAST_HISTORY", default_value = "1000", value_name = "N", help_heading = "What is kept")]
    history: String,
    /// Bytes a channel keeps at most of those messages, in Redis and in the node, keys included; the newest always stay
    #[arg(
        long,
        env = "ECHOCAST_HISTORY_BYTES",
        default_value = "4MiB",
        value_name = "SIZE",
        help_heading = "What is kept"
    )]
    history_bytes: String,
    /// How long a channel's history lives after its last message
    #[arg(
        long,
        env = "ECHOCAST_HISTORY_TTL",
        default_value = "10m",
        value_name = "TIME",
        help_heading = "What is kept"
    )]
    history_ttl: String,
    /// Bytes a channel's feed holds at most in this node; a reader that lags further behind is slow
    #[arg(
        long,
        env = "ECHOCAST_FEED_BYTES",
        default_value = "8MiB",
        value_name = "SIZE",
        help_heading = "What is kept"
    )]
    feed_bytes: String,

    /// Memory that messages may take in this node: feeds with all their encodings, the inbox, unfinished messages, keys, and
    /// answers being written. When it is short, histories of channels without clients go first, then the largest feeds get
    /// shorter, then sockets are not read and requests get 503. Default: 512MiB, or a third of the container's limit
    /// if that is lower
    #[arg(long, env = "ECHOCAST_MEMORY", value_name = "SIZE", help_heading = "Limits")]
    memory: Option<String>,
    /// Largest message, in bytes of payload; larger ones close the connection with 1009
    #[arg(long, env = "ECHOCAST_MAX_MESSAGE", default_value = "64KiB", value_name = "SIZE", help_heading = "Limits")]
    max_message: String,
    /// Connections of every kind at most, counted when they are accepted; 0 is no limit
    #[arg(long, env = "ECHOCAST_MAX_CONNECTIONS", default_value = "0", value_name = "N", help_heading = "Limits")]
    max_connections: String,
    /// Connections of every kind from one address at most, counted when they are accepted; 0 is no limit.
    /// An address is an IPv4 address or an IPv6 /64 network
    #[arg(long, env = "ECHOCAST_ADDRESS_CONNECTIONS", default_value = "0", value_name = "N", help_heading = "Limits")]
    address_connections: String,
    /// Its former name: a limit must not go away unnoticed.
    #[arg(long, env = "ECHOCAST_MAX_CONNECTIONS_PER_IP", hide = true)]
    max_connections_per_ip: Option<String>,
    /// Requests and messages of one address a second, with as many at once; more are answered 429, or
    /// close a WebSocket with 1008; 0 is no limit
    #[arg(long, env = "ECHOCAST_ADDRESS_RATE", default_value = "0", value_name = "N", help_heading = "Limits")]
    address_rate: String,
    /// Messages one connection may send a second, with as many at once; more closes a WebSocket with 1008
    /// and answers a POST with 429; 0 is no limit
    #[arg(long, env = "ECHOCAST_MESSAGE_RATE", default_value = "0", value_name = "N", help_heading = "Limits")]
    message_rate: String,
    /// Bytes of messages one connection may send a second, counted after inflating, with as many at once or
    /// one largest message; 0 is no limit
    #[arg(long, env = "ECHOCAST_BYTE_RATE", default_value = "0", value_name = "SIZE", help_heading = "Limits")]
    byte_rate: String,
    /// Channels at most that this node holds; requests for more are answered 503; 0 is no limit
    #[arg(long, env = "ECHOCAST_MAX_CHANNELS", default_value = "0", value_name = "N", help_heading = "Limits")]
    max_channels: String,
    /// Whether messages are compressed for clients that offer permessage-deflate, and theirs inflated
    #[arg(long, env = "ECHOCAST_DEFLATE", default_value = "on", value_name = "on|off", help_heading = "Limits")]
    deflate: String,
    /// Origins of web pages that may connect, separated by commas; * is any. Programs that send none may always, but not
    /// what looks like a browser and calls this node by a host that is not in the list
    #[arg(
        long,
        env = "ECHOCAST_ALLOW_ORIGIN",
        default_value = "*",
        value_name = "ORIGIN,...",
        help_heading = "Limits"
    )]
    allow_origin: String,
    /// What happens to a reader that lags out of its feed: closed with 1013, or skipped ahead to the newest
    #[arg(
        long,
        env = "ECHOCAST_SLOW_CLIENT",
        default_value = "disconnect",
        value_name = "disconnect|skip",
        help_heading = "Limits"
    )]
    slow_client: String,

    /// How often clients are pinged
    #[arg(
        long,
        env = "ECHOCAST_PING_INTERVAL",
        default_value = "20s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    ping_interval: String,
    /// How long a client may be silent after a ping before it counts as dead
    #[arg(
        long,
        env = "ECHOCAST_PING_TIMEOUT",
        default_value = "20s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    ping_timeout: String,
    /// Between the stop signal and closing the port: time for balancers to notice /readyz
    #[arg(
        long,
        env = "ECHOCAST_DRAIN_DELAY",
        default_value = "0s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    drain_delay: String,
    /// Clients are told to come back (1012) spread over this time
    #[arg(
        long,
        env = "ECHOCAST_DRAIN_PERIOD",
        default_value = "10s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    drain_period: String,
    /// After the drain delay, everything has ended within this time
    #[arg(
        long,
        env = "ECHOCAST_SHUTDOWN_GRACE",
        default_value = "30s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    shutdown_grace: String,

    /// How logs are written; auto is text on a terminal, else JSON. RUST_LOG sets levels
    #[arg(
        long,
        env = "ECHOCAST_LOG_FORMAT",
        default_value = "auto",
        value_name = "auto|text|json",
        help_heading = "Logs"
    )]
    log_format: String,
    /// Whether each message is logged; auto is on if standard error is a terminal
    #[arg(
        long,
        env = "ECHOCAST_LOG_MESSAGES",
        default_value = "auto",
        value_name = "auto|on|off",
        help_heading = "Logs"
    )]
    log_messages: String,
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Public address.
    pub listen: SocketAddr,
    /// Address of the ops port.
    pub ops_listen: SocketAddr,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxy: Vec<IpNet>,
    /// Redis, or none for the embedded broker.
    pub redis_url: Option<String>,
    /// What names in Redis begin with.
    pub redis_prefix: String,
    /// What histories and feeds keep: `--history`, `--history-bytes`, `--feed-bytes`, `--history-ttl`.
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

/// The largest message over Redis, in bytes: half of what its `client-output-buffer-limit pubsub` allows by default.
const REDIS_MESSAGE: usize = 16 * 1024 * 1024;

/// The least `--memory`, in bytes: below it a few busy channels would have no window worth the name.
const LEAST_MEMORY: usize = 16 * 1024 * 1024;

/// Everything that is wrong with the settings, a line each, naming the flag.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Complaints(pub Vec<String>);

impl Config {
    /// The checked settings of these flags (without the program's name) and the environment.
    pub fn from_args<'a>(flags: impl IntoIterator<Item = &'a str>) -> Result<Self, Complaints> {
        let command = Settings::augment_args(clap::Command::new("serve").no_binary_name(true));
        let settings = command.try_get_matches_from(flags).and_then(|matches| Settings::from_arg_matches(&matches));
        settings.map_err(|error| Complaints(vec![error.to_string()]))?.validate()
    }
}

impl Settings {
    /// Checks every setting; all complaints at once.
    pub fn validate(&self) -> Result<Config, Complaints> {
        let mut check = Check(Vec::new());
        let period = |check: &mut Check, flag, value: &str| check.time(flag, value, Duration::from_millis(1));
        let any_time = |check: &mut Check, flag, value: &str| check.time(flag, value, Duration::ZERO);
        let config = Config {
            listen: check.address("--listen", &self.listen),
            ops_listen: check.address("--ops-listen", &self.ops_listen),
            trusted_proxy: check.list("--trusted-proxy", &self.trusted_proxy, |part| {
                // A single address is a network of one.
                part.parse()
                    .or_else(|_| part.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| "not a network like 10.0.0.0/8")
            }),
            redis_url: self.redis_url.as_deref().filter(|url| !url.is_empty()).map(|url| check.redis_url(url)),
            redis_prefix: check.prefix(&self.redis_prefix),
            retention: Retention {
                messages: check.number("--history", &self.history),
                history_bytes: check.size("--history-bytes", &self.history_bytes, 1),
                bytes: check.size("--feed-bytes", &self.feed_bytes, 1024),
                ttl: period(&mut check, "--history-ttl", &self.history_ttl),
            },
            memory: self.memory.as_deref().map(|memory| check.size("--memory", memory, LEAST_MEMORY)),
            max_message: check.size("--max-message", &self.max_message, 1),
            max_connections: check.limit("--max-connections", &self.max_connections),
            address_connections: check.limit("--address-connections", &self.address_connections),
            address_rate: check.limit("--address-rate", &self.address_rate),
            message_rate: check.limit("--message-rate", &self.message_rate),
            byte_rate: Some(check.size("--byte-rate", &self.byte_rate, 0) as u64).filter(|bytes| *bytes > 0),
            max_channels: check.limit("--max-channels", &self.max_channels),
            deflate: check.choice("--deflate", &self.deflate, &[("on", true), ("off", false)]),
            allow_origin: check.origins(&self.allow_origin),
            slow_client: check.choice(
                "--slow-client",
                &self.slow_client,
                &[("disconnect", SlowClient::Disconnect), ("skip", SlowClient::Skip)],
            ),
            ping_interval: period(&mut check, "--ping-interval", &self.ping_interval),
            ping_timeout: period(&mut check, "--ping-timeout", &self.ping_timeout),
            drain_delay: any_time(&mut check, "--drain-delay", &self.drain_delay),
            drain_period: any_time(&mut check, "--drain-period", &self.drain_period),
            shutdown_grace: any_time(&mut check, "--shutdown-grace", &self.shutdown_grace),
            log_format: check.choice(
                "--log-format",
                &self.log_format,
                &[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)],
            ),
            log_messages: check.choice(
                "--log-messages",
                &self.log_messages,
                &[("auto", Switch::Auto), ("on", Switch::On), ("off", Switch::Off)],
            ),
        };
        check.that(
            self.max_connections_per_ip.is_none(),
            "--max-connections-per-ip",
            "is --address-connections now, and counts every kind of connection",
        );
        check.that(config.max_message <= 1 << 28, "--max-message", "at most 256MiB");
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
            config.listen != config.ops_listen || config.listen.port() == 0,
            "--ops-listen",
            "the same as --listen",
        );
        check.that(
            config.shutdown_grace >= config.drain_period,
            "--shutdown-grace",
            "shorter than --drain-period: clients would be cut off instead of sent away",
        );
        if check.0.is_empty() { Ok(config) } else { Err(Complaints(check.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = Config::from_args([]).expect("defaults are valid");
        assert_eq!(config.listen, SocketAddr::from(([0, 0, 0, 0], 8080)));
        assert_eq!(config.ops_listen, SocketAddr::from(([0, 0, 0, 0], 8081)));
        assert_eq!((config.retention.messages, config.retention.bytes), (1000, 8 * 1024 * 1024));
        assert_eq!(config.retention.history_bytes, 4 * 1024 * 1024);
        assert_eq!((config.max_message, config.retention.ttl), (64 * 1024, Duration::from_secs(600)));
        assert_eq!((config.max_connections, config.allow_origin, config.redis_url), (None, None, None));
    }

    #[test]
    fn every_bad_setting_is_named_at_once() {
        let bad = ["--listen=here", "--history=-1", "--max-message=big", "--ping-interval=0s", "--slow-client=kill"];
        let more =
            ["--redis-url=http://x", "--allow-origin=example.org", "--trusted-proxy=10.0.0.0/99", "--redis-prefix={"];
        let complaints = Config::from_args(bad.into_iter().chain(more)).expect_err("all of them are bad").0;
        let named: Vec<&str> = complaints.iter().map(|c| c.split([' ', ':']).next().unwrap_or_default()).collect();
        let mut expected: Vec<&str> =
            bad.iter().chain(&more).map(|flag| flag.split('=').next().unwrap_or_default()).collect();
        expected.sort_unstable();
        let mut sorted = named;
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn a_history_has_room_for_the_largest_message_if_there_is_one() {
        let complaints = Config::from_args(["--max-message=8MiB"]).expect_err("longer than a history").0;
        assert!(complaints.len() == 1 && complaints[0].starts_with("--history-bytes: less"), "{complaints:?}");
        assert!(Config::from_args(["--max-message=8MiB", "--history-bytes=8MiB"]).is_ok());
        assert!(Config::from_args(["--max-message=8MiB", "--history=0"]).is_ok());
    }

    #[test]
    fn a_password_is_never_repeated_in_a_complaint() {
        let complaints = Config::from_args(["--redis-url=redis://:secret@host/x"]).expect_err("the path is no number");
        assert!(!complaints.to_string().contains("secret"), "{complaints}");
    }
}
