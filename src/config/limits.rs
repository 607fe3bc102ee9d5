//! Bounds of a node and of each client, and the fate of clients beyond them.

use super::given::{Complaining, Given, Parsed, choice, limit, list, size, size_limit};
use crate::budget::{DEFAULT_LIMIT, LEAST_LIMIT};

/// The largest message without Redis, in bytes.
const LARGEST_MESSAGE: usize = 256 * 1024 * 1024;

/// The largest message over Redis, in bytes: half of what its `client-output-buffer-limit pubsub`
/// allows by default.
const LARGEST_REDIS_MESSAGE: usize = 16 * 1024 * 1024;

/// Largest messages that `--memory` has room for at least. A message takes twice its size while it
/// arrives, and is in the inbox, too.
const MESSAGES_IN_MEMORY: usize = 4;

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitSettings {
    /// Memory that messages may take in this node: feeds with all their encodings, the inbox,
    /// unfinished messages, keys, and answers being written. When it is short, histories of
    /// channels without clients go first, then the largest feeds get shorter, then sockets are not
    /// read and requests get 503. At least four of the largest messages. Default: 512MiB, or a
    /// third of the container's limit if that is lower
    #[arg(
        long,
        env = "ECHOCAST_MEMORY",
        value_name = "SIZE",
        value_parser = size(LEAST_LIMIT)
    )]
    memory: Option<Given<usize>>,
    /// Largest message, in bytes of payload; larger ones close the connection with 1009
    #[arg(
        long,
        env = "ECHOCAST_MAX_MESSAGE",
        default_value = "64KiB",
        value_name = "SIZE",
        value_parser = size(1)
    )]
    max_message: Given<usize>,
    /// Connections of every kind at most, counted when they are accepted; 0 is no limit
    #[arg(
        long,
        env = "ECHOCAST_MAX_CONNECTIONS",
        default_value = "0",
        value_name = "N",
        value_parser = limit::<usize>
    )]
    max_connections: Given<Option<usize>>,
    /// Connections of every kind from one address at most, counted when they are accepted; 0 is no
    /// limit. An address is an IPv4 address or an IPv6 /64 network
    #[arg(
        long,
        env = "ECHOCAST_ADDRESS_CONNECTIONS",
        default_value = "0",
        value_name = "N",
        value_parser = limit::<usize>
    )]
    address_connections: Given<Option<usize>>,
    /// The former name of `--address-connections`. A node that was started with it must not lose
    /// its limit unnoticed.
    #[arg(long, env = "ECHOCAST_MAX_CONNECTIONS_PER_IP", hide = true)]
    max_connections_per_ip: Option<String>,
    /// Requests and messages of one address a second, with as many at once; more are answered 429,
    /// or close a WebSocket with 1008; 0 is no limit
    #[arg(
        long,
        env = "ECHOCAST_ADDRESS_RATE",
        default_value = "0",
        value_name = "N",
        value_parser = limit::<u32>
    )]
    address_rate: Given<Option<u32>>,
    /// Messages one connection may send a second, with as many at once; more closes a WebSocket
    /// with 1008 and answers a POST with 429; 0 is no limit
    #[arg(
        long,
        env = "ECHOCAST_MESSAGE_RATE",
        default_value = "0",
        value_name = "N",
        value_parser = limit::<u32>
    )]
    message_rate: Given<Option<u32>>,
    /// Bytes of messages one connection may send a second, counted after inflating, with as many at
    /// once or one largest message; 0 is no limit
    #[arg(
        long,
        env = "ECHOCAST_BYTE_RATE",
        default_value = "0",
        value_name = "SIZE",
        value_parser = size_limit
    )]
    byte_rate: Given<Option<u64>>,
    /// Channels at most that this node holds; requests for more are answered 503; 0 is no limit
    #[arg(
        long,
        env = "ECHOCAST_MAX_CHANNELS",
        default_value = "0",
        value_name = "N",
        value_parser = limit::<usize>
    )]
    max_channels: Given<Option<usize>>,
    /// Whether messages are compressed for clients that offer permessage-deflate, and theirs
    /// inflated
    #[arg(
        long,
        env = "ECHOCAST_DEFLATE",
        default_value = "on",
        value_name = "on|off",
        value_parser = choice(&[("on", true), ("off", false)])
    )]
    deflate: Given<bool>,
    /// Origins of web pages that may connect, separated by commas; * is any. Programs that send
    /// none may always, but not what looks like a browser and calls this node by a host that is not
    /// in the list
    #[arg(
        long,
        env = "ECHOCAST_ALLOW_ORIGIN",
        default_value = "*",
        value_name = "ORIGIN,...",
        value_parser = origins
    )]
    allow_origin: Given<Option<Vec<String>>>,
    /// Fate of a reader that lags out of its feed: closed with 1013, or skipped ahead to the newest
    #[arg(
        long,
        env = "ECHOCAST_SLOW_CLIENT",
        default_value = "disconnect",
        value_name = "disconnect|skip",
        value_parser = choice(&[
            ("disconnect", SlowClient::Disconnect),
            ("skip", SlowClient::Skip),
        ])
    )]
    slow_client: Given<SlowClient>,
}

