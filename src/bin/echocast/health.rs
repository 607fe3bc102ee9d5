//! `echocast health`: the health check of a container, so that the image needs neither a shell nor
//! curl. Whether it is ready is decided by the node.

use std::env;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hyper::StatusCode;
use tokio::time::timeout;

use crate::ops;
use crate::show::line_for;

/// Time of the whole check: longer than a node ever needs, shorter than container runtimes wait.
const DEADLINE: Duration = Duration::from_secs(3);

/// The ops port of a node without settings.
const DEFAULT_LISTEN: &str = "[::]:8081";

/// Asks the local node's /readyz. Exit code: 0 if it is ready; 1 if not, with the reason
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Base URL of the ops port [default: this machine, at the port of ECHOCAST_OPS_LISTEN or else
    /// 8081]
    #[arg(long, value_name = "URL", env = "ECHOCAST_OPS_URL")]
    ops_url: Option<String>,
}

/// Where a node is reached.
#[derive(Debug)]
struct Place {
    url: String,
    /// Tried in this order. Empty if the host of the URL is to be looked up.
    addresses: Vec<SocketAddr>,
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the answer of the check"
)]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let answer = timeout(DEADLINE, check(args)).await;
    match answer.unwrap_or_else(|_| bail!("no answer within {} s", DEADLINE.as_secs())) {
        // The body names the state of the broker, for the logs of the container runtime.
        Ok(body) => {
            println!("{}", line_for(&io::stdout(), body.trim_end()));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let why = format!("not ready: {error:#}");
            eprintln!("{}", line_for(&io::stderr(), &why));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The body of a ready node.
async fn check(args: Args) -> anyhow::Result<String> {
    let place = place(args.ops_url)?;
    let url = ops::parse(&place.url)?;
    // Quoted in an error, because it may come from an environment variable.
    let authority = ops::authority(&url);
    // A node without settings listens on both families, but this machine may have only one.
    let answer = match &place.addresses[..] {
        [] => ops::get(&url, &authority, "/readyz").await,
        addresses => ops::get(&url, addresses, "/readyz").await,
    };
    let (status, body) = answer.context(authority)?;
    ensure!(status == StatusCode::OK, "{status}: {}", body.trim_end());
    Ok(body)
}

/// Where to ask: as the flag says, or where the settings of the local node say.
fn place(ops_url: Option<String>) -> anyhow::Result<Place> {
    if let Some(url) = ops_url {
        return Ok(Place {
            url,
            addresses: Vec::new(),
        });
    }
    let listen = env::var("ECHOCAST_OPS_LISTEN");
    local(listen.as_deref().unwrap_or(DEFAULT_LISTEN))
}

impl Place {
    /// On this machine, for a node that listens at this address.
    fn at(listen: SocketAddr) -> Self {
        let hosts = local_hosts(listen.ip()).into_iter();
        let addresses: Vec<SocketAddr> = hosts.map(|host| (host, listen.port()).into()).collect();
        Self {
            url: format!("http://{}", addresses[0]),
            addresses,
        }
    }

    /// By a name, which is looked up.
    fn named(listen: &str) -> anyhow::Result<Self> {
        ensure!(
            listen.contains(':'),
            "ECHOCAST_OPS_LISTEN '{listen}' has no port"
        );
        Ok(Self {
            url: format!("http://{listen}"),
            addresses: Vec::new(),
        })
    }
}

/// Where a node that listens at `listen` is reached from its own machine.
fn local(listen: &str) -> anyhow::Result<Place> {
    match listen.parse() {
        Ok(address) => Ok(Place::at(address)),
        Err(_) => Place::named(listen),
    }
}

/// At least one.
fn local_hosts(listen: IpAddr) -> Vec<IpAddr> {
    match listen.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![Ipv4Addr::LOCALHOST.into()],
        // It listens on both families, but the machine may have only one of them.
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        ip => vec![ip],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_asked_where_it_listens_on_its_own_machine() {
        for (listen, url, addresses) in [
            (
                DEFAULT_LISTEN,
                "http://127.0.0.1:8081",
                &["127.0.0.1:8081", "[::1]:8081"][..],
            ),
            (
                "[::]:9000",
                "http://127.0.0.1:9000",
                &["127.0.0.1:9000", "[::1]:9000"],
            ),
            ("0.0.0.0:8081", "http://127.0.0.1:8081", &["127.0.0.1:8081"]),
            ("[::1]:8081", "http://[::1]:8081", &["[::1]:8081"]),
            (
                "[2001:db8::5]:81",
                "http://[2001:db8::5]:81",
                &["[2001:db8::5]:81"],
            ),
            ("10.0.0.5:81", "http://10.0.0.5:81", &["10.0.0.5:81"]),
            (
                "[::ffff:0.0.0.0]:81",
                "http://127.0.0.1:81",
                &["127.0.0.1:81"],
            ),
            ("localhost:8081", "http://localhost:8081", &[]),
        ] {
            let place = local(listen).expect(listen);
            let tried: Vec<String> = place.addresses.iter().map(SocketAddr::to_string).collect();
            assert_eq!(
                (place.url.as_str(), tried),
                (url, addresses.iter().map(|it| (*it).to_owned()).collect()),
                "{listen}"
            );
        }
        assert!(local("8081").is_err());
    }
}
