//! One request to the ops port of a node, for `health` and `top`. How long it may take is decided
//! by the caller.

use anyhow::{Context, anyhow, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
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
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Somebody has to read and write while we wait for the answer.
    let connection = tokio::spawn(connection);
    let answer = ask(sender, request(url, path)?).await;
    // One request is all, and a server may keep the connection open.
    connection.abort();
    answer
}

async fn ask(
    mut sender: SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> anyhow::Result<(StatusCode, String)> {
    let response = sender.send_request(request).await.context("no answer")?;
    let status = response.status();
    Ok((status, read(response.into_body()).await?))
}

fn request(url: &Url, path: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
    let path = format!("{}{path}", url.path().trim_end_matches('/'));
    let request = Request::get(&path).header(HOST, authority(url));
    Ok(request.body(Empty::new())?)
}

async fn read(body: Incoming) -> anyhow::Result<String> {
    let body = Limited::new(body, LONGEST_BODY).collect().await;
    // The error has no type of its own, so it is quoted.
    let body = body.map_err(|error| anyhow!("cannot read the answer: {error}"))?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
