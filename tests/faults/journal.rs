//! What was said and what was heard, written down as it happens by speakers and listeners. What to
//! think of it is [`super::audit`]'s business.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

/// A message: who said it, and how many that one had said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Said {
    pub speaker: usize,
    pub number: usize,
}

/// A message's id. Clients take it as it comes; whoever checks the service knows that offsets are
/// contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    pub epoch: u64,
    pub offset: u64,
}

/// What a speaker wrote down about a message of its own.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was due, which is before it was sent if there was no connection then.
    pub due: Instant,
    /// It was acknowledged, under this id; `None` if what it was called was no longer to be found.
    pub acknowledged: Option<Option<Id>>,
}

/// What a speaker said, in order.
#[derive(Debug, Default)]
pub struct Speech {
    pub lines: Vec<Line>,
    /// How often it was told that something was not published.
    pub refused: usize,
}

/// What happened to a listener.
#[derive(Clone, Debug)]
pub enum Event {
    Heard {
        said: Said,
        id: Option<Id>,
        at: Instant,
    },
    /// It was told that something is missing here.
    Gap { missed: Option<u64> },
}

/// What a listener heard, in order.
#[derive(Debug, Default)]
pub struct Hearing {
    pub name: String,
    /// It listened before anything was said.
    pub from_start: bool,
    /// It is still there, or has come back each time.
    pub to_end: bool,
    /// How often it was connected.
    pub connections: usize,
    pub events: Vec<Event>,
}

/// Written by its owner while others look.
#[derive(Debug)]
pub struct Journal<T>(Arc<Mutex<T>>);

impl<T> Journal<T> {
    pub fn new(content: T) -> Self {
        Self(Arc::new(Mutex::new(content)))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }

    /// Ends the journal; returns what was written.
    pub fn take(&self) -> T
    where
        T: Default,
    {
        std::mem::take(&mut self.lock())
    }
}

impl<T> Clone for Journal<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Hearing {
    pub fn new(name: String, from_start: bool) -> Self {
        Self {
            name,
            from_start,
            to_end: true,
            connections: 0,
            events: Vec::new(),
        }
    }

    /// The messages, and when each was heard.
    pub fn heard(&self) -> impl Iterator<Item = (Said, Instant)> {
        self.events.iter().filter_map(|event| match *event {
            Event::Heard { said, at, .. } => Some((said, at)),
            Event::Gap { .. } => None,
        })
    }

    /// What it was told of gaps.
    pub fn gaps(&self) -> Vec<Option<u64>> {
        let gaps = self.events.iter().filter_map(|event| match *event {
            Event::Gap { missed } => Some(missed),
            Event::Heard { .. } => None,
        });
        gaps.collect()
    }

    /// Writes down what was just heard.
    pub fn hear(&mut self, text: &str, id: Option<&str>) {
        let said = text.parse().unwrap();
        self.events.push(Event::Heard {
            said,
            id: id.map(|id| id.parse().unwrap()),
            at: Instant::now(),
        });
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.speaker, self.number)
    }
}

impl FromStr for Said {
    type Err = String;

    /// Reads what [`fmt::Display`] wrote; what makes a message long may follow behind a space.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut numbers = text.splitn(3, ' ').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(speaker)), Some(Ok(number))) => Ok(Self { speaker, number }),
            _ => Err(format!("nobody said {text:?}")),
        }
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (epoch, offset) = text
            .split_once('-')
            .ok_or_else(|| format!("{text:?} is no id"))?;
        match (u64::from_str_radix(epoch, 16), offset.parse()) {
            (Ok(epoch), Ok(offset)) if epoch == 0 || epoch_is_whole(text) => {
                Ok(Self { epoch, offset })
            }
            _ => Err(format!("{text:?} is no id")),
        }
    }
}

/// An epoch is written with all its digits; only the place before everything is `0-0`.
fn epoch_is_whole(id: &str) -> bool {
    id.find('-') == Some(16)
}
