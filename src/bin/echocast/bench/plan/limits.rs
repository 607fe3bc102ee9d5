//! How much load is allowed: against any server, and against servers on other machines.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::bench::args::Args;
use crate::bench::stamp::STAMP_LEN;

/// The largest message, in bytes: one buffer holds it.
const MAX_SIZE: u64 = 1 << 20;
/// The most connections. A machine has about half as many ports for each address of a server.
const MAX_CONNECTIONS: usize = 100_000;
/// The longest run, with its warm-up.
const MAX_DURATION: Duration = Duration::from_secs(3600);
/// Messages a second: from the lowest rate at which a run publishes anything, to more than one
/// thread can write.
const RATES: RangeInclusive<f64> = 0.001..=10e6;
/// Messages in flight, for each publisher.
const WINDOWS: RangeInclusive<u32> = 1..=100_000;

/// Limits for servers on other machines, even if they are the user's own: the network on the way
/// is shared with others.
mod remote {
    use std::time::Duration;

    pub(super) const MAX_CONNECTIONS: usize = 10_000;
    /// With the warm-up.
    pub(super) const MAX_DURATION: Duration = Duration::from_secs(300);
    /// Messages a second.
    pub(super) const MAX_RATE: f64 = 10_000.0;
    /// Messages of all publishers together.
    pub(super) const MAX_IN_FLIGHT: usize = 256;
    /// Between two connection attempts.
    pub(super) const SPACING: Duration = Duration::from_millis(2);
}

/// The shortest time between two connection attempts.
pub(super) fn spacing(outside: bool) -> Duration {
    if outside {
        remote::SPACING
    } else {
        Duration::ZERO
    }
}

/// Complaints about a load on `server`, which is on another machine.
pub(super) fn outside(server: &str, args: &Args) -> Vec<String> {
    // Without consent, further limits do not matter.
    if !args.i_own_this_server {
        return vec![format!(
            "{server} is not on this machine. If the server is yours, and everyone in between \
             agrees to the load, add --i-own-this-server"
        )];
    }
    exceeded_limits(args)
        .into_iter()
        .flatten()
        .map(|limit| format!("against other machines a load has at most {limit}"))
        .collect()
}

fn exceeded_limits(args: &Args) -> [Option<String>; 4] {
    use remote::{MAX_CONNECTIONS, MAX_DURATION, MAX_IN_FLIGHT, MAX_RATE};
    let is_windowed = args.rate <= 0.0;
    [
        (connections(args) > MAX_CONNECTIONS).then(|| format!("{MAX_CONNECTIONS} connections")),
        (total_time(args) > MAX_DURATION)
            .then(|| format!("{} s with its warm-up", MAX_DURATION.as_secs())),
        (args.rate > MAX_RATE).then(|| format!("a rate of {MAX_RATE}")),
        (is_windowed && in_flight(args) > MAX_IN_FLIGHT)
            .then(|| format!("{MAX_IN_FLIGHT} messages in flight, publishers times window")),
    ]
}

/// Complaints about a load that cannot be run anywhere.
pub(super) fn anywhere(args: &Args) -> impl Iterator<Item = String> {
    let broken_rules = [
        check_connections(args),
        check_size(args.size.as_u64()),
        check_rate(args.rate),
        check_window(args.window),
        check_time(args),
    ];
    broken_rules.into_iter().filter_map(Result::err)
}

fn check_connections(args: &Args) -> Result<(), String> {
    let listeners = args.subscribers.max(args.publishers);
    rule(listeners > 0, || {
        "nothing would be received: --subscribers and --publishers are 0".to_owned()
    })?;
    rule(connections(args) <= MAX_CONNECTIONS, || {
        format!("more than {MAX_CONNECTIONS} connections")
    })
}

fn check_size(size: u64) -> Result<(), String> {
    let sizes = STAMP_LEN as u64..=MAX_SIZE;
    rule(sizes.contains(&size), || {
        format!("--size {size}: from {STAMP_LEN} bytes, which every check needs, to {MAX_SIZE}")
    })
}

fn check_rate(rate: f64) -> Result<(), String> {
    rule(rate == 0.0 || RATES.contains(&rate), || {
        let (least, most) = (RATES.start(), RATES.end());
        format!("--rate {rate}: 0, or from {least} to {most}")
    })
}

fn check_window(window: u32) -> Result<(), String> {
    rule(WINDOWS.contains(&window), || {
        let (least, most) = (WINDOWS.start(), WINDOWS.end());
        format!("--window {window}: from {least} to {most}")
    })
}

fn check_time(args: &Args) -> Result<(), String> {
    rule(!args.duration.is_zero(), || {
        "--duration: must be longer than 0".to_owned()
    })?;
    rule(total_time(args) <= MAX_DURATION, || {
        let most = MAX_DURATION.as_secs();
        format!("--duration and --warmup: together at most {most} s")
    })
}

fn rule(holds: bool, complaint: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(complaint()) }
}

fn connections(args: &Args) -> usize {
    args.subscribers
        .saturating_add(args.publishers)
        .saturating_add(args.silent)
}

fn total_time(args: &Args) -> Duration {
    args.warmup.saturating_add(args.duration)
}

fn in_flight(args: &Args) -> usize {
    args.publishers.saturating_mul(args.window as usize)
}
