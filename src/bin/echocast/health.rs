//! `echocast health`: the container's probe, so that the image needs neither a shell nor curl. What "ready" means is
//! decided by the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

/// The probe's whole time; longer than the node ever needs, shorter than what runs probes allows.
const DEADLINE: Duration = Duration::from_secs(3);
/// The body is a few lines about the broker.
const LARGEST_BODY: usize = 64 * 1024;

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
            println!("{}", body.trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("not ready: {error:#}");
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
    let url = Url::parse(&url).with_context(|| format!("'{url}' is not a URL"))?;
    ensure!(url.scheme() == "http", "'{url}': the ops port speaks plain http only");
    let host = url.host_str().context("the URL has no host")?;
    let authority = format!("{host}:{}", url.port_or_known_default().context("the URL has no port")?);

    let stream = TcpStream::connect(&authority).await.with_context(|| format!("cannot connect to {authority}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = format!("{}/readyz", url.path().trim_end_matches('/'));
    let request = Request::get(&path).header(HOST, &authority).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(|| format!("{authority} does not answer"))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST_BODY).collect().await;
    connection.abort();
    let body = body.map_err(|error| anyhow::anyhow!("cannot read the answer: {error}"))?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
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
