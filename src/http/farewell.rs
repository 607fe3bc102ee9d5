//! The end of a connection whose client may still be sending, such as a body that was refused. A
//! socket that is closed with something unread in it is reset, and a reset takes from the client
//! what it has not read yet: its answer. So the node reads and forgets what comes until the client
//! hangs up, within bounds. It has said that nothing follows.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Bytes that are read at most.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// How long it takes at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same once the node stops.
const STOPPING_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

/// Waits until the socket can be closed. `expects_more`: something may come even if nothing is
/// there yet.
pub(super) async fn say(stream: TcpStream, expects_more: bool, stop: &CancellationToken) {
    let stopping = async {
        stop.cancelled().await;
        sleep(STOPPING_PATIENCE).await;
    };
    tokio::select! {
        () = forget(&stream, expects_more) => {}
        () = sleep(PATIENCE) => {}
        () = stopping => {}
    }
}

/// Reads until the client hangs up or has sent too much, and nothing if nothing is there and
/// nothing is expected.
async fn forget(stream: &TcpStream, mut expects_more: bool) {
    let mut bytes = 0;
    while bytes < MOST_BYTES {
        match read(stream) {
            Ok(0) => return,
            Ok(read) => {
                bytes += read;
                expects_more = true;
                // A client that sends all the time leaves others their turns.
                tokio::task::yield_now().await;
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            Err(_) if !expects_more => return,
            Err(_) if stream.readable().await.is_err() => return,
            Err(_) => {}
        }
    }
}

/// Not in the loop: the buffer would be a part of the task for as long as the client is silent.
fn read(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read(&mut [0; READ_BYTES])
}
