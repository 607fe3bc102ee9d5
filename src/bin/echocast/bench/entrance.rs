//! The exchange before a connection's first message: none, or the handshake of Socket.IO.

use anyhow::{bail, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::dialect::Dialect;
use super::frames::{Next, Shape, TEXT, next, put_frame};

/// Does what this dialect demands; `early` is what the server has sent and nobody has read.
pub(super) async fn enter(
    dialect: Dialect,
    stream: &mut TcpStream,
    early: &mut Vec<u8>,
) -> anyhow::Result<()> {
    if dialect == Dialect::SocketIo {
        expect(b"0{", stream, early).await?;
        let mut join = BytesMut::new();
        put_frame(TEXT, b"40", &mut join);
        stream.write_all(&join).await?;
        expect(b"40{", stream, early).await?;
    }
    Ok(())
}

/// Takes the next packet, which begins like this.
async fn expect(start: &[u8], stream: &mut TcpStream, early: &mut Vec<u8>) -> anyhow::Result<()> {
    let none_of_ours = Shape {
        length: 0,
        deflate: false,
        dialect: Dialect::Plain,
    };
    loop {
        match next(early, none_of_ours) {
            Ok((Next::Foreign(length), header)) if early.len() >= header + length => {
                let packet: Vec<u8> = early.drain(..header + length).skip(header).collect();
                ensure!(
                    packet.starts_with(start),
                    "the server does not speak Socket.IO's protocol 5"
                );
                return Ok(());
            }
            Ok((Next::Foreign(_) | Next::Incomplete, _)) => {}
            _ => bail!("the server does not speak Socket.IO"),
        }
        ensure!(
            stream.read_buf(early).await? > 0,
            "the server does not speak Socket.IO"
        );
    }
}
