//! Making room in the memory budget: histories of channels without clients go first, then the
//! largest feeds get shorter windows. Nobody is asked: what a reader still needed there is reported
//! to it as missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{BrokerAway, CHANNEL_BYTES, Channel, Hub, lock};
use crate::budget::Part;
use crate::metrics::Shed;

/// Time until it is tried again after feeds had nothing to give: other parts of the budget are the
/// large ones.
const FUTILE_PAUSE: Duration = Duration::from_millis(100);

/// How long a client that resumes waits for memory before it is sent away to come back.
const PAGE_ROOM_PATIENCE: Duration = Duration::from_secs(10);

impl Hub {
    /// Makes room if the memory budget is short. Cheap if it is not: to be called after anything
    /// that takes memory, without locks. It frees an eighth of the limit at once, so that looking
    /// at all channels is paid for by what is freed.
    pub fn make_room(&self) {
        if !self.budget.is_short() {
            return;
        }
        // One at a time: another thread is making room already.
        let Ok(mut futile) = self.futile.try_lock() else {
            return;
        };
        if futile.is_some_and(|at| at.elapsed() < FUTILE_PAUSE) {
            return;
        }
        // Other parts of the budget may be the large ones: feeds keep an eighth of the limit
        // whatever those take, and give back no more than half of what they hold at once.
        let feeds = self.budget.part(Part::Feeds);
        if feeds <= self.budget.limit() / 8 {
            *futile = Some(Instant::now());
            return;
        }
        let wanted = self.budget.excess().min(feeds / 2);
        let idle = self.empty_idle_channels(wanted);
        self.metrics.shed(Shed::Idle, idle);
        let shortened = self.shorten_largest(wanted.saturating_sub(idle));
        self.metrics.shed(Shed::Feeds, shortened);
        if self.budget.is_short() {
            self.remove_idle_channels(self.budget.excess());
        }
        *futile = self.budget.is_short().then(Instant::now);
    }

    /// Waits until pages that others are being sent leave room for another one.
    pub(super) async fn room_for_page(&self) -> Result<(), BrokerAway> {
        let crowded = || self.budget.is_crowded(Part::Pages) || !self.budget.has_room();
        let end = Instant::now() + PAGE_ROOM_PATIENCE;
        while crowded() {
            if Instant::now() >= end {
                return Err(BrokerAway);
            }
            tokio::time::sleep(FUTILE_PAUSE).await;
            self.make_room();
        }
        Ok(())
    }

    /// Empties the feeds of channels without clients, those first that would go first. The channels
    /// stay, so that a client that resumes learns exactly how much is missing.
    fn empty_idle_channels(&self, wanted: usize) -> usize {
        let idle: Vec<Arc<Channel>> = {
            let channels = lock(&self.channels);
            let names = channels.idle.values();
            names
                .filter_map(|name| channels.by_name.get(name))
                .map(|entry| entry.channel.clone())
                .collect()
        };
        let mut freed = 0;
        for channel in idle {
            if freed >= wanted {
                break;
            }
            freed += channel.shorten(0);
        }
        freed
    }

    /// Shortens the largest feeds to one length, such that they give back what is wanted.
    fn shorten_largest(&self, wanted: usize) -> usize {
        if wanted == 0 {
            return 0;
        }
        let channels: Vec<Arc<Channel>> = lock(&self.channels)
            .by_name
            .values()
            .map(|entry| entry.channel.clone())
            .collect();
        let mut sized: Vec<(usize, Arc<Channel>)> = channels
            .into_iter()
            .map(|channel| (channel.feed.bytes(), channel))
            .collect();
        sized.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let upto = common_length(sized.iter().map(|(bytes, _)| *bytes), wanted);
        let mut freed = 0;
        // Whole batches go, so that it may be enough before all are as short.
        for (_, channel) in sized.iter().take_while(|(bytes, _)| *bytes > upto) {
            if freed >= wanted {
                break;
            }
            freed += channel.shorten(upto);
        }
        freed
    }

    /// Removes channels without clients: each costs something even if it is empty. They are freed
    /// when the broker has let go of them, too.
    fn remove_idle_channels(&self, wanted: usize) {
        let mut channels = lock(&self.channels);
        let mut freed = 0;
        while freed < wanted && self.let_one_go(&mut channels) {
            freed += CHANNEL_BYTES;
        }
    }
}

/// The length to which feeds have to be shortened to give back `wanted` bytes together. `sizes` are
/// largest first.
fn common_length(sizes: impl Iterator<Item = usize>, wanted: usize) -> usize {
    let (mut sum, mut count) = (0, 0);
    for size in sizes {
        // Down to this size, those before it would give back so much.
        if sum - count * size >= wanted {
            break;
        }
        (sum, count) = (sum + size, count + 1);
    }
    sum.saturating_sub(wanted).checked_div(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::common_length;

    #[test]
    fn the_largest_give_back_until_it_is_enough() {
        let length = |sizes: &[usize], wanted| common_length(sizes.iter().copied(), wanted);
        assert_eq!(length(&[10, 4, 1], 3), 7);
        assert_eq!(length(&[10, 4, 1], 6), 4);
        assert_eq!(length(&[10, 4, 1], 8), 3);
        assert_eq!(length(&[10, 4, 1], 15), 0);
        assert_eq!(length(&[10, 4, 1], 100), 0);
        assert_eq!(length(&[], 5), 0);
    }
}
