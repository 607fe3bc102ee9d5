//! Connections that are reset because there are too many. Each waits a moment first: a reset before
//! the client's `connect` has returned looks to it as if nobody listened here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::stream::reset;

/// How long a connection waits.
const DELAY: Duration = Duration::from_millis(20);

/// Connections that wait at most. Each takes a descriptor. Beyond that the oldest is reset early.
const WAITING: usize = 16;

/// The connections that wait.
#[derive(Clone, Debug)]
pub(crate) struct DelayedResets(Arc<Mutex<Waiting>>);

#[derive(Debug)]
struct Waiting {
    streams: VecDeque<(Instant, TcpStream)>,
    most: usize,
    /// A task runs that resets them when their time has come.
    watched: bool,
}

impl DelayedResets {
    /// For a node with this many descriptors beside those of its connections.
    pub(crate) fn new(descriptors: usize) -> Self {
        let most = WAITING.min(descriptors / 2);
        Self(Arc::new(Mutex::new(Waiting {
            streams: VecDeque::new(),
            most,
            watched: false,
        })))
    }

    /// Resets a connection soon.
    pub(crate) fn push(&self, stream: TcpStream) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.streams.push_back((Instant::now() + DELAY, stream));
        while waiting.streams.len() > waiting.most {
            waiting.reset_first();
        }
        // One task for all of them. It ends when none is left.
        if !std::mem::replace(&mut waiting.watched, true) {
            tokio::spawn(self.clone().watch());
        }
    }

    async fn watch(self) {
        while !self.reset_due() {
            sleep(DELAY / 2).await;
        }
    }

    /// Resets the connections whose time has come. Returns whether none is left.
    fn reset_due(&self) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while waiting.streams.front().is_some_and(|(due, _)| *due <= now) {
            waiting.reset_first();
        }
        // Under the same lock as `push`, which begins another task after this one has ended.
        waiting.watched = !waiting.streams.is_empty();
        !waiting.watched
    }
}

impl Waiting {
    fn reset_first(&mut self) {
        if let Some((_, stream)) = self.streams.pop_front() {
            reset(&stream);
        }
    }
}
