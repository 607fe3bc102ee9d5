//! `echocast health`: the container's probe, so that the image needs neither a shell nor curl. What "ready" means is
//! decided by the node.

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

/// Asks the local node's /readyz: exit 0 when it is ready, else 1 with the reason.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Base URL of the ops port [default: this machine, at the port of ECHOCAST_OPS_LISTEN or else 8081]
    #[arg(long, value_name = "URL", env = "ECHOCAST_OPS_URL")]
    ops_url: Option<String>,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the probe's answer")]
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
    let url = match args.ops_url {
        Some(url) => url,
        None => match std::env::var("ECHOCAST_OPS_LISTEN") {
            Ok(listen) => local_url(&listen)?,
            Err(_) => "http://127.0.0.1:8081".to_owned(),
        },
    };
    let url = ops::parse(&url)?;
    let authority = ops::authority(&url);
    let (status, body) = ops::get(&url, &authority, "/readyz").await.with_context(|| authority.clone())?;
    ensure!(status == StatusCode::OK, "{status}: {}", body.trim_end());
    Ok(body)
}

/// Where a node listening at `listen` is reached from its own machine.
fn local_url(listen: &str) -> anyhow::Result<String> {
    let Ok(mut address) = listen.parse::<SocketAddr>() else {
        ensure!(listen.contains(':'), "ECHOCAST_OPS_LISTEN '{listen}' has no port");
        return Ok(format!("http://{listen}"));
    };
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(format!("http://{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_listening_everywhere_is_asked_on_the_loopback_of_its_family() {
        for (listen, url) in [
            ("0.0.0.0:8081", "http://127.0.0.1:8081"),
            ("[::]:9000", "http://[::1]:9000"),
            ("10.0.0.5:81", "http://10.0.0.5:81"),
            ("localhost:8081", "http://localhost:8081"),
        ] {
            assert_eq!(local_url(listen).expect(listen), url);
        }
        assert!(local_url("8081").is_err());
    }
}
