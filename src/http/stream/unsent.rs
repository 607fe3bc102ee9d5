//! How many bytes of a connection the kernel has accepted and not sent yet. Linux has no call for
//! it. But a socket with `TCP_NOTSENT_LOWAT` counts as writable only while fewer bytes than that
//! are unsent, so that looks with different limits find the number.

use std::io;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;
use tokio::net::TcpStream;

/// Bytes that the kernel may hold unsent on one connection before it takes no more. A pong or a
/// ping waits behind them, and behind the rest of the write that passed this limit: on 64 kbit/s
/// for 4 s, and for up to 8 s more.
///
/// Deliveries a second on one hot channel (millions of 64 bytes to 100 clients, thousands of 8 KiB
/// to 40; means of three runs that differ by up to 8 and 20 in 100): 4.2 and 514 with 128 KiB, 4.2
/// and 479 with 64 KiB, 4.1 and 531 with 32 KiB,
/// 4.0 and 466 with 16 KiB.
pub(in crate::http) const UNSENT_BYTES: u32 = 32 * 1024;

/// More than the kernel can hold unsent on one connection: `net.ipv4.tcp_wmem` ends at 4 MiB.
const MOST_UNSENT: u64 = 8 * 1024 * 1024;

/// The number is found to this many bytes.
const STEP: u64 = 4 * 1024;

/// Unsent bytes, rounded up to whole 4 KiB. Takes some twenty system calls.
pub(super) fn unsent(stream: &TcpStream) -> io::Result<u64> {
    let (mut low, mut high) = (0, MOST_UNSENT / STEP);
    while low < high {
        let middle = low.midpoint(high);
        if has_less_unsent(stream, middle * STEP + 1)? {
            high = middle
        } else {
            low = middle + 1
        }
    }
    reset_limit(stream)?;
    Ok(low * STEP)
}

/// Whether everything is sent. If not, the kernel wakes the stream's writer once it is: see
/// [`has_less_unsent`].
pub(super) fn is_all_sent(stream: &TcpStream) -> io::Result<bool> {
    has_less_unsent(stream, 1)
}

/// Lets the kernel accept bytes again as it does at first.
pub(super) fn reset_limit(stream: &TcpStream) -> io::Result<()> {
    set_limit(stream, UNSENT_BYTES)
}

/// Whether fewer bytes than this are unsent. The limit stays set, so that the socket becomes
/// writable when they are.
fn has_less_unsent(stream: &TcpStream, bytes: u64) -> io::Result<bool> {
    // It is writable while twice the unsent bytes are fewer than the limit.
    set_limit(stream, u32::try_from(bytes * 2 - 1).unwrap_or(u32::MAX))?;
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::ZERO)?;
    let [polled] = polled;
    // An error or a reset counts as well: nothing is left to wait for.
    Ok(polled.any().unwrap_or(true))
}

#[cfg(target_os = "linux")]
fn set_limit(stream: &TcpStream, bytes: u32) -> io::Result<()> {
    SockRef::from(stream).set_tcp_notsent_lowat(bytes)
}

#[cfg(not(target_os = "linux"))]
fn set_limit(_stream: &TcpStream, _bytes: u32) -> io::Result<()> {
    Ok(())
}
