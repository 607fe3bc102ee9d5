//! How much one pipeline carries: as much as Redis and this node get done in a moment, so that a
//! message that comes while one is on its way waits about that long. A fixed number of bytes would
//! not do: compressed messages, many small channels and a busy machine make the same bytes take a
//! hundred times longer.

use std::time::Duration;

/// Time that a pipeline may take beyond the fastest one of its connection.
const MOMENT: Duration = Duration::from_millis(10);

/// Bytes of one pipeline at most, so that its answer comes long before patience ends.
const MOST: usize = 1024 * 1024;

/// The least of it: below this, round trips would cost more than they save.
const LEAST: usize = 64 * 1024;

/// Bytes of the first pipeline.
const FIRST: usize = 256 * 1024;

/// The pace of one connection.
#[derive(Debug)]
pub(super) struct Pace {
    bytes: usize,
    /// How long the fastest pipeline took: the way to Redis and back, which no size shortens.
    fastest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            bytes: FIRST,
            fastest: Duration::MAX,
        }
    }
}

impl Pace {
    /// Bytes that the next pipeline may carry; it may end with a batch that goes beyond them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Learns how long a pipeline of so many bytes took.
    pub(super) fn took(&mut self, bytes: usize, time: Duration) {
        self.fastest = self.fastest.min(time);
        let beyond = time - self.fastest;
        if beyond > MOMENT {
            self.bytes = (self.bytes / 2).max(LEAST);
        } else if beyond < MOMENT / 2 && bytes >= self.bytes {
            self.bytes = (self.bytes + self.bytes / 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(pace: &mut Pace, time: impl Fn(usize) -> Duration) -> usize {
        for _ in 0..100 {
            pace.took(pace.bytes(), time(pace.bytes()));
        }
        pace.bytes()
    }

    #[test]
    fn a_pipeline_carries_what_is_done_in_a_moment_however_far_redis_is() {
        for way in [0, 200] {
            let way = Duration::from_millis(way);
            let mut pace = Pace::default();
            pace.took(100, way);
            assert_eq!(
                settled(&mut pace, |bytes| way + Duration::from_nanos(bytes as u64)),
                MOST,
                "{way:?} away"
            );
            let slow = settled(&mut pace, |bytes| {
                way + Duration::from_nanos(50 * bytes as u64)
            });
            assert!(
                (LEAST + 1..=300 * 1024).contains(&slow),
                "{slow} bytes of 50 ns each, {way:?} away"
            );
            assert_eq!(
                settled(&mut pace, |bytes| way + Duration::from_micros(bytes as u64)),
                LEAST
            );
            assert_eq!(settled(&mut pace, |_| way), MOST, "it recovers");
        }
    }

    #[test]
    fn pipelines_that_were_not_full_prove_nothing_about_larger_ones() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.took(FIRST - 1, Duration::from_millis(1));
        }
        assert_eq!(pace.bytes(), FIRST);
    }
}
