//! The address of Redis, `--redis-url`: one server, the Sentinels that know which server it is, or
//! some nodes of a Cluster. It is parsed once, when the settings are read. The broker asks what is
//! there.

pub(crate) mod tls;

use anyhow::{Context, anyhow, bail, ensure};
use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

/// Where the broker asks which server has which channel.
#[derive(Clone, Debug)]
pub enum RedisAddress {
    /// Nowhere: this server has all of them.
    Server(ConnectionInfo),
    /// At Sentinels.
    Sentinel {
        /// The Sentinels, to be asked in this order.
        sentinels: Vec<ConnectionInfo>,
        /// The master's name there.
        service: String,
        /// How to connect to the master. Its host and port are the Sentinels' answer.
        server: ConnectionInfo,
    },
    /// At any of these nodes of a Cluster.
    Cluster(Vec<ConnectionInfo>),
}

impl RedisAddress {
    /// Parses an address.
    ///
    /// # Errors
    /// If it cannot be used. The message contains no password.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let (scheme, rest) = url
            .split_once("://")
            .context("not an address like redis://host:6379")?;
        let (tls, kind) = match scheme {
            "redis" | "rediss" => return Self::server(url),
            "redis+sentinel" => ("redis", "sentinel"),
            "rediss+sentinel" => ("rediss", "sentinel"),
            "redis+cluster" => ("redis", "cluster"),
            "rediss+cluster" => ("rediss", "cluster"),
            _ => bail!("unknown scheme {scheme}://"),
        };
        ensure!(
            !rest.contains('#'),
            "there is no fragment; in a password # is written %23"
        );
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority
            .rsplit_once('@')
            .map_or(("", authority), |(user, hosts)| (user, hosts));
        let hosts: Vec<&str> = hosts.split(',').collect();
        ensure!(hosts.iter().all(|host| !host.is_empty()), "no host");
        if kind == "cluster" {
            ensure!(
                path.is_empty(),
                "a cluster has only database 0, so there is no path"
            );
            refuse_parameters(query)?;
            return Ok(Self::Cluster(all(hosts, |host| info(tls, user, host, ""))?));
        }
        let (service, database) = path.split_once('/').unwrap_or((path, ""));
        ensure!(
            !service.is_empty(),
            "the path names what the sentinels watch: redis+sentinel://host:26379/mymaster"
        );
        check_database(database)?;
        let sentinel_user = sentinel_user(query)?;
        let sentinels = all(hosts, |host| {
            // An IPv6 address has colons, too, but ends with a bracket.
            let port = if host
                .rsplit_once(':')
                .is_some_and(|(_, port)| !port.ends_with(']'))
            {
                ""
            } else {
                ":26379"
            };
            info(tls, &sentinel_user, &format!("{host}{port}"), "")
        })?;
        let service = percent_encoding::percent_decode_str(service)
            .decode_utf8()
            .context("the path")?
            .into_owned();
        Ok(Self::Sentinel {
            sentinels,
            service,
            server: info(tls, user, "unknown", database)?,
        })
    }

    /// Whether connections use TLS.
    pub(crate) fn uses_tls(&self) -> bool {
        let server = match self {
            Self::Server(server) | Self::Sentinel { server, .. } => Some(server),
            Self::Cluster(seeds) => seeds.first(),
        };
        server.is_some_and(|server| matches!(server.addr(), ConnectionAddr::TcpTls { .. }))
    }

    fn server(url: &str) -> anyhow::Result<Self> {
        let parsed = url::Url::parse(url)?;
        ensure!(
            parsed.host_str().is_some_and(|host| !host.is_empty()),
            "no host"
        );
        ensure!(
            parsed.fragment().is_none(),
            "there is no fragment; in a password # is written %23"
        );
        refuse_parameters(parsed.query().unwrap_or_default())?;
        check_database(parsed.path().trim_start_matches('/'))?;
        Ok(Self::Server(ours(
            url.into_connection_info().map_err(unquoted)?,
        )?))
    }
}

/// How to connect to a server with the credentials and TLS of `like` that is elsewhere.
pub(crate) fn at(like: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let addr = match like.addr().clone() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host: host.to_owned(),
            port,
            insecure,
            tls_params,
        },
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    like.clone().set_addr(addr)
}

fn all(
    hosts: Vec<&str>,
    info: impl Fn(&str) -> anyhow::Result<ConnectionInfo>,
) -> anyhow::Result<Vec<ConnectionInfo>> {
    hosts.into_iter().map(info).collect()
}

fn info(scheme: &str, user: &str, host: &str, database: &str) -> anyhow::Result<ConnectionInfo> {
    let at = if user.is_empty() { "" } else { "@" };
    // The host is checked apart, so that no complaint about it repeats a password.
    url::Url::parse(&format!("{scheme}://{host}")).with_context(|| format!("{host:?}"))?;
    ours(
        format!("{scheme}://{user}{at}{host}/{database}")
            .into_connection_info()
            .map_err(unquoted)?,
    )
}

/// An address that has no parameters must not look as if it had.
fn refuse_parameters(query: &str) -> anyhow::Result<()> {
    match query.split('&').find(|pair| !pair.is_empty()) {
        Some(pair) => Err(unknown_parameter(
            query,
            pair.split_once('=').map_or(pair, |(name, _)| name),
        )),
        None => Ok(()),
    }
}

