//! One setting as it was given: its value, or what is wrong with it. The functions here parse it
//! for [`clap`], which would stop at the first bad setting, so they never fail.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// A value, or complaints about it, each to be put behind the setting's flag.
#[derive(Clone, Debug)]
pub(super) struct Given<T>(Result<T, Vec<String>>);

/// The result of a parser for clap.
pub(super) type Parsed<T> = Result<Given<T>, Infallible>;

/// Collects the complaints about all settings.
#[derive(Debug, Default)]
pub(super) struct Complaining(Vec<String>);

impl<T> Given<T> {
    /// A complaint that quotes the text.
    fn parse<E: Display>(text: &str, result: Result<T, E>) -> Parsed<T> {
        Ok(Self(
            result.map_err(|error| vec![format!(" {text:?}: {error}")]),
        ))
    }

    /// A complaint that does not quote the text, because it may hold a password.
    pub(super) fn parse_secret<E: Display>(result: Result<T, E>) -> Parsed<T> {
        Ok(Self(result.map_err(|error| vec![format!(": {error}")])))
    }
}

impl Complaining {
    /// The value, or after a complaint a harmless one that is never used.
    pub(super) fn value<T: Clone + Default>(&mut self, flag: &str, given: &Given<T>) -> T {
        self.value_or(flag, given, T::default())
    }

    /// The same for a type without a default.
    pub(super) fn value_or<T: Clone>(&mut self, flag: &str, given: &Given<T>, harmless: T) -> T {
        match &given.0 {
            Ok(value) => value.clone(),
            Err(complaints) => {
                let complaints = complaints.iter();
                self.0
                    .extend(complaints.map(|complaint| format!("{flag}{complaint}")));
                harmless
            }
        }
    }

    /// Complains unless this holds. A flag whose value could not be read has its complaint already.
    pub(super) fn unless(&mut self, holds: bool, flag: &str, complaint: &str) {
        let is_known = self.0.iter().any(|other| is_about(other, flag));
        if !holds && !is_known {
            self.0.push(format!("{flag}: {complaint}"));
        }
    }

    /// Adds complaints that name their flags themselves.
    pub(super) fn extend(&mut self, complaints: Vec<String>) {
        self.0.extend(complaints);
    }

    pub(super) fn into_complaints(self) -> Vec<String> {
        self.0
    }
}

/// Whether a complaint begins with this flag, and not with a longer one.
fn is_about(complaint: &str, flag: &str) -> bool {
    complaint
        .strip_prefix(flag)
        .is_some_and(|rest| rest.starts_with([' ', ':']))
}

/// An address and port.
pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    let why = "not an address and port like 0.0.0.0:8080 or [::]:8080";
    Given::parse(text, text.parse().map_err(|_| why))
}

/// A number.
pub(super) fn number<T: FromStr>(text: &str) -> Parsed<T> {
    Given::parse(text, text.parse().map_err(|_| "not a number from 0"))
}

/// A limit; 0 is none.
pub(super) fn limit<T: FromStr + Default + PartialEq>(text: &str) -> Parsed<Option<T>> {
    let number = text.parse::<T>().map_err(|_| "not a number from 0");
    let limit = number.map(|number| Some(number).filter(|limit| *limit != T::default()));
    Given::parse(text, limit)
}

/// A number of bytes, at least this many.
pub(super) fn size(least: usize) -> impl Fn(&str) -> Parsed<usize> + Clone {
    move |text| Given::parse(text, bytes(text, least))
}

/// A limit in bytes; 0 is none.
pub(super) fn size_limit(text: &str) -> Parsed<Option<u64>> {
    let limit = bytes(text, 0).map(|bytes| Some(bytes as u64).filter(|bytes| *bytes > 0));
    Given::parse(text, limit)
}

fn bytes(text: &str, least: usize) -> Result<usize, String> {
    let size = text
        .parse::<ByteSize>()
        .map_err(|_| "not a size like 65536, 64KiB or 8MiB")?;
    let bytes = size.as_u64() as usize;
    if bytes < least {
        return Err(format!("at least {}", ByteSize(least as u64)));
    }
    Ok(bytes)
}

/// A time, at least this long.
pub(super) fn time(least: Duration) -> impl Fn(&str) -> Parsed<Duration> + Clone {
    move |text| {
        let time = humantime::parse_duration(text)
            .map_err(|_| "not a time like 500ms, 20s or 10m".to_owned());
        let time = time.and_then(|time| {
            if time < least {
                Err(format!("at least {least:?}"))
            } else {
                Ok(time)
            }
        });
        Given::parse(text, time)
    }
}

/// One of some words.
pub(super) fn choice<T: Copy>(
    choices: &'static [(&'static str, T)],
) -> impl Fn(&str) -> Parsed<T> + Clone {
    move |text| {
        let mut named = choices.iter().filter(|(name, _)| *name == text);
        let chosen = named.next().map(|(_, choice)| *choice);
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let result = chosen.ok_or_else(|| format!("one of {}", names.join(", ")));
        Given::parse(text, result)
    }
}

/// Values separated by commas. Each bad one has a complaint of its own.
pub(super) fn list<T>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Given<Vec<T>> {
    let (mut values, mut complaints) = (Vec::new(), Vec::new());
    // Templates leave spaces and commas at the ends.
    let parts = text.split(',').map(str::trim);
    for part in parts.filter(|part| !part.is_empty()) {
        match parse(part) {
            Ok(value) => values.push(value),
            Err(error) => complaints.push(format!(" {part:?}: {error}")),
        }
    }
    if complaints.is_empty() {
        Given(Ok(values))
    } else {
        Given(Err(complaints))
    }
}

impl<T> Given<Vec<T>> {
    /// Complains if the list is empty.
    pub(super) fn not_empty(self, why: &str) -> Self {
        match &self.0 {
            Ok(values) if values.is_empty() => Self(Err(vec![format!(": {why}")])),
            _ => self,
        }
    }
}

impl<T> Given<T> {
    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Given<U> {
        Given(self.0.map(map))
    }

    pub(super) fn is_bad(&self) -> bool {
        self.0.is_err()
    }

    pub(super) fn value(value: T) -> Self {
        Self(Ok(value))
    }
}

/// A file's path; an empty one is none, as templates write it into a variable.
pub(super) fn file(text: &str) -> Parsed<Option<PathBuf>> {
    let path = Some(text).filter(|text| !text.is_empty());
    Ok(Given::value(path.map(PathBuf::from)))
}

/// Text with a rule.
pub(super) fn checked(text: &str, holds: bool, rule: &str) -> Parsed<String> {
    let result = if holds {
        Ok(text.to_owned())
    } else {
        Err(rule)
    };
    Given::parse(text, result)
}
