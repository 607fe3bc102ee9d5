//! The kernel's account of what it sends on a connection, `TCP_INFO`. Each look is a system call,
//! made only before a client is taken for dead.

use std::time::Duration;

use mio::net::TcpStream;

/// The state of the bytes that a connection sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transmission {
    /// Some were sent and are not acknowledged.
    pub(super) unacknowledged: bool,
    /// Some wait to be sent.
    pub(super) unsent: bool,
    /// Time since bytes were sent last.
    pub(super) since_sent: Duration,
    /// Time since the last acknowledgement, which may be of old bytes.
    pub(super) since_acknowledged: Duration,
}

/// The state now; `None` where the kernel does not report it.
#[cfg(target_os = "linux")]
pub(super) fn look(stream: &TcpStream) -> Option<Transmission> {
    let info = nix::sys::socket::getsockopt(stream, linux::TcpInfo).ok()?;
    let milliseconds = |field: usize| Duration::from_millis(info[field].into());
    Some(Transmission {
        unacknowledged: info[linux::UNACKED] > 0,
        unsent: info[linux::NOTSENT_BYTES] > 0,
        since_sent: milliseconds(linux::LAST_DATA_SENT),
        since_acknowledged: milliseconds(linux::LAST_ACK_RECV),
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn look(_stream: &TcpStream) -> Option<Transmission> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use nix::{getsockopt_impl, libc, sockopt_impl};

    /// Indices of fields of `struct tcp_info`, in words of 32 bits. The kernel adds fields only at
    /// the end, and returns as many as are asked for. It has all of these since Linux 4.6.
    pub(super) const UNACKED: usize = 6;
    pub(super) const LAST_DATA_SENT: usize = 11;
    pub(super) const LAST_ACK_RECV: usize = 14;
    pub(super) const NOTSENT_BYTES: usize = 36;

    sockopt_impl!(
        /// The beginning of `struct tcp_info`.
        TcpInfo,
        GetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        [u32; 37]
    );
}