/// Bounds of a node and of each client. `None` is no limit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes that messages may take; `None` is [`crate::budget::default_limit`].
    pub memory: Option<usize>,
    /// Largest message in bytes of payload.
    pub max_message: usize,
    /// Connections at most.
    pub max_connections: Option<usize>,
    /// Connections of one address at most.
    pub address_connections: Option<usize>,
    /// Requests and messages a second and at once of one address.
    pub address_rate: Option<u32>,
    /// Messages a second and at once of one connection.
    pub message_rate: Option<u32>,
    /// Bytes of messages a second of one connection, after inflating.
    pub byte_rate: Option<u64>,
    /// Channels at most.
    pub max_channels: Option<usize>,
    /// Whether permessage-deflate is negotiated.
    pub deflate: bool,
    /// Origins of web pages that may connect; `None` is any.
    pub allow_origin: Option<Vec<String>>,
    /// The fate of readers that lag out.
    pub slow_client: SlowClient,
}

/// The fate of a reader that lags out of its feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowClient {
    /// Closed with 1013.
    Disconnect,
    /// Goes on with the newest message.
    Skip,
}

impl SlowClient {
    /// The values of the metric's label.
    pub(crate) const LABELS: [&str; 2] = ["disconnect", "skip"];

    /// The value of the metric's label.
    pub(crate) fn label(self) -> &'static str {
        Self::LABELS[self as usize]
    }
}

impl LimitSettings {
    pub(super) fn check(&self, complaining: &mut Complaining) -> Limits {
        complaining.unless(
            self.max_connections_per_ip.is_none(),
            "--max-connections-per-ip",
            "is --address-connections now, and counts every kind of connection",
        );
        // Without the flag the default depends on the container, which is looked at later.
        let memory = self.memory.as_ref();
        Limits {
            memory: memory.map(|memory| complaining.value("--memory", memory)),
            max_message: complaining.value("--max-message", &self.max_message),
            max_connections: complaining.value("--max-connections", &self.max_connections),
            address_connections: complaining
                .value("--address-connections", &self.address_connections),
            address_rate: complaining.value("--address-rate", &self.address_rate),
            message_rate: complaining.value("--message-rate", &self.message_rate),
            byte_rate: complaining.value("--byte-rate", &self.byte_rate),
            max_channels: complaining.value("--max-channels", &self.max_channels),
            deflate: complaining.value("--deflate", &self.deflate),
            allow_origin: complaining.value("--allow-origin", &self.allow_origin),
            slow_client: complaining.value_or(
                "--slow-client",
                &self.slow_client,
                SlowClient::Disconnect,
            ),
        }
    }
}

impl Limits {
    /// Compares the largest message with everything that must have room for it. `history_bytes` is
    /// `None` if no history is kept.
    pub(super) fn check_largest_message(
        &self,
        complaining: &mut Complaining,
        has_redis: bool,
        history_bytes: Option<usize>,
    ) {
        complaining.unless(
            self.max_message <= LARGEST_MESSAGE,
            "--max-message",
            "at most 256MiB",
        );
        complaining.unless(
            !has_redis || self.max_message <= LARGEST_REDIS_MESSAGE,
            "--max-message",
            "at most 16MiB with --redis-url: redis cuts off subscribers who are 32MiB behind",
        );
        complaining.unless(
            history_bytes.is_none_or(|bytes| bytes >= self.max_message),
            "--history-bytes",
            "less than --max-message: a history could not keep a single message of that size",
        );
        let memory = self.memory.unwrap_or(DEFAULT_LIMIT);
        complaining.unless(
            self.max_message <= memory / MESSAGES_IN_MEMORY,
            "--memory",
            "less than four times --max-message: one message would take all of it while it arrives",
        );
    }
}

fn origins(text: &str) -> Parsed<Option<Vec<String>>> {
    // Any origin is no list with a star: credentials are shared only with origins that are listed.
    if text.trim() == "*" {
        return Ok(Given::value(None));
    }
    let origins = list(text, |part| match url::Url::parse(part) {
        // Browsers send an origin without a path, so an address with one would never match.
        Ok(url) if url.has_host() && url.path() == "/" && !part.ends_with('/') => {
            Ok(url.origin().ascii_serialization())
        }
        _ => Err("not an origin like https://example.org (or * for any)"),
    });
    Ok(origins
        .not_empty("empty: no web page could connect")
        .map(Some))
}
