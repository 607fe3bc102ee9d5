//! The ports of a node, and the proxies in front of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::given::{Complaining, Given, Parsed, address, list};

/// Used after a complaint only.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[allow(
    rustdoc::broken_intra_doc_links,
    reason = "`--help` shows these sentences as they are, brackets too"
)]
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Network")]
pub(super) struct NetworkSettings {
    /// Address and port for clients; [::] is every address, of IPv4 and IPv6
    #[arg(
        long,
        env = "ECHOCAST_LISTEN",
        default_value = "[::]:8080",
        value_name = "ADDR",
        value_parser = address
    )]
    listen: Given<SocketAddr>,
    /// Address and port for /metrics, /livez and /readyz; keep it from the public
    #[arg(
        long,
        env = "ECHOCAST_OPS_LISTEN",
        default_value = "[::]:8081",
        value_name = "ADDR",
        value_parser = address
    )]
    ops_listen: Given<SocketAddr>,
    /// Networks of proxies whose X-Forwarded-For is believed, or where they send none, Forwarded;
    /// separated by commas
    #[arg(
        long,
        env = "ECHOCAST_TRUSTED_PROXY",
        default_value = "",
        value_name = "CIDR,...",
        hide_default_value = true,
        value_parser = networks
    )]
    trusted_proxy: Given<Vec<IpNet>>,
}

/// The ports of a node, and the proxies in front of it.
#[derive(Clone, Debug)]
pub struct Network {
    /// Address for clients.
    pub listen: SocketAddr,
    /// Address for operators.
    pub ops_listen: SocketAddr,
    /// Networks of proxies whose `X-Forwarded-For` or `Forwarded` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl NetworkSettings {
    pub(super) fn check(&self, complaining: &mut Complaining) -> Network {
        let network = Network {
            listen: complaining.value_or("--listen", &self.listen, NO_ADDRESS),
            ops_listen: complaining.value_or("--ops-listen", &self.ops_listen, NO_ADDRESS),
            trusted_proxies: complaining.value("--trusted-proxy", &self.trusted_proxy),
        };
        complaining.unless(
            !overlap(network.listen, network.ops_listen),
            "--ops-listen",
            "the port of --listen, and one address is also the other's",
        );
        network
    }
}

fn networks(text: &str) -> Parsed<Vec<IpNet>> {
    Ok(list(text, |part| {
        // A single address is a network of one.
        part.parse()
            .or_else(|_| part.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| "not a network like 10.0.0.0/8")
    }))
}

/// Whether both sockets would accept the same connections.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let is_same_port = one.port() == other.port() && one.port() != 0;
    is_same_port && (covers(ip, other_ip) || covers(other_ip, ip))
}

/// Whether a socket on `all` accepts connections to `ip`. The unspecified address of IPv6 is every
/// address of both families.
fn covers(all: IpAddr, ip: IpAddr) -> bool {
    all == ip || all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4())
}
