//! Reads what Redis keeps of a channel, in the one place that knows how it looks.

use bytes::Bytes;
use redis::aio::ConnectionLike;
use redis::{ErrorKind, RedisResult, cmd};

use super::super::envelope::{Envelope, HIGHEST, Payload};
use super::Names;
use crate::channel::ChannelName;
use crate::message::{MessageId, PublisherId, Sequence};

/// The field of the meta hash for [`Newest::after_loss`].
const AFTER_LOSS: &str = "torn";

/// Batches looked at at once when one is searched.
const SEARCH: usize = 64;

/// Times that a history is read, as long as another one begins meanwhile.
const EPOCHS_AT_ONCE: usize = 5;

/// The end of a history, as Redis holds it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Newest {
    /// The newest message; [`MessageId::START`] if there is no history.
    pub(super) id: MessageId,
    /// It began because the end of another one was lost.
    pub(super) after_loss: bool,
}

/// Some of a history, and where it ends.
pub(super) struct Excerpt {
    pub(super) newest: Newest,
    /// Oldest first.
    pub(super) payloads: Vec<Bytes>,
    /// Behind the last of them, if there are as many as were asked for: there may be more.
    pub(super) next: Option<EntryId>,
}

/// A place in a history's stream: an offset and, as the second half of an entry's id, the bytes up
/// to there.
pub(super) type EntryId = (u64, u64);

/// The fields of the meta hash, if there is one.
type MetaValues = (Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

/// An entry of the stream: its id, and its fields with their values. Ours have one.
type Entry = (String, Vec<Vec<u8>>);

/// The newest message.
pub(super) async fn newest(
    connection: &mut impl ConnectionLike,
    names: &Names,
    name: &ChannelName,
) -> RedisResult<Newest> {
    let mut get = cmd("HMGET");
    get.arg(names.meta(name))
        .arg("epoch")
        .arg("offset")
        .arg(AFTER_LOSS);
    Ok(if_ours(get.query_async(connection).await)?
        .map(Newest::read)
        .unwrap_or_default())
}

/// The oldest batches from this place on, at most `count`.
///
/// # Errors
/// Also if the history began anew each time that it was read.
pub(super) async fn read(
    connection: &mut impl ConnectionLike,
    names: &Names,
    name: &ChannelName,
    from: EntryId,
    count: usize,
) -> RedisResult<Excerpt> {
    // No transaction: Redis 7.0 refuses to queue one while it is full, also one that only reads.
    let mut pipeline = redis::pipe();
    let (meta, stream) = (names.meta(name), names.stream(name));
    pipeline
        .cmd("HMGET")
        .arg(&meta)
        .arg("epoch")
        .arg("offset")
        .arg(AFTER_LOSS);
    pipeline
        .cmd("XRANGE")
        .arg(stream)
        .arg(format!("{}-{}", from.0, from.1))
        .arg("+")
        .arg("COUNT")
        .arg(count);
    pipeline.cmd("HGET").arg(&meta).arg("epoch");
    for _ in 0..EPOCHS_AT_ONCE {
        let Some((meta, entries, epoch_after)) =
            if_ours::<Answers>(pipeline.query_async(connection).await)?
        else {
            let newest = newest(connection, names, name).await?;
            return Ok(Excerpt::empty(newest));
        };
        // No epoch comes twice, so the entries are of this one. The offset was read before them:
        // whatever was published up to there and is not among them is gone.
        if meta.0 == epoch_after {
            return Ok(Excerpt::read(meta, entries, count));
        }
    }
    let why = "the history began anew each time that it was read";
    Err((ErrorKind::Io, why).into())
}

/// The answers to reading a part of a history: its meta hash, the entries, and its epoch after that.
type Answers = (MetaValues, Vec<Entry>, Option<Vec<u8>>);

impl Excerpt {
    fn empty(newest: Newest) -> Self {
        Self {
            newest,
            payloads: Vec::new(),
            next: None,
        }
    }

    fn read(meta: MetaValues, entries: Vec<Entry>, count: usize) -> Self {
        let is_full = entries.len() == count;
        let last = entries.last().filter(|_| is_full);
        Self {
            newest: Newest::read(meta),
            next: last.and_then(|(id, _)| after(id)),
            payloads: entries.into_iter().map(payload).collect(),
        }
    }
}

impl Newest {
    /// Fields that make no sense are no history: what is published next begins one, see
    /// `publish.lua`.
    fn read((epoch, offset, after_loss): MetaValues) -> Self {
        let epoch = epoch
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_le_bytes);
        let digits = offset.filter(|bytes| bytes.iter().all(u8::is_ascii_digit));
        let offset = digits.and_then(|digits| String::from_utf8(digits).ok()?.parse().ok());
        match offset.filter(|offset| *offset < HIGHEST && epoch != 0) {
            Some(offset) => Self {
                id: MessageId { epoch, offset },
                after_loss: after_loss.is_some(),
            },
            None => Self::default(),
        }
    }

    /// Whether Redis holds this batch, or has held it in this history.
    pub(super) fn has(&self, batch: &Envelope) -> bool {
        self.has_range(batch.epoch, batch.offset, batch.messages.len() as u64)
    }

    /// The same of a batch that begins with this offset.
    pub(super) fn has_range(&self, epoch: u64, offset: u64, messages: u64) -> bool {
        epoch == self.id.epoch && offset > 0 && offset + messages - 1 <= self.id.offset
    }

    /// The same of a payload.
    pub(super) fn holds(&self, payload: &Bytes) -> bool {
        matches!(Payload::decode(payload.clone()), Payload::Batch(batch) if self.has(&batch))
    }
}

