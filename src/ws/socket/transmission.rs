//! The kernel's account of what it sends on a connection: `TCP_INFO`. A look is a system call, made
//! only for a client that is about to be taken for dead.

use std::time::Duration;

use mio::net::TcpStream;

/// How the bytes of a connection fare.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transmission {
    /// Some of what was sent is not acknowledged yet.
    pub(super) unacknowledged: bool,
    /// Some waits to be sent.
    pub(super) unsent: bool,
    /// Time since bytes were sent last.
    pub(super) since_sent: Duration,
    /// Time since an acknowledgement came, be it of old bytes.
    pub(super) since_acknowledged: Duration,
}

/// How they fare now; `None` where the kernel does not tell.
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

    /// Fields of `struct tcp_info` by their place in words. The kernel only ever adds to its end,
    /// and gives as much of it as is asked for; all of these it has had since Linux 4.6.
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
