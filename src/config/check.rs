//! Reading settings: from what people write to plain data, complaint by complaint.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use super::Settings;
use crate::broker::{Redis, RedisTls};

/// Collects complaints; what could not be read is replaced by something harmless that is never
/// used.
pub(super) struct Check(pub(super) Vec<String>);

impl Check {
    pub(super) fn that(&mut self, holds: bool, flag: &str, complaint: &str) {
        if !holds {
            self.0.push(format!("{flag}: {complaint}"));
        }
    }

    fn parsed<T, E: Display>(
        &mut self,
        flag: &str,
        value: &str,
        result: Result<T, E>,
        fallback: T,
    ) -> T {
        result.unwrap_or_else(|error| {
            self.0.push(format!("{flag} {value:?}: {error}"));
            fallback
        })
    }

    pub(super) fn address(&mut self, flag: &str, value: &str) -> SocketAddr {
        let result = value
            .parse()
            .map_err(|_| "not an address and port like 0.0.0.0:8080 or [::]:8080");
        self.parsed(flag, value, result, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(super) fn number<T: FromStr + Default>(&mut self, flag: &str, value: &str) -> T {
        self.parsed(
            flag,
            value,
            value.parse().map_err(|_| "not a number from 0"),
            T::default(),
        )
    }

    pub(super) fn limit<T: FromStr + Default + PartialEq>(
        &mut self,
        flag: &str,
        value: &str,
    ) -> Option<T> {
        Some(self.number::<T>(flag, value)).filter(|limit| *limit != T::default())
    }

    pub(super) fn size(&mut self, flag: &str, value: &str, least: usize) -> usize {
        let result = value.parse::<ByteSize>().map(|size| size.as_u64() as usize);
        let result = result
            .map_err(|_| "not a size like 65536, 64KiB or 8MiB".to_owned())
            .and_then(|size| {
                if size < least {
                    Err(format!("at least {}", ByteSize(least as u64)))
                } else {
                    Ok(size)
                }
            });
        self.parsed(flag, value, result, least)
    }

    pub(super) fn time(&mut self, flag: &str, value: &str, least: Duration) -> Duration {
        let result = humantime::parse_duration(value)
            .map_err(|_| "not a time like 500ms, 20s or 10m".to_owned());
        let result = result.and_then(|time| {
            if time < least {
                Err(format!("at least {least:?}"))
            } else {
                Ok(time)
            }
        });
        self.parsed(flag, value, result, least)
    }

    pub(super) fn choice<T: Copy>(&mut self, flag: &str, value: &str, choices: &[(&str, T)]) -> T {
        let found = choices
            .iter()
            .find(|(name, _)| *name == value)
            .map(|(_, choice)| *choice);
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.parsed(
            flag,
            value,
            found.ok_or_else(|| format!("one of {}", names.join(", "))),
            choices[0].1,
        )
    }

    pub(super) fn list<T>(
        &mut self,
        flag: &str,
        value: &str,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Vec<T> {
        let parts = value
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts
            .filter_map(|part| {
                parse(part)
                    .map_err(|error| self.0.push(format!("{flag} {part:?}: {error}")))
                    .ok()
            })
            .collect()
    }

    pub(super) fn origins(&mut self, value: &str) -> Option<Vec<String>> {
        if value.trim() == "*" {
            return None;
        }
        let origins = self.list("--allow-origin", value, |part| {
            match url::Url::parse(part) {
                Ok(url) if url.has_host() && url.path() == "/" && !part.ends_with('/') => {
                    Ok(url.origin().ascii_serialization())
                }
                _ => Err("not an origin like https://example.org (or * for any)"),
            }
        });
        self.that(
            !origins.is_empty() || !self.0.is_empty(),
            "--allow-origin",
            "empty: no web page could connect",
        );
        Some(origins)
    }

    pub(super) fn prefix(&mut self, value: &str) -> String {
        let fine = !value.is_empty()
            && value
                .chars()
                .all(|c| c.is_ascii_graphic() && !"{}*?[]\\".contains(c));
        let result = if fine {
            Ok(value.to_owned())
        } else {
            Err("visible ASCII without {}*?[]\\, not empty")
        };
        self.parsed("--redis-prefix", value, result, String::new())
    }

    pub(super) fn redis_url(&mut self, value: &str) -> String {
        let complaint = Redis::check(value).err().map(|error| format!("{error:#}"));
        // Not the value: it may hold a password.
        self.0
            .extend(complaint.map(|complaint| format!("--redis-url: {complaint}")));
        value.to_owned()
    }

    pub(super) fn redis_tls(&mut self, settings: &Settings) -> RedisTls {
        let named = |file: &Option<String>| {
            file.as_deref()
                .filter(|file| !file.is_empty())
                .map(PathBuf::from)
        };
        let Settings {
            redis_ca,
            redis_cert,
            redis_key,
            redis_url,
            ..
        } = settings;
        let tls = RedisTls {
            ca: named(redis_ca),
            cert: named(redis_cert),
            key: named(redis_key),
        };
        self.0.extend(tls.complaints(redis_url.as_deref()));
        tls
    }
}