/// `None` if there is a key of another type: somebody else's, which holds nothing for us. Publishing
/// is refused for that, in words; clients that only subscribe are let in.
fn if_ours<T>(result: RedisResult<T>) -> RedisResult<Option<T>> {
    match result {
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
        result => result.map(Some),
    }
}

/// The place behind an entry.
fn after(id: &str) -> Option<EntryId> {
    let (offset, bytes) = id.split_once('-')?;
    let (offset, bytes) = (offset.parse::<u64>().ok()?, bytes.parse::<u64>().ok()?);
    bytes
        .checked_add(1)
        .map(|bytes| (offset, bytes))
        .or_else(|| Some((offset.checked_add(1)?, 0)))
}

/// The value of an entry's one field; nothing if it has others, because somebody else has written
/// it.
fn payload((_, fields): Entry) -> Bytes {
    match <[Vec<u8>; 2]>::try_from(fields) {
        Ok([_, payload]) => payload.into(),
        Err(_) => Bytes::new(),
    }
}

/// The newest batches that end at `upto` or before, at most `count`.
pub(super) async fn read_back(
    connection: &mut impl ConnectionLike,
    names: &Names,
    name: &ChannelName,
    upto: u64,
    count: usize,
) -> RedisResult<Vec<Bytes>> {
    let entries = entries_back(connection, &names.stream(name), &upto.to_string(), count).await;
    let entries = if_ours(entries)?.unwrap_or_default();
    Ok(entries.into_iter().map(payload).collect())
}

/// Begins a new history, unless another node has: which message is at which offset of this one is
/// not known any more. Redis still remembers publishers, so that nothing is published twice.
pub(super) async fn abandon(
    connection: &mut impl ConnectionLike,
    names: &Names,
    name: &ChannelName,
    epoch: u64,
) -> RedisResult<()> {
    let mut script = cmd("EVAL");
    script
        .arg(ABANDON)
        .arg(3)
        .arg(names.meta(name))
        .arg(names.stream(name))
        .arg(names.keys(name));
    script
        .arg(&epoch.to_le_bytes()[..])
        .arg(&rand::random::<u64>().max(1).to_le_bytes()[..]);
    script.exec_async(connection).await
}

/// KEYS: meta hash, history stream, set of keys. ARGV: the old epoch and a new one.
const ABANDON: &str = "if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'offset', '0', 'jumped', '0', 'bytes', '0', 'floor', '0', 'torn', '1')
  redis.call('DEL', KEYS[2], KEYS[3])
end";

/// The id of the last message of the batch that begins with this message of this publisher, if the
/// history still has it.
pub(super) async fn find(
    connection: &mut impl ConnectionLike,
    stream: &str,
    publisher_id: PublisherId,
    first: Sequence,
) -> RedisResult<Option<MessageId>> {
    let mut upto = "+".to_owned();
    loop {
        let entries = entries_back(connection, stream, &upto, SEARCH).await?;
        let Some((oldest, _)) = entries.last() else {
            return Ok(None);
        };
        upto = format!("({oldest}");
        let found = entries.into_iter().find_map(|entry| {
            let Payload::Batch(batch) = Payload::decode(payload(entry)) else {
                return None;
            };
            let is_it = (batch.publisher_id(), batch.first()) == (publisher_id, first);
            is_it.then(|| MessageId {
                epoch: batch.epoch,
                offset: batch.last_offset(),
            })
        });
        if found.is_some() {
            return Ok(found);
        }
    }
}

/// The newest entries up to this id, at most `count`, newest first.
async fn entries_back(
    connection: &mut impl ConnectionLike,
    stream: &str,
    upto: &str,
    count: usize,
) -> RedisResult<Vec<Entry>> {
    cmd("XREVRANGE")
        .arg(stream)
        .arg(upto)
        .arg("-")
        .arg("COUNT")
        .arg(count)
        .query_async(connection)
        .await
}
