//! Opens the connections of a load: limits of this process, TCP and the handshake.
//!
//! An open connection is handed over as a plain socket, because the load runs without tasks.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream as Stream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite;
use tungstenite::handshake::client::{Response, generate_request};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::StatusCode;
use tungstenite::http::header::{HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS};

use super::dialect::Dialect;
use super::frames::Shape;
use super::plan::{Endpoint, Plan};
use super::progress::Progress;
use super::socket_io;
use crate::connect::DialError;

/// Attempts at the same time: few enough for the backlog of any server.
const AT_ONCE: usize = 64;
/// TCP and the handshake together.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait for the rest of a rejection. It is sent at once, or never.
const REASON_WAIT: Duration = Duration::from_millis(200);
/// The longest answer to a handshake that is read, in bytes.
pub(super) const LONGEST_ANSWER: usize = 16 * 1024;
/// Open files besides the connections.
const OTHER_FILES: u64 = 64;

/// A connection after its handshake.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: TcpStream,
    /// Bytes that were read together with the answer to the handshake.
    pub(super) early: Vec<u8>,
}

/// All connections of a load, in the order of [`Plan::spread`].
pub(super) struct Dialed {
    pub(super) connections: Vec<Opened>,
    /// How long it took to open them.
    pub(super) took: Duration,
    /// Memory of the server before they were opened, in bytes.
    pub(super) memory_before: u64,
}

/// The answer to a handshake.
struct Answer {
    response: Response,
    /// Bytes that were read behind its head.
    rest: Vec<u8>,
}

pub(super) async fn open_all(plan: &Plan, progress: &Progress) -> anyhow::Result<Dialed> {
    let endpoints: Vec<&Endpoint> = plan.spread().collect();
    allow_files(endpoints.len() as u64)?;
    // Measured before the first connection, so that the difference is what they take.
    let memory_before = plan.processes.memory()?;
    progress.connecting(endpoints.len());

    let began = Instant::now();
    let attempts = stream::iter(endpoints.into_iter().zip(0..)).map(async |(endpoint, index)| {
        // Attempts on other machines are spaced, so that they do not look like an attack.
        sleep_until(began + plan.spacing * index).await;
        let opened = open_in_time(endpoint, plan.message).await;
        progress.connected();
        opened.with_context(|| format!("connection {} to {}", index + 1, endpoint.target))
    });
    Ok(Dialed {
        // In order, so that each kind of connection is spread evenly over the servers.
        connections: attempts.buffered(AT_ONCE).try_collect().await?,
        took: began.elapsed(),
        memory_before,
    })
}

/// Every connection is an open file, and by default shells allow only a few.
fn allow_files(connections: u64) -> anyhow::Result<()> {
    let needed = connections + OTHER_FILES;
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot ask how many files may be open")?;
    if needed <= soft {
        return Ok(());
    }
    // Beyond the hard limit only a privileged user succeeds.
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed))
        .with_context(|| too_many_files(connections, needed, hard))
}

fn too_many_files(connections: u64, needed: u64, allowed: u64) -> String {
    format!(
        "{connections} connections need {needed} open files, but only {allowed} are allowed (see \
         ulimit -n)"
    )
}

async fn open_in_time(endpoint: &Endpoint, message: Shape) -> anyhow::Result<Opened> {
    timeout(DEADLINE, open(endpoint, message))
        .await
        .unwrap_or_else(|_| bail!("no answer within {} s", DEADLINE.as_secs()))
}

async fn open(endpoint: &Endpoint, message: Shape) -> anyhow::Result<Opened> {
    let mut stream = connect(endpoint).await?;
    let (request, key) = generate_request(endpoint.target.request(false))?;
    stream.write_all(&request).await?;
    let mut answer = read_answer(&mut stream).await?;
    // A server that rejects says why in the body.
    if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(rejection(answer, &mut stream).await);
    }
    check_answer(&answer.response, &key, message)?;
    // Only Socket.IO has a handshake of its own behind that of WebSocket.
    if message.dialect == Dialect::SocketIo {
        socket_io::handshake(&mut stream, &mut answer.rest).await?;
    }
    Ok(Opened {
        stream: stream.into_std()?,
        early: answer.rest,
    })
}

async fn connect(endpoint: &Endpoint) -> anyhow::Result<Stream> {
    let stream = Stream::connect(&endpoint.addresses[..])
        .await
        .context("cannot connect")?;
    // Otherwise latency would include the kernel's wait for more to send.
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn read_answer(stream: &mut Stream) -> anyhow::Result<Answer> {
    let mut bytes = Vec::new();
    loop {
        ensure!(
            bytes.len() < LONGEST_ANSWER && stream.read_buf(&mut bytes).await? > 0,
            "the answer to the handshake is not one of a WebSocket server"
        );
        // An answer may arrive in several pieces.
        if let Some((head, response)) = Response::try_parse(&bytes)? {
            let rest = bytes.split_off(head);
            return Ok(Answer { response, rest });
        }
    }
}

/// Reads the body of a rejection, in which the server gives its reason.
async fn rejection(mut answer: Answer, stream: &mut Stream) -> anyhow::Error {
    // A reason that does not come in time is left out.
    timeout(REASON_WAIT, read_rest(stream, &mut answer.rest))
        .await
        .ok();
    let response = answer.response.map(|_| Some(answer.rest));
    let error = tungstenite::Error::Http(Box::new(response));
    anyhow!(DialError::from(error).to_string())
}

/// Reads until the end, or an error, or as much as is ever shown.
async fn read_rest(stream: &mut Stream, bytes: &mut Vec<u8>) {
    while bytes.len() < LONGEST_ANSWER {
        if !matches!(stream.read_buf(bytes).await, Ok(1..)) {
            return;
        }
    }
}

fn check_answer(response: &Response, key: &str, message: Shape) -> anyhow::Result<()> {
    // A proxy or cache that repeats an old answer is no WebSocket server.
    ensure!(
        header(response, SEC_WEBSOCKET_ACCEPT) == derive_accept_key(key.as_bytes()),
        "the server's answer is not to this handshake"
    );
    ensure!(
        !message.deflate || deflates_each_message(response),
        "the server does not deflate messages each by itself"
    );
    Ok(())
}

fn deflates_each_message(response: &Response) -> bool {
    let extensions = header(response, SEC_WEBSOCKET_EXTENSIONS);
    extensions.contains("permessage-deflate") && extensions.contains("server_no_context_takeover")
}

/// Empty if the header is missing.
fn header(response: &Response, name: HeaderName) -> String {
    let value = response.headers().get(name);
    let bytes = value.map_or(&b""[..], |value| value.as_bytes());
    String::from_utf8_lossy(bytes).into_owned()
}
