//! Whether a server can be the broker: it is no replica, has all channels of its address, and allows
//! every command that publishing takes. A [`super::subscriber`] checks this before it uses a server
//! and every second while it does.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Script, Value, cmd};
use tracing::warn;

use super::server::Server;
use super::{Names, Redis};

/// The commands of publishing, on keys that nobody has.
const REHEARSAL: &str = include_str!("rehearse.lua");

/// Keys that a server in cluster mode is asked for when its address names it alone. They are in
/// different slots, so one that lacks a tenth of them is found out in all but one of a thousand
/// times.
const SLOT_SAMPLES: u32 = 64;

/// Why a server that answers cannot be the broker.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(pub(super) String);

/// Checks a server that is not used yet. `probe` is a pub/sub channel that is in one of its
/// slots.
///
/// # Errors
/// [`Unfit`] if it cannot be the broker, and anything else if it does not answer.
pub(super) async fn check(
    redis: &Redis,
    connection: &mut MultiplexedConnection,
    probe: &str,
) -> anyhow::Result<()> {
    let is_in_cluster = check_role(connection).await?;
    if is_in_cluster && redis.topology.is_one_server() {
        check_slots(connection, &redis.names).await?;
    }
    rehearse(redis, connection, probe).await
}

/// Checks a server that is in use: its role, and the rest if publishing there was refused.
///
/// # Errors
/// [`Unfit`]. A server that does not answer is noticed elsewhere.
pub(super) async fn check_again(redis: &Redis, server: &Server, probe: &str) -> anyhow::Result<()> {
    let is_suspect = server.take_suspicion();
    let Ok(mut connection) = server.connection().await else {
        return Ok(());
    };
    let checked = match is_suspect {
        true => check(redis, &mut connection, probe).await,
        false => check_role(&mut connection).await.map(drop),
    };
    checked.or_else(|error| {
        if error.is::<Unfit>() {
            Err(error)
        } else {
            Ok(())
        }
    })
}

/// For operators: why the node has no broker although a server answers, if this error shows it.
pub(super) fn reason(error: &anyhow::Error) -> Option<String> {
    let is_answer = |error: &RedisError| error.code().is_some();
    let is_known = error.is::<Unfit>() || error.downcast_ref().is_some_and(is_answer);
    is_known.then(|| format!("{error:#}"))
}

/// An error in Redis' own words.
pub(super) fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

/// Asks for the server's role by `HELLO`, which every user may send who can connect. Returns
/// whether the server is in cluster mode.
async fn check_role(connection: &mut MultiplexedConnection) -> anyhow::Result<bool> {
    let about = match cmd("HELLO")
        .query_async::<HashMap<String, Value>>(connection)
        .await
    {
        Ok(about) => about,
        // The server allowed this when we connected. A node that can do everything else does not
        // need it.
        Err(error) if error.code().is_some() => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let text = |name| {
        let value = about.get(name)?;
        redis::from_redis_value_ref::<String>(value).ok()
    };
    let (role, mode) = (text("role"), text("mode"));
    match (role.as_deref(), mode.as_deref()) {
        (_, Some("sentinel")) => {
            let why = "it is a Sentinel: its address is redis+sentinel://host:26379/mymaster";
            Err(Unfit(why.to_owned()).into())
        }
        (Some("replica" | "slave"), _) => {
            Err(Unfit("it is a replica, and takes no messages".to_owned()).into())
        }
        (_, mode) => Ok(mode == Some("cluster")),
    }
}

/// Asks a server that is to have all channels for keys of many slots.
async fn check_slots(connection: &mut MultiplexedConnection, names: &Names) -> anyhow::Result<()> {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    for number in 0..SLOT_SAMPLES {
        pipeline
            .cmd("HGET")
            .arg(names.rehearsal(&number.to_string(), "hash"))
            .arg("a");
    }
    let answers: Vec<RedisResult<Value>> = pipeline.query_async(connection).await?;
    let is_elsewhere =
        |error: &RedisError| matches!(error.code(), Some("MOVED" | "ASK" | "CLUSTERDOWN"));
    match answers
        .into_iter()
        .filter_map(Result::err)
        .find(is_elsewhere)
    {
        Some(error) => {
            let why = "it is one node of a Cluster, whose address is redis+cluster://host,host";
            Err(Unfit(format!("{why}: {}", words(&error))).into())
        }
        None => Ok(()),
    }
}

/// Does everything that publishing takes without leaving anything behind.
async fn rehearse(
    redis: &Redis,
    connection: &mut MultiplexedConnection,
    probe: &str,
) -> anyhow::Result<()> {
    let publish = redis.publish_command();
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    if redis.retention.messages > 0 {
        let script = Script::new(REHEARSAL);
        let keys = ["hash", "stream", "set"].map(|key| redis.names.rehearsal(probe, key));
        pipeline.cmd("SCRIPT").arg("LOAD").arg(REHEARSAL);
        pipeline
            .cmd("EVALSHA")
            .arg(script.get_hash())
            .arg(keys.len())
            .arg(&keys)
            .arg(publish)
            .arg(probe);
    }
    pipeline.cmd(publish).arg(probe).arg("");
    let answers: Vec<RedisResult<Value>> = pipeline.query_async(connection).await?;
    answers
        .into_iter()
        .filter_map(Result::err)
        .try_for_each(judge)
}

/// Whether a server can be the broker although it has refused something with this error.
fn judge(error: RedisError) -> anyhow::Result<()> {
    match error.code() {
        // It takes no writes for now. Publishers get an error, and subscribers go on.
        Some("OOM" | "MISCONF" | "NOREPLICAS") => {
            warn!("redis takes no messages for now: {}", words(&error));
            Ok(())
        }
        // It is busy, its scripts were flushed just now, or a slot is moving.
        Some("BUSY" | "NOSCRIPT" | "ASK" | "TRYAGAIN") => Ok(()),
        _ => Err(Unfit(format!("it refuses to publish: {}", words(&error))).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// The commands that a script calls.
    fn commands(script: &str) -> BTreeSet<&str> {
        script
            .split("redis.call('")
            .skip(1)
            .filter_map(|rest| rest.split('\'').next())
            .collect()
    }

    #[test]
    fn the_rehearsal_has_every_command_of_publishing() {
        let missing: Vec<&str> = commands(include_str!("publish.lua"))
            .difference(&commands(super::REHEARSAL))
            .copied()
            .collect();
        // Only of a key that repeats another one: a user who may not do that is refused then, and
        // not before.
        assert!(
            missing == ["ZCOUNT"] && commands(super::REHEARSAL).len() > 14,
            "{missing:?}"
        );
    }
}
