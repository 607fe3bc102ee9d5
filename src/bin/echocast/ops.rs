//! One request to a node's ops port, as `health` and `top` make them. How long it may take is
//! theirs to say.

use anyhow::{Context, anyhow, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, ToSocketAddrs};
use url::Url;

/// All metrics of a node are a tenth of it.
const LARGEST_BODY: usize = 1024 * 1024;

/// A base URL of an ops port: only what can be asked for.
pub(crate) fn parse(url: &str) -> anyhow::Result<Url> {
    let parsed = Url::parse(url).with_context(|| format!("'{url}' is not a URL"))?;
    ensure!(
        parsed.scheme() == "http",
        "'{url}': the ops port speaks plain http only"
    );
    ensure!(parsed.has_host(), "'{url}' has no host");
    Ok(parsed)
}

/// Host and port, as one dials them.
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
    let path = format!("{}{path}", url.path().trim_end_matches('/'));
    let request = Request::get(&path)
        .header(HOST, authority(url))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("no answer")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST_BODY)
        .collect()
        .await;
    connection.abort();
    let body = body
        .map_err(|error| anyhow!("cannot read the answer: {error}"))?
        .to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
