//! From the command line to a load that may be run: every complaint at once. Whose server may be
//! loaded, and how much, is decided here; addresses are looked up, and nothing else of the world is
//! touched.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use url::Url;

use super::args::Args;
use super::dialect::Dialect;
use super::frames::Shape;
use super::processes::Processes;
use super::stamp::STAMP_LEN;
use crate::connect::{Target, TargetOptions};

/// Each message by itself, so that every subscriber can be given the same bytes.
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// The largest message, in bytes: one buffer holds it.
const MAX_SIZE: u64 = 1 << 20;
/// The most connections; a machine has about half as many ports for each address of a server.
const MAX_CONNECTIONS: usize = 100_000;
const MAX_DURATION: Duration = Duration::from_secs(3600);
/// Messages a second: from one that may still come to more than one thread can write.
const RATES: RangeInclusive<f64> = 0.001..=10e6;

/// What holds for servers elsewhere, whoever owns them: others share the network on the way.
mod elsewhere {
    use std::time::Duration;

    pub(super) const MAX_CONNECTIONS: usize = 10_000;
    pub(super) const MAX_DURATION: Duration = Duration::from_secs(300);
    /// Messages a second.
    pub(super) const MAX_RATE: f64 = 10_000.0;
    /// Messages of all publishers together.
    pub(super) const MAX_IN_FLIGHT: usize = 256;
    /// Between two connection attempts.
    pub(super) const SPACING: Duration = Duration::from_millis(2);
}

/// A load, checked.
#[derive(Debug)]
pub(super) struct Plan {
    /// At least one.
    pub(super) endpoints: Vec<Endpoint>,
    /// Connections that only listen.
    pub(super) subscribers: usize,
    /// Connections that publish and listen.
    pub(super) publishers: usize,
    /// Connections that do not even read.
    pub(super) silent: usize,
    pub(super) pace: Pace,
    /// At least [`STAMP_LEN`] long, besides what its dialect puts around it.
    pub(super) message: Shape,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    /// The server's, if they are on this machine.
    pub(super) processes: Processes,
    /// The least time between two connection attempts.
    pub(super) spacing: Duration,
}

/// A server and where it was found.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) target: Target,
    /// At least one.
    pub(super) addresses: Vec<SocketAddr>,
}

/// When the next message is published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// When fewer than this many of the publisher's messages are on their way.
    Window(u32),
    /// This many a second, of all publishers together.
    Rate(f64),
}

impl Plan {
    pub(super) async fn new(args: Args) -> Result<Self, Vec<String>> {
        let mut complaints = Vec::new();
        let mut endpoints = Vec::new();
        for text in &args.urls {
            match endpoint(text, args.deflate).await {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(complaint) => complaints.push(complaint),
            }
        }
        let channels: Vec<&str> = endpoints
            .iter()
            .map(|endpoint| channel(endpoint.target.url()))
            .collect();
        if let Some(other) = channels.iter().find(|channel| **channel != channels[0]) {
            complaints.push(format!(
                "all URLs must be of one channel, not of '{}' and '{other}'",
                channels[0]
            ));
        }
        let outside = outside(&endpoints);
        match &outside {
            Some(who) if !args.i_own_this_server => complaints.push(format!(
                "{who} is not on this machine. If it is yours to load, and everybody between agrees, say so with \
                 --i-own-this-server"
            )),
            Some(_) => complaints.extend(too_much_elsewhere(&args)),
            None => {}
        }
        complaints.extend(impossible(&args));
        let processes =
            Processes::new(args.pid).map_err(|error| complaints.push(format!("--pid: {error:#}")));
        let (Ok(processes), true) = (processes, complaints.is_empty()) else {
            return Err(complaints);
        };
        let dialect = if args.socket_io {
            Dialect::SocketIo
        } else {
            Dialect::Plain
        };
        Ok(Self {
            endpoints,
            subscribers: args.subscribers,
            publishers: args.publishers,
            silent: args.silent,
            pace: if args.rate > 0.0 {
                Pace::Rate(args.rate)
            } else {
                Pace::Window(args.window)
            },
            message: Shape {
                length: args.size.as_u64() as usize + dialect.around(),
                deflate: args.deflate,
                dialect,
            },
            warmup: args.warmup,
            duration: args.duration,
            processes,
            spacing: if outside.is_some() {
                elsewhere::SPACING
            } else {
                Duration::ZERO
            },
        })
    }

