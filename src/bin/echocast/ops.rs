//! One request to the ops port of a node, for `health` and `top`. How long it may take is decided
//! by the caller.

use anyhow::{Context, anyhow, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, ToSocketAddrs};
use url::Url;

/// The longest body that is read, in bytes: ten times the metrics of a node.
const LONGEST_BODY: usize = 1024 * 1024;

/// The base URL of an ops port.
pub(crate) fn parse(url: &str) -> anyhow::Result<Url> {
    let parsed = Url::parse(url).with_context(|| format!("'{url}' is not a URL"))?;
    ensure!(
        parsed.scheme() == "http",
        "'{url}': the ops port speaks plain http only"
    );
    ensure!(parsed.has_host(), "'{url}' has no host");
    Ok(parsed)
}

/// Host and port to connect to.
pub(crate) fn authority(url: &Url) -> String {
    format!(
        "{}:{}",
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or(80)
    )
}

/// Status and text of a path below `url`, whose host is at `address`.
pub(crate) async fn get(
    url: &Url,
    address: impl ToSocketAddrs,
    path: &str,
) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(address)
        .await
        .context("cannot connect")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender
        .send_request(request(url, path)?)
        .await
        .context("no answer")?;
    let status = response.status();
    let body = read(response.into_body()).await;
    connection.abort();
    Ok((status, body?))
}

fn request(url: &Url, path: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
    let path = format!("{}{path}", url.path().trim_end_matches('/'));
    let request = Request::get(&path).header(HOST, authority(url));
    Ok(request.body(Empty::new())?)
}

async fn read(body: Incoming) -> anyhow::Result<String> {
    let body = Limited::new(body, LONGEST_BODY).collect().await;
    let body = body.map_err(|error| anyhow!("cannot read the answer: {error}"))?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
