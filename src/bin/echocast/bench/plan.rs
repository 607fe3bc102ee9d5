//! Turns the command line into a load that may be run, or into all complaints at once.
//!
//! Addresses are looked up and processes are checked; nothing else is touched. Servers are found by
//! `endpoint`, and `limits` decides how much load is allowed.

mod endpoint;
mod limits;

use std::time::Duration;

use super::args::Args;
use super::dialect::Dialect;
use super::frames::Shape;
use super::processes::Processes;
pub(super) use endpoint::Endpoint;

/// A load, checked.
#[derive(Debug)]
pub(super) struct Plan {
    /// At least one.
    pub(super) endpoints: Vec<Endpoint>,
    /// Connections that only subscribe.
    pub(super) subscribers: usize,
    /// Connections that publish and subscribe.
    pub(super) publishers: usize,
    /// Connections that never read.
    pub(super) silent: usize,
    pub(super) pace: Pace,
    /// Its messages are at least [`STAMP_LEN`](super::stamp::STAMP_LEN) bytes long, without their
    /// dialect's prefix and suffix.
    pub(super) message: Shape,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    /// Processes of the server, if they are on this machine.
    pub(super) processes: Processes,
    /// The shortest time between two connection attempts.
    pub(super) spacing: Duration,
}

/// When the next message is published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// When fewer than this many messages of the publisher are in flight.
    Window(u32),
    /// This many a second, of all publishers together.
    Rate(f64),
}

impl Plan {
    pub(super) async fn new(args: Args) -> Result<Self, Vec<String>> {
        let mut complaints = Vec::new();
        let endpoints = find_endpoints(&args, &mut complaints).await;
        // Subscribers would miss the messages of another channel, which would count as lost.
        complaints.extend(endpoint::not_one_channel(&endpoints));
        // A load is an attack on everyone who has not agreed to it.
        let outside = endpoint::outside(&endpoints);
        if let Some(server) = &outside {
            complaints.extend(limits::outside(server, &args));
        }
        complaints.extend(limits::anywhere(&args));
        // Checked now, because a wrong process would be noticed only after the run.
        let processes = Processes::new(args.pid.clone())
            .map_err(|error| complaints.push(format!("--pid: {error:#}")));
        let (Ok(processes), true) = (processes, complaints.is_empty()) else {
            return Err(complaints);
        };
        Ok(Self {
            endpoints,
            subscribers: args.subscribers,
            publishers: args.publishers,
            silent: args.silent,
            pace: pace(&args),
            message: shape(&args),
            warmup: args.warmup,
            duration: args.duration,
            processes,
            spacing: limits::spacing(outside.is_some()),
        })
    }

    /// Number of connections that subscribe and check.
    pub(super) fn listeners(&self) -> usize {
        self.publishers + self.subscribers
    }

    /// The server of each connection: the publishers first, then the subscribers, then the silent
    /// ones. Each kind is spread evenly.
    pub(super) fn spread(&self) -> impl Iterator<Item = &Endpoint> {
        [self.publishers, self.subscribers, self.silent]
            .into_iter()
            .flat_map(|count| self.endpoints.iter().cycle().take(count))
    }
}

impl Pace {
    /// `None` if a rate was asked for.
    pub(super) fn window(self) -> Option<u32> {
        match self {
            Self::Window(window) => Some(window),
            Self::Rate(_) => None,
        }
    }

    /// Messages a second, if they were asked for.
    pub(super) fn rate(self) -> Option<f64> {
        match self {
            Self::Window(_) => None,
            Self::Rate(rate) => Some(rate),
        }
    }
}

async fn find_endpoints(args: &Args, complaints: &mut Vec<String>) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for text in &args.urls {
        match Endpoint::find(text, args.deflate).await {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(complaint) => complaints.push(complaint),
        }
    }
    endpoints
}

fn pace(args: &Args) -> Pace {
    if args.rate > 0.0 {
        Pace::Rate(args.rate)
    } else {
        Pace::Window(args.window)
    }
}

fn shape(args: &Args) -> Shape {
    let dialect = dialect(args);
    Shape {
        length: args.size.as_u64() as usize + dialect.overhead(),
        deflate: args.deflate,
        dialect,
    }
}

fn dialect(args: &Args) -> Dialect {
    if args.socket_io {
        Dialect::SocketIo
    } else {
        Dialect::Plain
    }
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
            (
                "127.0.0.1:1 --rate -1",
                "--rate -1: 0, or from 0.001 to 10000000",
            ),
            ("127.0.0.1:1 --pid 4294967295", "--pid: process 4294967295"),
            ("127.0.0.1:1 -s 100000", "more than 100000 connections"),
        ] {
            let told = plan(line).await.expect_err(line);
            assert!(told.contains(complaint), "{line}: {told}");
        }
    }
}
