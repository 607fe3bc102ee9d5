//! The end of a connection whose client may still be sending, such as a body that was rejected.
//! Closing a socket with unread bytes resets it, and a reset deletes the answer that the client has
//! not read yet. So the node has announced that nothing follows, and reads and drops what comes
//! until the client closes, within bounds.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Bytes that are read at most.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// How long it takes at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same once the node drains.
const DRAINING_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

/// Waits until the socket can be closed. `expects_more`: bytes may come even if none are there yet.
pub(super) async fn linger(stream: TcpStream, expects_more: bool, stop: &CancellationToken) {
    let draining = async {
        stop.cancelled().await;
        sleep(DRAINING_PATIENCE).await;
    };
    tokio::select! {
        () = discard(&stream, expects_more) => {}
        () = sleep(PATIENCE) => {}
        () = draining => {}
    }
}

/// Reads until the client closes or has sent too much. Reads nothing if nothing is there and
/// nothing is expected.
async fn discard(stream: &TcpStream, mut expects_more: bool) {
    let mut bytes = 0;
    while bytes < MOST_BYTES {
        match read(stream) {
            Ok(0) => return,
            Ok(read) => {
                bytes += read;
                expects_more = true;
                // A client that sends without pause must leave other tasks their turns.
                tokio::task::yield_now().await;
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            Err(_) if !expects_more => return,
            Err(_) if stream.readable().await.is_err() => return,
            Err(_) => {}
        }
    }
}

/// A function of its own, so that the buffer takes no memory while the client is silent.
fn read(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read(&mut [0; READ_BYTES])
}
