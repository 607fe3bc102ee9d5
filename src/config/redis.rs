//! The Redis that connects the replicas.

use std::path::PathBuf;

use super::given::{Complaining, Given, Parsed, checked, file};
use crate::redis_address::RedisAddress;
use crate::redis_address::tls::RedisTls;

#[allow(
    rustdoc::broken_intra_doc_links,
    reason = "`--help` shows these sentences as they are, brackets too"
)]
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Broker")]
pub(super) struct RedisSettings {
    /// Redis that connects the replicas: redis://[user:password@]host[:port][/db],
    /// redis+sentinel://host:26379,host:26379/mymaster or redis+cluster://host,host; rediss instead
    /// of redis is TLS. Without it, one process serves all clients and needs nothing else
    #[arg(
        long,
        env = "ECHOCAST_REDIS_URL",
        value_name = "URL",
        hide_env_values = true,
        value_parser = redis_address
    )]
    redis_url: Option<Given<Option<RedisAddress>>>,
    /// Certificates of the authorities that may have signed Redis' certificate, in PEM; without it,
    /// the system's. This file and the next two are read anew for each connection
    #[arg(long, env = "ECHOCAST_REDIS_CA", value_name = "FILE", value_parser = file)]
    redis_ca: Option<Given<Option<PathBuf>>>,
    /// This node's own certificate, in PEM, for a Redis that asks its clients for one
    #[arg(long, env = "ECHOCAST_REDIS_CERT", value_name = "FILE", value_parser = file)]
    redis_cert: Option<Given<Option<PathBuf>>>,
    /// The private key of that certificate, in PEM
    #[arg(long, env = "ECHOCAST_REDIS_KEY", value_name = "FILE", value_parser = file)]
    redis_key: Option<Given<Option<PathBuf>>>,
    /// The beginning of all names in Redis
    #[arg(
        long,
        env = "ECHOCAST_REDIS_PREFIX",
        default_value = "echocast",
        value_name = "NAME",
        value_parser = prefix
    )]
    redis_prefix: Given<String>,
}

/// The Redis that connects the replicas.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Its address.
    pub address: RedisAddress,
    /// Files for TLS: `--redis-ca`, `--redis-cert`, `--redis-key`.
    pub tls: RedisTls,
    /// The beginning of all names in Redis.
    pub prefix: String,
}

impl RedisSettings {
    /// `None` for the embedded broker.
    pub(super) fn check(&self, complaining: &mut Complaining) -> Option<RedisConfig> {
        let address = optional(complaining, "--redis-url", &self.redis_url);
        let prefix = complaining.value("--redis-prefix", &self.redis_prefix);
        let tls = RedisTls {
            ca: optional(complaining, "--redis-ca", &self.redis_ca),
            cert: optional(complaining, "--redis-cert", &self.redis_cert),
            key: optional(complaining, "--redis-key", &self.redis_key),
        };
        // A bad address has its complaint already.
        let is_bad = self.redis_url.as_ref().is_some_and(Given::is_bad);
        let uses_tls = address.as_ref().map_or(is_bad, RedisAddress::uses_tls);
        complaining.extend(tls.complaints(uses_tls));
        address.map(|address| RedisConfig {
            address,
            tls,
            prefix,
        })
    }
}

fn optional<T: Clone>(
    complaining: &mut Complaining,
    flag: &str,
    given: &Option<Given<Option<T>>>,
) -> Option<T> {
    complaining.value(flag, given.as_ref()?)
}

/// An empty address is none, as templates write it into a variable.
fn redis_address(text: &str) -> Parsed<Option<RedisAddress>> {
    if text.is_empty() {
        return Ok(Given::value(None));
    }
    let address = RedisAddress::parse(text).map_err(|error| format!("{error:#}"));
    Given::parse_secret(address.map(Some))
}

fn prefix(text: &str) -> Parsed<String> {
    // Braces would change a name's slot in a Cluster. The others are patterns of subscriptions and
    // of access lists.
    let is_plain = |c: char| c.is_ascii_graphic() && !"{}*?[]\\".contains(c);
    let holds = !text.is_empty() && text.chars().all(is_plain);
    checked(text, holds, "visible ASCII without {}*?[]\\, not empty")
}