    /// Connections that listen and check, the publishers first.
    pub(super) fn listeners(&self) -> usize {
        self.publishers + self.subscribers
    }

    /// Which server each connection goes to: each kind is spread evenly.
    pub(super) fn spread(&self) -> impl Iterator<Item = &Endpoint> {
        let kinds = [self.publishers, self.subscribers, self.silent];
        kinds
            .into_iter()
            .flat_map(|count| (0..count).map(|index| &self.endpoints[index % self.endpoints.len()]))
    }
}

async fn endpoint(text: &str, deflate: bool) -> Result<Endpoint, String> {
    let headers = if deflate {
        vec![OFFER.to_owned()]
    } else {
        Vec::new()
    };
    let target = Target::new(
        text,
        TargetOptions {
            raw: true,
            headers,
            ..TargetOptions::default()
        },
    )?;
    if target.url().scheme() != "ws" {
        return Err(format!(
            "'{target}': bench speaks ws:// only; measure behind what ends TLS"
        ));
    }
    if !target.hears_itself() {
        return Err(format!(
            "'{target}': publishers must hear themselves, leave out echo=false"
        ));
    }
    let unknown = |why: &str| format!("'{target}': cannot find the server: {why}");
    let host = target.url().host_str().ok_or_else(|| unknown("no host"))?;
    let port = target
        .url()
        .port_or_known_default()
        .ok_or_else(|| unknown("no port"))?;
    let found = tokio::net::lookup_host(format!("{host}:{port}")).await;
    let addresses: Vec<SocketAddr> = found
        .map_err(|error| unknown(&error.to_string()))?
        .collect();
    if addresses.is_empty() {
        return Err(unknown("no address"));
    }
    Ok(Endpoint { target, addresses })
}

/// `/` and `/ws` are one channel. Only the path counts: a query may hold a token.
fn channel(url: &Url) -> &str {
    match url.path() {
        "/ws" => "/",
        path => path,
    }
}

/// A server that is not, or not for certain, on this machine.
fn outside(endpoints: &[Endpoint]) -> Option<String> {
    endpoints.iter().find_map(|Endpoint { target, addresses }| {
        let address = addresses
            .iter()
            .find(|address| !address.ip().to_canonical().is_loopback())?;
        Some(format!("'{target}' ({})", address.ip()))
    })
}

fn too_much_elsewhere(args: &Args) -> Vec<String> {
    let in_flight = args.publishers.saturating_mul(args.window as usize);
    let limits = [
        (
            args.subscribers + args.publishers + args.silent > elsewhere::MAX_CONNECTIONS,
            format!("{} connections", elsewhere::MAX_CONNECTIONS),
        ),
        (
            args.warmup + args.duration > elsewhere::MAX_DURATION,
            format!("{} s with its warm-up", elsewhere::MAX_DURATION.as_secs()),
        ),
        (
            args.rate > elsewhere::MAX_RATE,
            format!("a rate of {}", elsewhere::MAX_RATE),
        ),
        (
            args.rate <= 0.0 && in_flight > elsewhere::MAX_IN_FLIGHT,
            format!(
                "{} messages in flight, publishers times window",
                elsewhere::MAX_IN_FLIGHT
            ),
        ),
    ];
    let broken = limits.into_iter().filter(|(broken, _)| *broken);
    broken
        .map(|(_, limit)| format!("towards other machines a load has at most {limit}"))
        .collect()
}

