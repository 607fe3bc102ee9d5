//! The handshake of Socket.IO, which follows the one of WebSocket.

use anyhow::{bail, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::dialect::Dialect;
use super::frames::{Next, Shape, TEXT, next, put_frame};

/// First bytes of the packets of the handshake.
const OPEN: &[u8] = b"0{";
const CONNECT: &[u8] = b"40";
const CONNECTED: &[u8] = b"40{";

/// No message has this shape, so every packet is passed over as a foreign one, with its length.
const NO_MESSAGE: Shape = Shape {
    length: 0,
    deflate: false,
    dialect: Dialect::Plain,
};

/// Opens a session in the default namespace. `early` holds the bytes that were read from the server
/// and not used yet.
pub(super) async fn handshake(stream: &mut TcpStream, early: &mut Vec<u8>) -> anyhow::Result<()> {
    // The server begins, with its settings.
    expect(OPEN, stream, early).await?;
    // A client has to ask for the default namespace.
    let mut connect = BytesMut::new();
    put_frame(TEXT, CONNECT, &mut connect);
    stream.write_all(&connect).await?;
    expect(CONNECTED, stream, early).await
}

/// Reads the next packet, which must begin with `start`.
async fn expect(start: &[u8], stream: &mut TcpStream, early: &mut Vec<u8>) -> anyhow::Result<()> {
    loop {
        if let Some(packet) = take_packet(early)? {
            ensure!(
                packet.starts_with(start),
                "the server does not speak Socket.IO's protocol 5"
            );
            return Ok(());
        }
        ensure!(
            stream.read_buf(early).await? > 0,
            "the server does not speak Socket.IO"
        );
    }
}

/// `None` if it has not arrived as a whole.
fn take_packet(early: &mut Vec<u8>) -> anyhow::Result<Option<Vec<u8>>> {
    let (length, header) = match next(early, NO_MESSAGE) {
        Ok(Some((Next::Foreign(length), header))) => (length, header),
        Ok(None) => return Ok(None),
        _ => bail!("the server does not speak Socket.IO"),
    };
    // The header is there, but not yet the whole packet.
    if early.len() < header + length {
        return Ok(None);
    }
    let packet = early.drain(..header + length).skip(header);
    Ok(Some(packet.collect()))
}
