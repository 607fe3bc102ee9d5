//! What `--redis-url` says: one server, the Sentinels that know which server it is, or some nodes of a Cluster. It owns
//! reading that; asking is [`super::topology`]'s business.

use anyhow::{Context, bail, ensure};
use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

/// Whom to ask where channels are.
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// Nobody: they are all here.
    Server(ConnectionInfo),
    /// Sentinels; `server` is how to speak to whom they name, wherever that is.
    Sentinel { sentinels: Vec<ConnectionInfo>, service: String, server: ConnectionInfo },
    /// Any of these.
    Cluster(Vec<ConnectionInfo>),
}

impl Address {
    /// # Errors
    /// If it cannot be used. What is said then names no password.
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let (scheme, rest) = url.split_once("://").context("not an address like redis://host:6379")?;
        let (tls, kind) = match scheme {
            "redis" | "rediss" => return Self::server(url),
            "redis+sentinel" => ("redis", "sentinel"),
            "rediss+sentinel" => ("rediss", "sentinel"),
            "redis+cluster" => ("redis", "cluster"),
            "rediss+cluster" => ("rediss", "cluster"),
            _ => bail!("unknown scheme {scheme}://"),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let hosts: Vec<&str> = hosts.split(',').collect();
        ensure!(hosts.iter().all(|host| !host.is_empty()), "no host");
        if kind == "cluster" {
            ensure!(path.is_empty(), "a cluster has only database 0, so there is no path");
            ensure!(query.is_empty(), "a cluster has no options");
            return Ok(Self::Cluster(all(hosts, |host| info(tls, user, host, ""))?));
        }
        let (service, database) = path.split_once('/').unwrap_or((path, ""));
        ensure!(!service.is_empty(), "the path names what the sentinels watch: redis+sentinel://host:26379/mymaster");
        check_database(database)?;
        let sentinel_user = sentinel_user(query)?;
        let sentinels = all(hosts, |host| {
            // An IPv6 address has colons, too, but ends with a bracket.
            let port = if host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']')) { "" } else { ":26379" };
            info(tls, &sentinel_user, &format!("{host}{port}"), "")
        })?;
        let service = percent_encoding::percent_decode_str(service).decode_utf8().context("the path")?.into_owned();
        Ok(Self::Sentinel { sentinels, service, server: info(tls, user, "unknown", database)? })
    }

    fn server(url: &str) -> anyhow::Result<Self> {
        let parsed = url::Url::parse(url)?;
        ensure!(parsed.host_str().is_some_and(|host| !host.is_empty()), "no host");
        check_database(parsed.path().trim_start_matches('/'))?;
        Ok(Self::Server(ours(url.into_connection_info().map_err(unquoted)?)))
    }
}

/// How to speak to a server like this one that is elsewhere.
pub(super) fn at(like: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let addr = match like.addr().clone() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure, tls_params }
        }
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    like.clone().set_addr(addr)
}

fn all(hosts: Vec<&str>, info: impl Fn(&str) -> anyhow::Result<ConnectionInfo>) -> anyhow::Result<Vec<ConnectionInfo>> {
    hosts.into_iter().map(info).collect()
}

fn info(scheme: &str, user: &str, host: &str, database: &str) -> anyhow::Result<ConnectionInfo> {
    let at = if user.is_empty() { "" } else { "@" };
    // The host is checked apart, so that no complaint about it repeats a password.
    url::Url::parse(&format!("{scheme}://{host}")).with_context(|| format!("{host:?}"))?;
    Ok(ours(format!("{scheme}://{user}{at}{host}/{database}").into_connection_info().map_err(unquoted)?))
}

/// RESP3, because subscriptions and answers share a connection, and no waiting for full packets. The library's name is not
/// sent, because Redis 7.0 does not know the command, and users would need a permission for it.
fn ours(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true))
}

fn check_database(path: &str) -> anyhow::Result<()> {
    ensure!(path.is_empty() || path.parse::<u16>().is_ok(), "the path is the number of a database");
    Ok(())
}

/// `user:password`, still encoded, of `sentinel_username` and `sentinel_password`.
fn sentinel_user(query: &str) -> anyhow::Result<String> {
    let (mut user, mut password) = ("", None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel_username", value)) => user = value,
            Some(("sentinel_password", value)) => password = Some(value),
            _ => bail!("the options are sentinel_username and sentinel_password"),
        }
    }
    ensure!(password.is_some() || user.is_empty(), "sentinel_username without sentinel_password");
    Ok(password.map(|password| format!("{user}:{password}")).unwrap_or_default())
}

/// Only the kind of error: details may repeat what was given.
fn unquoted(error: redis::RedisError) -> anyhow::Error {
    anyhow::anyhow!("{}", error.category())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Sentinels watch, the password of Redis, and its database.
    type Service = (String, Option<String>, i64);

    fn addresses(url: &str) -> (Vec<String>, Option<Service>) {
        let name = |info: &ConnectionInfo| info.addr().to_string();
        match Address::parse(url).expect(url) {
            Address::Server(info) => (vec![name(&info)], None),
            Address::Cluster(seeds) => (seeds.iter().map(name).collect(), None),
            Address::Sentinel { sentinels, service, server } => {
                let settings = server.redis_settings();
                let password = settings.password().map(str::to_owned);
                (sentinels.iter().map(name).collect(), Some((service, password, settings.db())))
            }
        }
    }

    #[test]
    fn hosts_have_the_ports_of_what_they_are_unless_told_otherwise() {
        let sentinel = |hosts: &[&str], service: &str, password: Option<&str>, db| {
            let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
            (hosts, Some((service.to_owned(), password.map(str::to_owned), db)))
        };
        assert_eq!(addresses("redis://one"), (vec!["one:6379".to_owned()], None));
        assert_eq!(
            addresses("redis+cluster://:p%40ss@one,two:7000"),
            (vec!["one:6379".to_owned(), "two:7000".to_owned()], None)
        );
        assert_eq!(
            addresses("redis+sentinel://one,[::1],[::2]:7/mymaster"),
            sentinel(&["one:26379", "::1:26379", "::2:7"], "mymaster", None, 0)
        );
        assert_eq!(
            addresses("rediss+sentinel://me:p%2Fss@one:1/my%20master/3?sentinel_password=x"),
            sentinel(&["one:1"], "my master", Some("p/ss"), 3)
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_repeating_a_password() {
        for url in [
            "one:6379",
            "http://:secret@one",
            "redis://:secret@",
            "redis://:secret@one/x",
            "redis+sentinel://:secret@one",
            "redis+sentinel://:secret@one/mymaster/x",
            "redis+sentinel://:secret@one:x/mymaster",
            "redis+sentinel://one/mymaster?sentinel_passwrod=secret",
            "redis+sentinel://one/mymaster?sentinel_username=secret",
            "redis+cluster://:secret@one,,two",
            "redis+cluster://:secret@one/1",
        ] {
            let error = format!("{:#}", Address::parse(url).expect_err(url));
            assert!(!error.contains("secret"), "{url}: {error}");
        }
    }
}