/// Names a parameter, unless it may be the end of a password.
fn unknown_parameter(query: &str, name: &str) -> anyhow::Error {
    match name {
        _ if query.contains('@') => anyhow!("unknown parameters; in a password ? is written %3F"),
        "db" => anyhow!("the database is no parameter but the path, as in redis://host:6379/2"),
        _ => anyhow!("unknown parameter {name:?}"),
    }
}

/// RESP3, because subscriptions and answers share a connection, and no waiting for full packets.
/// The library's name is not sent, because Redis 7.0 does not know the command, and users would
/// need a permission for it.
fn ours(info: ConnectionInfo) -> anyhow::Result<ConnectionInfo> {
    let settings = info.redis_settings();
    let is_whole = settings.username().is_none() || settings.password().is_some();
    ensure!(
        is_whole,
        "a user without a password, which Redis would not be told"
    );
    let settings = settings
        .clone()
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name();
    Ok(info
        .set_redis_settings(settings)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

fn check_database(path: &str) -> anyhow::Result<()> {
    ensure!(
        path.is_empty() || path.parse::<u16>().is_ok(),
        "the path is the number of a database"
    );
    Ok(())
}

/// `user:password`, still encoded, of `sentinel_username` and `sentinel_password`.
fn sentinel_user(query: &str) -> anyhow::Result<String> {
    let (mut user, mut password) = ("", None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel_username", value)) if user.is_empty() => user = value,
            Some(("sentinel_password", value)) if password.is_none() => password = Some(value),
            Some(("sentinel_username" | "sentinel_password", _)) => {
                bail!("a parameter is there twice")
            }
            other => {
                let error = unknown_parameter(query, other.map_or(pair, |(name, _)| name));
                return Err(
                    error.context("the parameters are sentinel_username and sentinel_password")
                );
            }
        }
    }
    ensure!(
        password.is_some() || user.is_empty(),
        "sentinel_username without sentinel_password"
    );
    Ok(password
        .map(|password| format!("{user}:{password}"))
        .unwrap_or_default())
}

/// Only the kind of error: details may repeat what was given.
fn unquoted(error: redis::RedisError) -> anyhow::Error {
    anyhow::anyhow!("{}", error.category())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The master that Sentinels watch, the password of Redis, and its database.
    type Service = (String, Option<String>, i64);

    fn addresses(url: &str) -> (Vec<String>, Option<Service>) {
        let name = |info: &ConnectionInfo| info.addr().to_string();
        match RedisAddress::parse(url).expect(url) {
            RedisAddress::Server(info) => (vec![name(&info)], None),
            RedisAddress::Cluster(seeds) => (seeds.iter().map(name).collect(), None),
            RedisAddress::Sentinel {
                sentinels,
                service,
                server,
            } => {
                let settings = server.redis_settings();
                let password = settings.password().map(str::to_owned);
                (
                    sentinels.iter().map(name).collect(),
                    Some((service, password, settings.db())),
                )
            }
        }
    }

    #[test]
    fn hosts_have_the_ports_of_what_they_are_unless_told_otherwise() {
        let sentinel = |hosts: &[&str], service: &str, password: Option<&str>, db| {
            let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
            (
                hosts,
                Some((service.to_owned(), password.map(str::to_owned), db)),
            )
        };
        assert_eq!(
            addresses("redis://one"),
            (vec!["one:6379".to_owned()], None)
        );
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
            "redis+cluster://:secret@one?db=1",
            "redis+sentinel://:secret@one/mymaster#1",
            "redis+sentinel://:sec?secret@one/mymaster",
            "redis+sentinel://one/mymaster?sentinel_password=secret&sentinel_password=secret",
            "redis://secret@one",
            "redis://:secret@one?protocol=resp2",
            "redis://:secret@one/2/3",
            "redis://:sec#secret@one",
            "redis://:sec?secret@one",
            "rediss://:secret@one#insecure",
        ] {
            let error = format!("{:#}", RedisAddress::parse(url).expect_err(url));
            assert!(!error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn no_part_of_an_address_is_ignored() {
        for (url, why) in [
            (
                "redis://one?db=2",
                "the database is no parameter but the path",
            ),
            (
                "rediss://one/1?db=2",
                "the database is no parameter but the path",
            ),
            (
                "redis+sentinel://one/mymaster?db=2",
                "the database is no parameter but the path",
            ),
            (
                "redis://one?protocol=resp3",
                "unknown parameter \"protocol\"",
            ),
            ("redis://one?timeout=5s", "unknown parameter \"timeout\""),
            (
                "redis+cluster://one?timeout",
                "unknown parameter \"timeout\"",
            ),
            ("rediss://one#insecure", "there is no fragment"),
            ("rediss+cluster://one#insecure", "there is no fragment"),
            ("redis://one/two", "the path is the number of a database"),
            ("redis://me@one", "a user without a password"),
            ("redis+cluster://me@one,two", "a user without a password"),
        ] {
            let error = format!("{:#}", RedisAddress::parse(url).expect_err(url));
            assert!(error.contains(why), "{url}: {error}");
        }
        assert_eq!(
            addresses("redis://one?"),
            (vec!["one:6379".to_owned()], None)
        );
    }
}
