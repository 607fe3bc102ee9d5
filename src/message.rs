//! Messages and batches: the bytes that all readers share. A batch is built once, framed as it is
//! built, and never changes.

mod batch;
mod builder;
mod deflate;
mod encoding;
mod id;
mod missed;
mod origin;

pub(crate) use self::batch::Batch;
pub(crate) use self::builder::{BatchBuilder, Digest};
pub(crate) use self::deflate::DeflateWindow;
pub(crate) use self::encoding::{Format, Shape, put_gap, put_json, put_text};
pub(crate) use self::id::MessageId;
pub(crate) use self::missed::Missed;
pub(crate) use self::origin::{PublisherId, Sequence};
pub use crate::frame::Kind;

/// Nanoseconds since 1970, the clock of all publish times: comparable between nodes as far as their
/// clocks agree.
pub fn now_ns() -> u64 {
    std::time::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_nanos() as u64)
}
