//! Proof that a node receives what it publishes. Each connection that publishes to a server sends a
//! probe every second, and one that reads histories there before it reads. The probe must come back
//! over the subscription. An
//! address can lead to another server than before while the old one lives on. Then a subscription
//! that looks fine receives nothing of what a newer connection publishes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Cmd;
use tokio::time::Instant;

/// Time between two probes of a connection.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// The probes of one server, of all connections to it.
#[derive(Debug, Default)]
pub(super) struct RoundTrips(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The command that publishes probes and their pub/sub channel, while that is subscribed.
    route: Option<(&'static str, String)>,
    /// The number of the newest probe. It only grows: a probe of an earlier subscription may still
    /// come.
    newest: u64,
    /// By publishing connection.
    trips: HashMap<u64, Trips>,
}

/// The probes of one connection.
#[derive(Debug, Default)]
struct Trips {
    begun: Option<Instant>,
    /// The newest that came back.
    back: u64,
    /// The oldest that Redis has taken and that has not come back, and when Redis took it.
    missing: Option<(u64, Instant)>,
}

/// A probe to be published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    connection: u64,
    number: u64,
}

impl RoundTrips {
    /// There is a subscription that brings what is published on this pub/sub channel with this
    /// command.
    pub(super) fn subscribed(&self, command: &'static str, channel: String) {
        self.begin_anew(Some((command, channel)));
    }

    /// There is none any more.
    pub(super) fn unsubscribed(&self) {
        self.begin_anew(None);
    }

    fn begin_anew(&self, route: Option<(&'static str, String)>) {
        let mut state = self.lock();
        state.route = route;
        state.trips.clear();
    }

    /// A probe for this connection, if one is due, and the command that publishes it.
    pub(super) fn begin(&self, connection: u64) -> Option<(Probe, Cmd)> {
        let mut state = self.lock();
        let State {
            route: Some((command, channel)),
            newest,
            trips,
        } = &mut *state
        else {
            return None;
        };
        let trips = trips.entry(connection).or_default();
        if trips.begun.is_some_and(|begun| begun.elapsed() < INTERVAL) {
            return None;
        }
        // Numbers are never used again, so that a late probe proves nothing about a newer one.
        trips.begun = Some(Instant::now());
        *newest += 1;
        let mut publish = redis::cmd(command);
        publish
            .arg(&*channel)
            .arg(format!("{connection:x}:{newest}"));
        Some((
            Probe {
                connection,
                number: *newest,
            },
            publish,
        ))
    }

    /// Redis has taken it.
    pub(super) fn taken(&self, Probe { connection, number }: Probe) {
        if let Some(trips) = self.lock().trips.get_mut(&connection)
            // It may have come back before Redis' answer.
            && trips.back < number
        {
            trips.missing.get_or_insert((number, Instant::now()));
        }
    }

    /// A payload has come on the probes' channel. One that is no probe of ours proves nothing.
    pub(super) fn came(&self, payload: &str) {
        let Some((connection, number)) = payload.split_once(':') else {
            return;
        };
        if let (Ok(connection), Ok(number)) = (u64::from_str_radix(connection, 16), number.parse())
            && let Some(trips) = self.lock().trips.get_mut(&connection)
        {
            trips.back = trips.back.max(number);
            trips.missing.take_if(|(missing, _)| *missing <= number);
        }
    }

    /// The connection has ended: its last probe may never have arrived.
    pub(super) fn end(&self, connection: u64) {
        self.lock().trips.remove(&connection);
    }

    /// Whether a probe that Redis has taken has not come back in this time.
    pub(super) fn is_missing(&self, patience: Duration) -> bool {
        self.lock().trips.values().any(|trips| {
            trips
                .missing
                .is_some_and(|(_, since)| since.elapsed() > patience)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_was_taken_and_does_not_come_back_is_missing() {
        let trips = RoundTrips::default();
        assert!(trips.begin(7).is_none(), "nobody would receive it");
        trips.subscribed("PUBLISH", "p:probe".into());
        let (first, _) = trips.begin(7).expect("it is due");
        assert!(trips.begin(7).is_none(), "not again so soon");
        trips.came("7:1");
        trips.taken(first);
        tokio::time::advance(INTERVAL).await;
        assert!(
            !trips.is_missing(Duration::ZERO),
            "it came before its answer"
        );
        let (second, _) = trips.begin(7).expect("it is due");
        trips.taken(second);
        for wrong in ["7:1", "8:2", "7:x", "junk", "-7:2"] {
            trips.came(wrong);
        }
        tokio::time::advance(INTERVAL * 3).await;
        let (third, _) = trips.begin(7).expect("it is due");
        trips.taken(third);
        assert!(
            trips.is_missing(INTERVAL * 2) && !trips.is_missing(INTERVAL * 4),
            "since the first of them"
        );
        trips.came("7:3");
        assert!(
            !trips.is_missing(Duration::ZERO),
            "a later one shows that messages come"
        );
        trips.taken(trips.begin(8).expect("another connection").0);
        tokio::time::advance(INTERVAL).await;
        assert!(trips.is_missing(Duration::ZERO));
        trips.end(8);
        assert!(!trips.is_missing(Duration::ZERO));
    }
}
