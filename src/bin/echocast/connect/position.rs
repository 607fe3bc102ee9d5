//! A client's position in a channel: which messages it has received. With it, the next connection
//! begins behind them, and repetitions are dropped.

use std::collections::VecDeque;

use super::v1::Id;

/// Most own messages that are remembered beyond the position.
const MAX_OWN: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Position {
    /// Messages after this one are still to be received. `None` until something is known, or if the
    /// server keeps no history.
    newest: Option<Id>,
    /// Whether `newest` was received. If a welcome named it, older messages that were asked for may
    /// still follow.
    received: bool,
    /// Our own acknowledged messages beyond `newest`, if the server leaves them out: a replay on a
    /// later connection would contain them.
    own: VecDeque<Id>,
}

impl Position {
    pub(super) fn newest(&self) -> Option<&Id> {
        self.newest.as_ref()
    }

    /// The welcome of a connection names the newest message, which counts if nothing is known yet.
    pub(super) fn begin_at(&mut self, newest: Option<Id>) {
        self.newest = self.newest.take().or(newest);
    }

    /// An own message is published, and will not be received.
    pub(super) fn skip(&mut self, own: Id) {
        self.own.push_back(own);
        self.advance();
        // Only reached on a channel where nobody else publishes, behind a gap.
        self.own.truncate(MAX_OWN);
    }

    /// Whether a message is received for the first time. If so, it is the newest one now.
    pub(super) fn receive(&mut self, id: &Id) -> bool {
        if self.is_repeated(id) {
            return false;
        }
        // A replay contains own messages that an earlier connection left out.
        let is_own = self.own.contains(id);
        self.move_to(id);
        !is_own
    }

    fn move_to(&mut self, id: &Id) {
        // Own messages before this one are behind us.
        self.own.retain(|own| own != id && id.is_at_or_before(own));
        self.newest = Some(id.clone());
        self.received = true;
        self.advance();
    }

    fn is_repeated(&self, id: &Id) -> bool {
        let newest = self.newest.as_ref().filter(|_| self.received);
        newest.is_some_and(|newest| id.is_at_or_before(newest))
    }

    /// Moves over own messages that follow without a gap: they need not be received.
    fn advance(&mut self) {
        while let Some(index) = self.next_own() {
            self.newest = self.own.remove(index);
        }
    }

    /// The own message that follows without a gap.
    fn next_own(&self) -> Option<usize> {
        let newest = self.newest.as_ref()?;
        self.own.iter().position(|own| own.is_next_after(newest))
    }
}
