//! `echocast health`: the container's probe, so that the image needs neither a shell nor curl. What
//! "ready" means is decided by the node.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hyper::StatusCode;
use tokio::time::timeout;

use crate::ops;
use crate::show::line_for;

/// The probe's whole time; longer than the node ever needs, shorter than what runs probes allows.
const DEADLINE: Duration = Duration::from_secs(3);

/// Where a node listens for operators if nothing else is said.
const DEFAULT_LISTEN: &str = "[::]:8081";

/// Asks the local node's /readyz: exit 0 when it is ready, else 1 with the reason.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Base URL of the ops port [default: this machine, at the port of ECHOCAST_OPS_LISTEN or else
    /// 8081]
    #[arg(long, value_name = "URL", env = "ECHOCAST_OPS_URL")]
    ops_url: Option<String>,
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the probe's answer"
)]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let answer = timeout(DEADLINE, probe(args)).await;
    match answer.unwrap_or_else(|_| bail!("no answer within {} s", DEADLINE.as_secs())) {
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
async fn probe(args: Args) -> anyhow::Result<String> {
    let listen = std::env::var("ECHOCAST_OPS_LISTEN");
    let (url, addresses) = match args.ops_url {
        Some(url) => (url, Vec::new()),
        None => local(listen.as_deref().unwrap_or(DEFAULT_LISTEN))?,
    };
    let url = ops::parse(&url)?;
    let authority = ops::authority(&url);
    let answer = match &addresses[..] {
        [] => ops::get(&url, &authority, "/readyz").await,
        addresses => ops::get(&url, addresses, "/readyz").await,
    };
    let (status, body) = answer.with_context(|| authority.clone())?;
    ensure!(status == StatusCode::OK, "{status}: {}", body.trim_end());
    Ok(body)
}

/// Where a node listening at `listen` is reached from its own machine: its URL, and the addresses
/// to try one after the other, or none where that is a name.
fn local(listen: &str) -> anyhow::Result<(String, Vec<SocketAddr>)> {
    let Ok(address) = listen.parse::<SocketAddr>() else {
        ensure!(
            listen.contains(':'),
            "ECHOCAST_OPS_LISTEN '{listen}' has no port"
        );
        return Ok((format!("http://{listen}"), Vec::new()));
    };
    let hosts: Vec<IpAddr> = match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![Ipv4Addr::LOCALHOST.into()],
        // Every address of both families, of which the machine may have one only.
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        ip => vec![ip],
    };
    let addresses: Vec<SocketAddr> = hosts
        .into_iter()
        .map(|host| (host, address.port()).into())
        .collect();
    Ok((format!("http://{}", addresses[0]), addresses))
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
            let (found, tried) = local(listen).expect(listen);
            let tried: Vec<String> = tried.iter().map(SocketAddr::to_string).collect();
            assert_eq!(
                (found.as_str(), tried),
                (url, addresses.iter().map(|it| (*it).to_owned()).collect()),
                "{listen}"
            );
        }
        assert!(local("8081").is_err());
    }
}
