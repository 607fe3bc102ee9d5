//! Listening sockets: their options, and the families of addresses that they accept.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
#[cfg(target_os = "linux")]
use std::time::Duration;

use anyhow::Context;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

#[cfg(target_os = "linux")]
use super::stream::UNSENT_BYTES;

/// The kernel resets a connection whose client acknowledges nothing for this long, or reads nothing
/// although something waits for it. Connections without pings have no other sign of a dead client.
#[cfg(target_os = "linux")]
const UNREAD_PATIENCE: Duration = Duration::from_secs(60);

/// Connections waiting to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listener. Its connections inherit its options, which saves system calls for each. `[::]` is
/// every address of both families, or of IPv4 on a machine without IPv6.
///
/// # Errors
/// If the address cannot be listened on.
pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    bind_with(address, |domain| {
        Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
    })
}

fn bind_with(
    address: SocketAddr,
    open: impl Fn(Domain) -> io::Result<Socket>,
) -> anyhow::Result<TcpListener> {
    let listening = match listen(address, &open) {
        Err(error) if is_everywhere(address) && lacks_family(&error) => {
            let instead = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::warn!("no IPv6 here ({error}): listening on {instead} instead of {address}");
            listen(instead, &open)
        }
        listening => listening,
    };
    listening.with_context(|| format!("cannot listen on {address}"))
}

fn listen(
    address: SocketAddr,
    open: impl Fn(Domain) -> io::Result<Socket>,
) -> io::Result<TcpListener> {
    let socket = open(Domain::for_address(address))?;
    if is_everywhere(address) {
        // The system's default is a setting of its own (`net.ipv6.bindv6only`).
        socket.set_only_v6(false)?;
    }
    // A node that restarts must not wait for old connections of its port to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Messages are written whole, so waiting for more would only delay them.
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(UNREAD_PATIENCE))?;
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn is_everywhere(address: SocketAddr) -> bool {
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Whether an error means that the kernel, or the sandbox of this process, has no such addresses.
fn lacks_family(error: &io::Error) -> bool {
    let errors = [
        Errno::AFNOSUPPORT,
        Errno::PROTONOSUPPORT,
        Errno::ADDRNOTAVAIL,
    ];
    errors
        .iter()
        .any(|lacking| error.raw_os_error() == Some(lacking.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// A machine without IPv6.
    fn open_v4(domain: Domain) -> io::Result<Socket> {
        match domain {
            Domain::IPV4 => Socket::new(domain, Type::STREAM, Some(Protocol::TCP)),
            _ => Err(Errno::AFNOSUPPORT.into()),
        }
    }

    #[tokio::test]
    async fn without_ipv6_both_families_are_ipv4_and_nothing_else_changes() {
        let listener = bind_with(address("[::]:0"), open_v4).expect("IPv4 is there");
        assert_eq!(
            listener.local_addr().expect("an address").ip(),
            Ipv4Addr::UNSPECIFIED
        );
        let error = bind_with(address("[::1]:0"), open_v4)
            .expect_err("one that was asked for is not replaced");
        assert!(
            error.to_string().contains("cannot listen on [::1]:0"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_not_looked_for_in_another_family() {
        let taken = bind(address("[::]:0"))
            .expect("a free port")
            .local_addr()
            .expect("an address");
        let first = bind(taken).expect("it is free again");
        assert_eq!(first.local_addr().expect("an address"), taken);
        for other in [
            taken,
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, taken.port())),
        ] {
            let error = bind(other).expect_err("it is taken");
            assert!(
                error
                    .to_string()
                    .contains(&format!("cannot listen on {other}")),
                "{error}"
            );
        }
    }
}