fn impossible(args: &Args) -> Vec<String> {
    let size = args.size.as_u64();
    let rules = [
        (
            args.subscribers.saturating_add(args.publishers) > 0,
            "nobody would hear anything: --subscribers and --publishers are 0".to_owned(),
        ),
        (
            args.subscribers
                .saturating_add(args.publishers)
                .saturating_add(args.silent)
                <= MAX_CONNECTIONS,
            format!("more than {MAX_CONNECTIONS} connections"),
        ),
        (
            (STAMP_LEN as u64..=MAX_SIZE).contains(&size),
            format!(
                "--size {size}: from {STAMP_LEN} bytes, which every check needs, to {MAX_SIZE}"
            ),
        ),
        (
            args.rate == 0.0 || RATES.contains(&args.rate),
            format!("--rate {}: 0, or from 0.001 to 10000000", args.rate),
        ),
        (
            (1..=100_000).contains(&args.window),
            format!("--window {}: from 1 to 100000", args.window),
        ),
        (
            !args.duration.is_zero(),
            "--duration: longer than nothing".to_owned(),
        ),
        (
            args.warmup.saturating_add(args.duration) <= MAX_DURATION,
            format!(
                "--duration and --warmup: together at most {} s",
                MAX_DURATION.as_secs()
            ),
        ),
    ];
    rules
        .into_iter()
        .filter(|(holds, _)| !holds)
        .map(|(_, complaint)| complaint)
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    async fn plan(line: &str) -> Result<Plan, String> {
        let line = Line::try_parse_from(["bench"].into_iter().chain(line.split_whitespace()))
            .expect("a command line");
        Plan::new(line.args)
            .await
            .map_err(|complaints| complaints.join("; "))
    }

    #[tokio::test]
    async fn each_kind_of_connection_is_spread_over_the_servers() {
        let plan = plan("ws://127.0.0.1:1/a ws://127.0.0.1:2/a -p 2 -s 3 --silent 1 --rate 5")
            .await
            .expect("a plan");
        let ports: Vec<u16> = plan
            .spread()
            .map(|endpoint| endpoint.addresses[0].port())
            .collect();
        assert_eq!(ports, [1, 2, 1, 2, 1, 1]);
        assert_eq!(
            (plan.listeners(), plan.pace, plan.spacing),
            (5, Pace::Rate(5.0), Duration::ZERO)
        );
    }

    #[tokio::test]
    async fn servers_elsewhere_need_consent_and_have_limits() {
        for (line, complaint) in [
            (
                "ws://192.0.2.1/a",
                Some("'ws://192.0.2.1/a' (192.0.2.1) is not on this machine"),
            ),
            (
                "ws://127.0.0.1/a ws://[2001:db8::1]/a",
                Some("2001:db8::1) is not on this machine"),
            ),
            ("ws://0.0.0.0:8080", Some("not on this machine")),
            ("ws://192.0.2.1/a --i-own-this-server", None),
            (
                "ws://192.0.2.1/a --i-own-this-server -s 9999",
                Some("at most 10000 connections"),
            ),
            (
                "ws://192.0.2.1/a --i-own-this-server -d 5m",
                Some("at most 300 s"),
            ),
            (
                "ws://192.0.2.1/a --i-own-this-server -r 10001",
                Some("at most a rate of 10000"),
            ),
            (
                "ws://192.0.2.1/a --i-own-this-server -p 17",
                Some("at most 256 messages in flight"),
            ),
            (
                "127.0.0.1:80 [::1]:80 ws://127.8.9.1/ws ws://[::ffff:127.0.0.1]",
                None,
            ),
        ] {
            match (plan(line).await, complaint) {
                (Ok(plan), None) => {
                    assert_eq!(plan.spacing.is_zero(), !line.contains("own"), "{line}")
                }
                (Err(told), Some(complaint)) => assert!(told.contains(complaint), "{line}: {told}"),
                (result, _) => panic!("{line}: {result:?}"),
            }
        }
    }

    #[tokio::test]
    async fn loads_that_cannot_be_run_are_refused_with_every_reason() {
        let told = plan(
            "wss://127.0.0.1 127.0.0.1:1/a 127.0.0.1:1/b?echo=false --size 39 --window 0 -d 2h -s 0 -p 0",
        );
        let told = told.await.expect_err("nothing of this works");
        for complaint in [
            "ws:// only",
            "echo=false",
            "--size 39",
            "--window 0",
            "at most 3600 s",
            "are 0",
        ] {
            assert!(told.contains(complaint), "{complaint}: {told}");
        }
        for (line, complaint) in [
            ("127.0.0.1:1/a 127.0.0.1:1/b", "not of '/a' and '/b'"),
            ("127.0.0.1:1 --size 2MiB", "to 1048576"),
            ("127.0.0.1:1 --rate NaN", "--rate NaN"),
            ("127.0.0.1:1 --rate 1e-300", "from 0.001"),
            ("127.0.0.1:1 --pid 4294967295", "--pid: process 4294967295"),
            ("127.0.0.1:1 -s 100000", "more than 100000 connections"),
        ] {
            let told = plan(line).await.expect_err(line);
            assert!(told.contains(complaint), "{line}: {told}");
        }
    }
}
