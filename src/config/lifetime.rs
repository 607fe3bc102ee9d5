//! How long connections live without a sign of life, and how a node stops.

use std::time::Duration;

use super::given::{Complaining, Given, time};

/// The shortest interval between pings.
const LEAST_PERIOD: Duration = Duration::from_millis(1);

/// The shortest `--idle-timeout`, because `Keep-Alive` announces whole seconds.
const LEAST_IDLE: Duration = Duration::from_secs(1);

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Keepalive")]
pub(super) struct KeepaliveSettings {
    /// How often clients are pinged
    #[arg(
        long,
        env = "ECHOCAST_PING_INTERVAL",
        default_value = "20s",
        value_name = "TIME",
        value_parser = time(LEAST_PERIOD)
    )]
    ping_interval: Given<Duration>,
    /// How long a client may be silent after a ping before it counts as dead, unless it is still
    /// taking what was sent before
    #[arg(
        long,
        env = "ECHOCAST_PING_TIMEOUT",
        default_value = "20s",
        value_name = "TIME",
        value_parser = time(LEAST_PERIOD)
    )]
    ping_timeout: Given<Duration>,
    /// How long an HTTP connection is kept between requests, announced in Keep-Alive, on both
    /// ports; longer than the proxy or balancer in front keeps it
    #[arg(
        long,
        env = "ECHOCAST_IDLE_TIMEOUT",
        default_value = "75s",
        value_name = "TIME",
        value_parser = time(LEAST_IDLE)
    )]
    idle_timeout: Given<Duration>,
}

/// When a silent connection ends.
#[derive(Clone, Debug)]
pub struct KeepaliveConfig {
    /// Time between pings.
    pub ping_interval: Duration,
    /// Silence after a ping that counts as death.
    pub ping_timeout: Duration,
    /// How long an HTTP connection is kept between two requests.
    pub idle_timeout: Duration,
}

impl KeepaliveSettings {
    pub(super) fn check(&self, complaining: &mut Complaining) -> KeepaliveConfig {
        KeepaliveConfig {
            ping_interval: complaining.value("--ping-interval", &self.ping_interval),
            ping_timeout: complaining.value("--ping-timeout", &self.ping_timeout),
            idle_timeout: complaining.value("--idle-timeout", &self.idle_timeout),
        }
    }
}

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Shutdown")]
pub(super) struct ShutdownSettings {
    /// Between the stop signal and closing the port: time for balancers to notice /readyz
    #[arg(
        long,
        env = "ECHOCAST_DRAIN_DELAY",
        default_value = "0s",
        value_name = "TIME",
        value_parser = time(Duration::ZERO)
    )]
    drain_delay: Given<Duration>,
    /// Clients are told to come back (1012) spread over this time
    #[arg(
        long,
        env = "ECHOCAST_DRAIN_PERIOD",
        default_value = "10s",
        value_name = "TIME",
        value_parser = time(Duration::ZERO)
    )]
    drain_period: Given<Duration>,
    /// After the drain delay, everything has ended within this time
    #[arg(
        long,
        env = "ECHOCAST_SHUTDOWN_GRACE",
        default_value = "30s",
        value_name = "TIME",
        value_parser = time(Duration::ZERO)
    )]
    shutdown_grace: Given<Duration>,
}

/// How a node stops.
#[derive(Clone, Debug)]
pub struct ShutdownConfig {
    /// Between the stop signal and closing listeners.
    pub drain_delay: Duration,
    /// Time over which clients are closed.
    pub drain_period: Duration,
    /// After the drain delay, time until everything has ended.
    pub grace: Duration,
}

impl ShutdownSettings {
    pub(super) fn check(&self, complaining: &mut Complaining) -> ShutdownConfig {
        let shutdown = ShutdownConfig {
            drain_delay: complaining.value("--drain-delay", &self.drain_delay),
            drain_period: complaining.value("--drain-period", &self.drain_period),
            grace: complaining.value("--shutdown-grace", &self.shutdown_grace),
        };
        complaining.unless(
            shutdown.grace >= shutdown.drain_period,
            "--shutdown-grace",
            "shorter than --drain-period: clients would be cut off instead of sent away",
        );
        shutdown
    }
}
