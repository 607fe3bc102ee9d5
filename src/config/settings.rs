//! The settings of a node as people write them: the flag, variable, default and meaning of each.

use clap::{Args, FromArgMatches};

use super::{Complaints, Config};

/// The settings of `echocast serve` as given. Every flag has an environment variable; flags win.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Where it listens")]
pub struct Settings {
    /// Address and port for clients; [::] is every address, of IPv4 and IPv6
    #[arg(
        long,
        env = "ECHOCAST_LISTEN",
        default_value = "[::]:8080",
        value_name = "ADDR"
    )]
    pub(super) listen: String,
    /// Address and port for /metrics, /livez and /readyz; keep it from the public
    #[arg(
        long,
        env = "ECHOCAST_OPS_LISTEN",
        default_value = "[::]:8081",
        value_name = "ADDR"
    )]
    pub(super) ops_listen: String,
    /// Networks of proxies whose X-Forwarded-For is believed, or where they send none, Forwarded;
    /// separated by commas
    #[arg(
        long,
        env = "ECHOCAST_TRUSTED_PROXY",
        default_value = "",
        value_name = "CIDR,...",
        hide_default_value = true
    )]
    pub(super) trusted_proxy: String,

    /// Redis that connects the replicas: redis://[user:password@]host[:port][/db],
    /// redis+sentinel://host:26379,host:26379/mymaster or redis+cluster://host,host; rediss instead
    /// of redis is TLS. Without it, one process serves everybody and nothing else is needed
    #[arg(
        long,
        env = "ECHOCAST_REDIS_URL",
        value_name = "URL",
        hide_env_values = true,
        help_heading = "Broker"
    )]
    pub(super) redis_url: Option<String>,
    /// Certificates of the authorities that may have signed Redis' certificate, in PEM; without it,
    /// the system's. This file and the next two are read anew for each connection
    #[arg(
        long,
        env = "ECHOCAST_REDIS_CA",
        value_name = "FILE",
        help_heading = "Broker"
    )]
    pub(super) redis_ca: Option<String>,
    /// This node's own certificate, in PEM, for a Redis that asks its clients for one
    #[arg(
        long,
        env = "ECHOCAST_REDIS_CERT",
        value_name = "FILE",
        help_heading = "Broker"
    )]
    pub(super) redis_cert: Option<String>,
    /// The private key of that certificate, in PEM
    #[arg(
        long,
        env = "ECHOCAST_REDIS_KEY",
        value_name = "FILE",
        help_heading = "Broker"
    )]
    pub(super) redis_key: Option<String>,
    /// The beginning of all names in Redis
    #[arg(
        long,
        env = "ECHOCAST_REDIS_PREFIX",
        default_value = "echocast",
        value_name = "NAME",
        help_heading = "Broker"
    )]
    pub(super) redis_prefix: String,

    /// Messages a channel keeps, for newcomers (?last=N) and to repair what a node missed; 0 is
    /// plain pub/sub
    #[arg(
        long,
        env = "ECHOCAST_HISTORY",
        default_value = "1000",
        value_name = "N",
        help_heading = "What is kept"
    )]
    pub(super) history: String,
    /// Bytes a channel keeps at most of those messages, in Redis and in the node, keys included;
    /// the newest always stay
    #[arg(
        long,
        env = "ECHOCAST_HISTORY_BYTES",
        default_value = "4MiB",
        value_name = "SIZE",
        help_heading = "What is kept"
    )]
    pub(super) history_bytes: String,
    /// How long a channel's history lives after its last message
    #[arg(
        long,
        env = "ECHOCAST_HISTORY_TTL",
        default_value = "10m",
        value_name = "TIME",
        help_heading = "What is kept"
    )]
    pub(super) history_ttl: String,
    /// Bytes a channel's feed holds at most in this node; a reader that lags further behind is slow
    #[arg(
        long,
        env = "ECHOCAST_FEED_BYTES",
        default_value = "8MiB",
        value_name = "SIZE",
        help_heading = "What is kept"
    )]
    pub(super) feed_bytes: String,

    /// Memory that messages may take in this node: feeds with all their encodings, the inbox,
    /// unfinished messages, keys, and answers being written. When it is short, histories of
    /// channels without clients go first, then the largest feeds get shorter, then sockets are not
    /// read and requests get 503. At least four of the largest messages. Default: 512MiB, or a
    /// third of the container's limit if that is lower
    #[arg(
        long,
        env = "ECHOCAST_MEMORY",
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub(super) memory: Option<String>,
    /// Largest message, in bytes of payload; larger ones close the connection with 1009
    #[arg(
        long,
        env = "ECHOCAST_MAX_MESSAGE",
        default_value = "64KiB",
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub(super) max_message: String,
    /// Connections of every kind at most, counted when they are accepted; 0 is no limit
    #[arg(
        long,
        env = "ECHOCAST_MAX_CONNECTIONS",
        default_value = "0",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub(super) max_connections: String,
    /// Connections of every kind from one address at most, counted when they are accepted; 0 is no
    /// limit. An address is an IPv4 address or an IPv6 /64 network
    #[arg(
        long,
        env = "ECHOCAST_ADDRESS_CONNECTIONS",
        default_value = "0",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub(super) address_connections: String,
    /// Its former name: a limit must not go away unnoticed.
    #[arg(long, env = "ECHOCAST_MAX_CONNECTIONS_PER_IP", hide = true)]
    pub(super) max_connections_per_ip: Option<String>,
    /// Requests and messages of one address a second, with as many at once; more are answered 429,
    /// or close a WebSocket with 1008; 0 is no limit
    #[arg(
        long,
        env = "ECHOCAST_ADDRESS_RATE",
        default_value = "0",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub(super) address_rate: String,
    /// Messages one connection may send a second, with as many at once; more closes a WebSocket
    /// with 1008 and answers a POST with 429; 0 is no limit
    #[arg(
        long,
        env = "ECHOCAST_MESSAGE_RATE",
        default_value = "0",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub(super) message_rate: String,
    /// Bytes of messages one connection may send a second, counted after inflating, with as many at
    /// once or one largest message; 0 is no limit
    #[arg(
        long,
        env = "ECHOCAST_BYTE_RATE",
        default_value = "0",
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub(super) byte_rate: String,
    /// Channels at most that this node holds; requests for more are answered 503; 0 is no limit
    #[arg(
        long,
        env = "ECHOCAST_MAX_CHANNELS",
        default_value = "0",
        value_name = "N",
        help_heading = "Limits"
    )]
    pub(super) max_channels: String,
    /// Whether messages are compressed for clients that offer permessage-deflate, and theirs
    /// inflated
    #[arg(
        long,
        env = "ECHOCAST_DEFLATE",
        default_value = "on",
        value_name = "on|off",
        help_heading = "Limits"
    )]
    pub(super) deflate: String,
    /// Origins of web pages that may connect, separated by commas; * is any. Programs that send
    /// none may always, but not what looks like a browser and calls this node by a host that is not
    /// in the list
    #[arg(
        long,
        env = "ECHOCAST_ALLOW_ORIGIN",
        default_value = "*",
        value_name = "ORIGIN,...",
        help_heading = "Limits"
    )]
    pub(super) allow_origin: String,
    /// Fate of a reader that lags out of its feed: closed with 1013, or skipped ahead to the newest
    #[arg(
        long,
        env = "ECHOCAST_SLOW_CLIENT",
        default_value = "disconnect",
        value_name = "disconnect|skip",
        help_heading = "Limits"
    )]
    pub(super) slow_client: String,

    /// How often clients are pinged
    #[arg(
        long,
        env = "ECHOCAST_PING_INTERVAL",
        default_value = "20s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    pub(super) ping_interval: String,
    /// How long a client may be silent after a ping before it counts as dead, unless it is still
    /// taking what was sent before
    #[arg(
        long,
        env = "ECHOCAST_PING_TIMEOUT",
        default_value = "20s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    pub(super) ping_timeout: String,
    /// How long an HTTP connection is kept between requests, told in Keep-Alive, on both ports;
    /// longer than what stands in front keeps it
    #[arg(
        long,
        env = "ECHOCAST_IDLE_TIMEOUT",
        default_value = "75s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    pub(super) idle_timeout: String,
    /// Between the stop signal and closing the port: time for balancers to notice /readyz
    #[arg(
        long,
        env = "ECHOCAST_DRAIN_DELAY",
        default_value = "0s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    pub(super) drain_delay: String,
    /// Clients are told to come back (1012) spread over this time
    #[arg(
        long,
        env = "ECHOCAST_DRAIN_PERIOD",
        default_value = "10s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    pub(super) drain_period: String,
    /// After the drain delay, everything has ended within this time
    #[arg(
        long,
        env = "ECHOCAST_SHUTDOWN_GRACE",
        default_value = "30s",
        value_name = "TIME",
        help_heading = "Life and death"
    )]
    pub(super) shutdown_grace: String,

    /// How logs are written; auto is text on a terminal, else JSON. RUST_LOG sets levels
    #[arg(
        long,
        env = "ECHOCAST_LOG_FORMAT",
        default_value = "auto",
        value_name = "auto|text|json",
        help_heading = "Logs"
    )]
    pub(super) log_format: String,
    /// Whether each message is logged; auto is on if standard error is a terminal
    #[arg(
        long,
        env = "ECHOCAST_LOG_MESSAGES",
        default_value = "auto",
        value_name = "auto|on|off",
        help_heading = "Logs"
    )]
    pub(super) log_messages: String,
}

impl Config {
    /// The checked settings of these flags (without the program's name) and the environment.
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
