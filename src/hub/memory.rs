//! Making room in the memory budget: first the histories of channels without clients go, then the
//! largest feeds get shorter. Readers that still needed the dropped messages get a gap.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{BrokerAway, CHANNEL_BYTES, Channel, Hub, lock};
use crate::budget::Part;
use crate::metrics::Shed;

/// Time until the next try after feeds had nothing to give: other parts of the budget are large.
const FUTILE_PAUSE: Duration = Duration::from_millis(100);

/// How long a client that resumes waits for memory before it is rejected and may come back.
const PAGE_ROOM_PATIENCE: Duration = Duration::from_secs(10);

impl Hub {
    /// Makes room if the memory budget is short. Cheap if it is not, so call it after taking
    /// memory, without any lock. It frees an eighth of the limit at once, which pays for looking at
    /// all channels.
    pub(crate) fn make_room(&self) {
        if !self.budget.is_short() {
            return;
        }
        // One thread at a time: another one is making room already.
        let Ok(mut futile) = self.futile.try_lock() else {
            return;
        };
        if futile.is_some_and(|at| at.elapsed() < FUTILE_PAUSE) {
            return;
        }
        self.shed();
        *futile = self.budget.is_short().then(Instant::now);
    }

    fn shed(&self) {
        // Feeds may be small because other parts of the budget are large. They keep an eighth of
        // the limit in any case, and give back no more than half of their bytes at once.
        let feeds = self.budget.part(Part::Feeds);
        if feeds <= self.budget.limit() / 8 {
            return;
        }
        let wanted = self.budget.excess().min(feeds / 2);
        // 1. Histories that no client reads.
        let idle = self.empty_idle_channels(wanted);
        self.metrics.shed(Shed::Idle, idle);
        // 2. The oldest parts of the largest feeds.
        let shortened = self.shorten_largest(wanted.saturating_sub(idle));
        self.metrics.shed(Shed::Feeds, shortened);
        // 3. Idle channels as a whole: each costs something even if it is empty.
        if self.budget.is_short() {
            self.remove_idle_channels(self.budget.excess());
        }
    }

    /// Waits until pages that other clients are reading leave room for another one.
    pub(super) async fn room_for_page(&self) -> Result<(), BrokerAway> {
        let end = Instant::now() + PAGE_ROOM_PATIENCE;
        while self.budget.is_crowded(Part::Pages) || !self.budget.has_room() {
            if Instant::now() >= end {
                return Err(BrokerAway);
            }
            tokio::time::sleep(FUTILE_PAUSE).await;
            self.make_room();
        }
        Ok(())
    }

    /// Empties the feeds of channels without clients, the longest idle first. The channels stay, so
    /// that a client that resumes learns exactly how many messages are missing.
    fn empty_idle_channels(&self, wanted: usize) -> usize {
        let mut freed = 0;
        for channel in self.idle_channels() {
            if freed >= wanted {
                break;
            }
            freed += channel.shorten(0);
        }
        freed
    }

    fn idle_channels(&self) -> Vec<Arc<Channel>> {
        let channels = lock(&self.channels);
        let names = channels.idle.values();
        let entries = names.filter_map(|name| channels.by_name.get(name));
        entries.map(|entry| entry.channel.clone()).collect()
    }

    /// Shortens the largest feeds to one size, so that they free the wanted bytes together.
    fn shorten_largest(&self, wanted: usize) -> usize {
        if wanted == 0 {
            return 0;
        }
        // Outside the lock of the channels, because each size takes the lock of a feed.
        let sized = self
            .every_channel()
            .into_iter()
            .map(|channel| (channel.feed.bytes(), channel));
        let mut sized: Vec<(usize, Arc<Channel>)> = sized.collect();
        sized.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
        let size = common_size(sized.iter().map(|(bytes, _)| *bytes), wanted);
        let mut freed = 0;
        for (_, channel) in sized.iter().take_while(|(bytes, _)| *bytes > size) {
            // Whole batches are dropped, so fewer feeds than computed may be enough.
            if freed >= wanted {
                break;
            }
            freed += channel.shorten(size);
        }
        freed
    }

    /// Removes channels without clients. Their memory is free once the broker has dropped them,
    /// too.
    fn remove_idle_channels(&self, wanted: usize) {
        let mut channels = lock(&self.channels);
        let mut freed = 0;
        while freed < wanted && self.let_one_go(&mut channels) {
            freed += CHANNEL_BYTES;
        }
    }
}

/// The size to which the largest feeds have to be shortened to free `wanted` bytes together. `sizes`
/// are largest first.
fn common_size(sizes: impl Iterator<Item = usize>, wanted: usize) -> usize {
    let (mut sum, mut count) = (0, 0);
    for size in sizes {
        // Shortened to this size, the feeds before it free that much.
        if sum - count * size >= wanted {
            break;
        }
        (sum, count) = (sum + size, count + 1);
    }
    sum.saturating_sub(wanted).checked_div(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::common_size;

    #[test]
    fn the_largest_give_back_until_it_is_enough() {
        let size = |sizes: &[usize], wanted| common_size(sizes.iter().copied(), wanted);
        assert_eq!(size(&[10, 4, 1], 3), 7);
        assert_eq!(size(&[10, 4, 1], 6), 4);
        assert_eq!(size(&[10, 4, 1], 8), 3);
        assert_eq!(size(&[10, 4, 1], 15), 0);
        assert_eq!(size(&[10, 4, 1], 100), 0);
        assert_eq!(size(&[], 5), 0);
    }
}
