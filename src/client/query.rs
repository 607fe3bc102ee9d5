//! The options of a subscription: the query of a channel's address, and the headers with the same
//! meaning. A value without a meaning is rejected with its name, the same way for every kind of
//! request, because a client whose `last=abc` is ignored takes the missing messages for lost ones.
//! Unknown parameters are ignored.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderValue};

use super::percent;
use crate::feed::Start;
use crate::message::MessageId;

/// The header with the id of the message that an event stream received last.
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// The same in the address, for clients that cannot send headers.
const LAST_EVENT_ID_PARAMETER: &str = "lastEventId";

/// The start after an id that is none of ours: in a history that we do not have.
const AFTER_UNKNOWN: Start = Start::After(MessageId {
    epoch: u64::MAX,
    offset: 0,
});

/// The options of a subscription, as its client gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SubscribeOptions {
    /// Where it starts.
    pub start: Start,
    /// Whether this connection receives its own messages.
    pub echo: bool,
}

/// A parameter or header whose value has no meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad value of {name}: {why}")]
pub struct BadParameter {
    /// Its name, as the documentation writes it.
    pub name: &'static str,
    /// The rule that the value breaks.
    pub why: &'static str,
}

impl BadParameter {
    pub(crate) fn new(name: &'static str, why: &'static str) -> Self {
        Self { name, why }
    }
}

/// The options in a request's query and headers.
///
/// # Errors
/// If one of them has a value without a meaning, also if another one wins over it.
pub(crate) fn subscribe_options(
    query: &str,
    headers: &HeaderMap,
) -> Result<SubscribeOptions, BadParameter> {
    // All are read before one is chosen, so that a bad value is never hidden by a better one.
    let last_event_id = last_event_id(query, headers)?;
    let since = since(query)?;
    let last = last(query)?;
    // A client that reconnects keeps the first `since` in its address, so the header and
    // `lastEventId` win over it.
    let start = last_event_id.or(since).or(last).unwrap_or(Start::Newest);
    Ok(SubscribeOptions {
        start,
        echo: echo(query)?,
    })
}

/// The one value of a header; the same value twice is one.
///
/// # Errors
/// If it has several values.
pub(crate) fn header<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a HeaderValue>, BadParameter> {
    single(name, headers.get_all(name).iter())
}

/// Event sources send the id that they received last, from any server that answered at this address
/// then. They never reconnect after a 400 and cannot forget the id. So an id that is none of ours is
/// a gap, as the id of a lost history is.
fn last_event_id(query: &str, headers: &HeaderMap) -> Result<Option<Start>, BadParameter> {
    let in_header = header(headers, LAST_EVENT_ID)?
        .map(HeaderValue::as_bytes)
        .filter(|id| !id.is_empty());
    let in_query = parameter(query, LAST_EVENT_ID_PARAMETER)?.filter(|id| !id.is_empty());
    let after = |id: &str| id.parse().map_or(AFTER_UNKNOWN, Start::After);
    let in_header = in_header.map(|id| str::from_utf8(id).map_or(AFTER_UNKNOWN, after));
    Ok(in_header.or(in_query.as_deref().map(after)))
}

fn since(query: &str) -> Result<Option<Start>, BadParameter> {
    const NAME: &str = "since";
    let Some(id) = parameter(query, NAME)?.filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let id = id
        .parse()
        .map_err(|_| BadParameter::new(NAME, "it is the id of a message, or empty"))?;
    Ok(Some(Start::After(id)))
}

fn last(query: &str) -> Result<Option<Start>, BadParameter> {
    const NAME: &str = "last";
    let Some(count) = parameter(query, NAME)? else {
        return Ok(None);
    };
    if count.is_empty() || !count.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(BadParameter::new(
            NAME,
            "it is a number of messages, in digits",
        ));
    }
    // A larger number than there is room for asks for everything.
    Ok(Some(Start::Last(count.parse().unwrap_or(usize::MAX))))
}

fn echo(query: &str) -> Result<bool, BadParameter> {
    const NAME: &str = "echo";
    match parameter(query, NAME)?.as_deref() {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(BadParameter::new(NAME, "it is true or false")),
    }
}

/// The one value of a parameter, decoded; empty if it has no `=`.
fn parameter<'a>(query: &'a str, name: &'static str) -> Result<Option<Cow<'a, str>>, BadParameter> {
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let named = pairs.filter(|(key, _)| form_decoded(key).is_some_and(|key| key == name));
    let values: Option<Vec<_>> = named.map(|(_, value)| form_decoded(value)).collect();
    let values = values.ok_or(BadParameter::new(name, "it is not percent-encoded UTF-8"))?;
    single(name, values.into_iter())
}

/// The text that is encoded here, where a plus is a space.
fn form_decoded(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('+') {
        percent::decoded(&text.replace('+', " ")).map(|text| Cow::Owned(text.into_owned()))
    } else {
        percent::decoded(text)
    }
}

/// The one value of all that were given.
fn single<T: PartialEq>(
    name: &'static str,
    mut values: impl Iterator<Item = T>,
) -> Result<Option<T>, BadParameter> {
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.all(|other| other == first) {
        Ok(Some(first))
    } else {
        Err(BadParameter::new(
            name,
            "it is given several times, with different values",
        ))
    }
}
