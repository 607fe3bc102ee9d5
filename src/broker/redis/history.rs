//! What Redis keeps of a channel: reading it, in the one place that knows how it looks.

use bytes::Bytes;
use redis::aio::ConnectionLike;
use redis::{ErrorKind, RedisResult, cmd};

use super::super::envelope::Payload;
use super::Names;
use crate::channel::ChannelName;
use crate::message::MessageId;

/// Batches looked at at once when one is searched.
const SEARCH: usize = 64;

/// Times that a history is read, as long as another one begins meanwhile.
const EPOCHS_AT_ONCE: usize = 5;

/// Some of a history, and where it ends.
pub(super) struct Excerpt {
    /// 0 if there is no history.
    pub(super) epoch: u64,
    /// The offset of the message that comes next.
    pub(super) next_offset: u64,
    /// Oldest first.
    pub(super) payloads: Vec<Bytes>,
    /// As many as were asked for: there may be more.
    pub(super) is_full: bool,
}

/// The fields of the meta hash, if there is one.
type MetaValues = (Option<Vec<u8>>, Option<u64>);

/// An entry of the stream: its id, and its one field with its value.
type Entry = (String, (String, Vec<u8>));

/// The newest message; [`MessageId::START`] if there is no history.
pub(super) async fn newest(
    connection: &mut impl ConnectionLike,
    names: &Names,
    name: &ChannelName,
) -> RedisResult<MessageId> {
    let mut get = cmd("HMGET");
    get.arg(names.meta(name)).arg("epoch").arg("offset");
    let (epoch, offset) = get.query_async::<MetaValues>(connection).await?;
    Ok(MessageId { epoch: read_epoch(epoch), offset: offset.unwrap_or(0) })
}

/// The oldest batches that reach up to `from` or beyond, at most `count`.
///
/// # Errors
/// Also if the history began anew each time that it was read.
pub(super) async fn read(
    connection: &mut impl ConnectionLike,
    names: &Names,
    name: &ChannelName,
    from: u64,
    count: usize,
) -> RedisResult<Excerpt> {
    let mut pipeline = redis::pipe();
    // No transaction: Redis 7.0 refuses to queue one while it is full, also one that only reads.
    pipeline.cmd("HMGET").arg(names.meta(name)).arg("epoch").arg("offset");
    pipeline.cmd("XRANGE").arg(names.stream(name)).arg(from).arg("+").arg("COUNT").arg(count);
    pipeline.cmd("HGET").arg(names.meta(name)).arg("epoch");
    for _ in 0..EPOCHS_AT_ONCE {
        let ((epoch, offset), entries, epoch_after) =
            pipeline.query_async::<(MetaValues, Vec<Entry>, Option<Vec<u8>>)>(connection).await?;
        // No epoch comes twice, so the entries are of this one. The offset was read before them: whatever was published up
        // to there and is not among them is gone.
        if epoch == epoch_after {
            let is_full = entries.len() == count;
            let payloads = entries.into_iter().map(|(_, (_, payload))| payload.into()).collect();
            return Ok(Excerpt { epoch: read_epoch(epoch), next_offset: offset.unwrap_or(0) + 1, payloads, is_full });
        }
    }
    Err((ErrorKind::Io, "the history began anew each time that it was read").into())
}

fn read_epoch(bytes: Option<Vec<u8>>) -> u64 {
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// The newest batches that end at `upto` or before, at most `count`.
pub(super) async fn read_back(
    connection: &mut impl ConnectionLike,
    names: &Names,
    name: &ChannelName,
    upto: u64,
    count: usize,
) -> RedisResult<Vec<Bytes>> {
    let mut range = cmd("XREVRANGE");
    range.arg(names.stream(name)).arg(upto).arg("-").arg("COUNT").arg(count);
    let entries: Vec<Entry> = range.query_async(connection).await?;
    Ok(entries.into_iter().map(|(_, (_, payload))| payload.into()).collect())
}

/// Begins a new history, unless somebody has: nobody can say any more what is at which place of this one. What publishers
/// have published stays known, so that nothing is published twice.
pub(super) async fn abandon(
    connection: &mut impl ConnectionLike,
    names: &Names,
    name: &ChannelName,
    epoch: u64,
) -> RedisResult<()> {
    let mut script = cmd("EVAL");
    script.arg(ABANDON).arg(3).arg(names.meta(name)).arg(names.stream(name)).arg(names.keys(name));
    script.arg(&epoch.to_le_bytes()[..]).arg(&rand::random::<u64>().max(1).to_le_bytes()[..]);
    script.exec_async(connection).await
}

/// KEYS: meta hash, history stream, set of keys. ARGV: the old epoch and a new one.
const ABANDON: &str = "if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'offset', '0', 'jumped', '0', 'bytes', '0', 'floor', '0')
  redis.call('DEL', KEYS[2], KEYS[3])
end";

/// What the last message of the batch is called that `node` published as its `number`, if it is still there.
pub(super) async fn find(
    connection: &mut impl ConnectionLike,
    stream: &str,
    node: u64,
    number: u64,
) -> RedisResult<Option<MessageId>> {
    let mut upto = "+".to_owned();
    loop {
        let mut page = cmd("XREVRANGE");
        page.arg(stream).arg(&upto).arg("-").arg("COUNT").arg(SEARCH);
        let entries: Vec<Entry> = page.query_async(connection).await?;
        let Some((oldest, _)) = entries.last() else { return Ok(None) };
        upto = format!("({oldest}");
        for (_, (_, payload)) in entries {
            if let Payload::Batch(batch) = Payload::decode(payload.into())
                && (batch.node, batch.number) == (node, number)
            {
                let offset = batch.offset + batch.messages.len() as u64 - 1;
                return Ok(Some(MessageId { epoch: batch.epoch, offset }));
            }
        }
    }
}
