//! Warnings about single channels, at a bounded rate. Broken keys or payloads may come a thousand
//! times a second and on every channel, and must not fill the log.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::channel::ChannelName;

/// Time in which a channel's trouble of one kind is logged once.
const WINDOW: Duration = Duration::from_secs(60);

/// Warnings in that time at most, whatever they are about.
const MOST: usize = 100;

/// A kind of trouble with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Trouble {
    /// Its history cannot be read.
    Reading,
    /// The node's Redis user must not subscribe to it.
    Forbidden,
    /// Redis does not take what is published on it.
    Refused,
    /// Its history has entries that no node has written.
    Unreadable,
    /// A batch came that Redis does not hold.
    Foreign,
    /// A payload begins like a batch and is none.
    Malformed,
}

/// Remembers what has been logged lately.
#[derive(Debug)]
pub(super) struct Warnings(Mutex<Window>);

#[derive(Debug)]
struct Window {
    began: Instant,
    logged: HashSet<(Trouble, ChannelName)>,
    left_out: u64,
}

impl Warnings {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Window::begin()))
    }

    /// Whether this is to be logged now.
    pub(super) fn allows(&self, trouble: Trouble, channel: &ChannelName) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.elapsed() >= WINDOW {
            let left_out = window.left_out;
            *window = Window::begin();
            if left_out > 0 {
                warn!(
                    left_out,
                    "warnings about channels were left out: there were too many"
                );
            }
        }
        let may = window.logged.len() < MOST && window.logged.insert((trouble, channel.clone()));
        window.left_out += u64::from(!may);
        may
    }
}

impl Window {
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            logged: HashSet::new(),
            left_out: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_and_many_are_bounded() {
        let warnings = Warnings::new();
        let name = |number: usize| ChannelName::new(&format!("c{number}")).expect("a name");
        assert!(warnings.allows(Trouble::Reading, &name(0)));
        assert!(!warnings.allows(Trouble::Reading, &name(0)), "it was told");
        assert!(
            warnings.allows(Trouble::Foreign, &name(0)),
            "another trouble"
        );
        let told = (1..1000)
            .filter(|number| warnings.allows(Trouble::Reading, &name(*number)))
            .count();
        assert_eq!(told, MOST - 2);
    }
}
