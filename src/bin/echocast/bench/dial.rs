//! Opens a load's connections: addresses, limits of this process, the handshake, and the words of a
//! server that refuses. What is open is handed over as a plain socket, because a loop without tasks
//! takes it from there.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite;
use tungstenite::handshake::client::{Response, generate_request};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::{
    StatusCode,
    header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS},
};

use super::entrance::enter;
use super::frames::Shape;
use super::plan::{Endpoint, Plan};
use super::progress::Progress;
use crate::connect::DialError;

/// Attempts under way at the same time: few enough for any server's backlog.
const AT_ONCE: usize = 64;
/// TCP and the handshake together.
const DEADLINE: Duration = Duration::from_secs(10);
/// What a refusal has left to say comes at once, or not.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// The longest answer to a handshake that is read, in bytes.
pub(super) const LONGEST_ANSWER: usize = 16 * 1024;
/// Open files besides the connections.
const OTHER_FILES: u64 = 64;

/// A connection after its handshake.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: TcpStream,
    /// What came with the handshake's answer.
    pub(super) early: Vec<u8>,
}

/// All connections of a load, in the order of [`Plan::spread`].
pub(super) struct Crowd {
    pub(super) connections: Vec<Opened>,
    /// How long it took to open them.
    pub(super) took: Duration,
    /// The server's memory before there were any, in bytes.
    pub(super) memory_before: u64,
}

pub(super) async fn open_all(plan: &Plan, progress: &Progress) -> anyhow::Result<Crowd> {
    let endpoints: Vec<&Endpoint> = plan.spread().collect();
    allow_files(endpoints.len() as u64)?;
    let memory_before = plan.processes.memory()?;
    progress.connecting(endpoints.len());
    let began = Instant::now();
    let attempts = stream::iter(endpoints.into_iter().zip(0..)).map(async |(endpoint, index)| {
        sleep_until(began + plan.spacing * index).await;
        let opened = timeout(DEADLINE, open(endpoint, plan.message)).await;
        let opened = opened.unwrap_or_else(|_| bail!("no answer within {} s", DEADLINE.as_secs()));
        progress.connected();
        opened.with_context(|| format!("connection {} to {}", index + 1, endpoint.target))
    });
    let connections = attempts.buffered(AT_ONCE).try_collect().await?;
    Ok(Crowd {
        connections,
        took: began.elapsed(),
        memory_before,
    })
}

/// Every connection is an open file, and what shells allow by default is few.
fn allow_files(connections: u64) -> anyhow::Result<()> {
    let needed = connections + OTHER_FILES;
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot ask how many files may be open")?;
    if needed <= soft {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).with_context(|| {
        format!("{connections} connections need {needed} open files, and {hard} are allowed (see ulimit -n)")
    })
}

async fn open(endpoint: &Endpoint, message: Shape) -> anyhow::Result<Opened> {
    let mut stream = tokio::net::TcpStream::connect(&endpoint.addresses[..])
        .await
        .context("cannot connect")?;
    stream.set_nodelay(true)?;
    let (request, key) = generate_request(endpoint.target.request(false))?;
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    let (head, response) = loop {
        if answer.len() >= LONGEST_ANSWER || stream.read_buf(&mut answer).await? == 0 {
            bail!("the answer to the handshake is not one of a WebSocket server");
        }
        if let Some(parsed) = Response::try_parse(&answer)? {
            break parsed;
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let last = Instant::now() + LAST_WORDS;
        while answer.len() < LONGEST_ANSWER
            && matches!(
                timeout_at(last, stream.read_buf(&mut answer)).await,
                Ok(Ok(1..))
            )
        {}
        let refusal =
            tungstenite::Error::Http(Box::new(response.map(|_| Some(answer.split_off(head)))));
        return Err(anyhow!(DialError::from(refusal).to_string()));
    }
    if response
        .headers()
        .get(SEC_WEBSOCKET_ACCEPT)
        .is_none_or(|accept| *accept != derive_accept_key(key.as_bytes()))
    {
        bail!("the server's answer is not to this handshake");
    }
    let extensions = response
        .headers()
        .get(SEC_WEBSOCKET_EXTENSIONS)
        .map_or(&b""[..], |value| value.as_bytes());
    let extensions = String::from_utf8_lossy(extensions);
    if message.deflate
        && !(extensions.contains("permessage-deflate")
            && extensions.contains("server_no_context_takeover"))
    {
        bail!("the server does not deflate messages each by itself");
    }
    let mut early = answer.split_off(head);
    enter(message.dialect, &mut stream, &mut early).await?;
    Ok(Opened {
        stream: stream.into_std()?,
        early,
    })
}
