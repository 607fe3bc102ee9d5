//! The pulse: one timer for all sessions of a node. Sessions sit in slots; the slots are visited
//! one after another, so that pings, and at the end the closes of a drain, are spread evenly
//! instead of coming all at once. A visit only wakes: what is due a session finds out itself by
//! looking at its slot's count.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Enough that one slot's sessions are a small burst: 400 of 100,000.
const SLOTS: usize = 256;

/// Steps are not shorter than this; several slots are visited in one step if they must be.
const LEAST_STEP: Duration = Duration::from_millis(5);

/// Visits sessions in turn.
#[derive(Debug)]
pub struct Pulse {
    slots: Box<[Slot]>,
    /// Seats given so far: spreads newcomers over the slots.
    given: AtomicU32,
    /// How many slots have been told to leave.
    leaving: AtomicUsize,
    cut_off: AtomicBool,
    rhythm: Rhythm,
}

/// How pings follow from visits.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Time between two visits of a slot.
    pub period: Duration,
    /// A ping goes out every this many visits, at least two; for the first one see
    /// [`Self::before_first_ping`].
    pub ping_visits: u16,
    /// A client silent for this many visits after a ping is dead.
    pub dead_visits: u16,
}

#[derive(Debug, Default)]
struct Slot {
    visits: AtomicU32,
    wakers: Mutex<Slab<Waker>>,
}

/// A session's place in the pulse; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    pulse: Arc<Pulse>,
    slot: u16,
    key: u32,
    seen: u32,
}

impl Rhythm {
    /// Visits as seldom as both times allow, but twice between pings: the first ping comes after
    /// half the interval to all of it, so that short connections see none and clients that wait for
    /// one do not wait longer than told.
    pub fn new(ping_interval: Duration, ping_timeout: Duration) -> Self {
        let ping_visits = (ping_interval.as_secs_f64() / ping_timeout.as_secs_f64())
            .floor()
            .clamp(2.0, 1000.0);
        let period = ping_interval.div_f64(ping_visits);
        // Never earlier than asked; the subtraction keeps what divides evenly from being rounded
        // up.
        let dead_visits = (ping_timeout.as_secs_f64() / period.as_secs_f64() - 1e-6)
            .ceil()
            .clamp(1.0, 60_000.0);
        Self {
            period,
            ping_visits: ping_visits as u16,
            dead_visits: dead_visits as u16,
        }
    }

    /// A newcomer's count of visits since its last ping, as if there had been one. At random, so
    /// that those who came together are not pinged together.
    pub fn before_first_ping(&self) -> u16 {
        // The first visit comes after up to a period.
        let first = rand::random_range(self.ping_visits.div_ceil(2) + 1..=self.ping_visits);
        self.ping_visits - first
    }
}

impl Pulse {
    /// A pulse with nobody in it.
    pub fn new(rhythm: Rhythm) -> Arc<Self> {
        let slots = (0..SLOTS).map(|_| Slot::default()).collect();
        Arc::new(Self {
            slots,
            given: AtomicU32::new(0),
            leaving: AtomicUsize::new(0),
            cut_off: AtomicBool::new(false),
            rhythm,
        })
    }

    /// How pings follow from visits.
    pub fn rhythm(&self) -> Rhythm {
        self.rhythm
    }

    /// Sits a session down.
    pub fn join(self: &Arc<Self>, waker: &Waker) -> Seat {
        // Multiplying by the golden ratio puts any run of newcomers far from one another.
        let slot = (self.given.fetch_add(1, Relaxed).wrapping_mul(0x9E37_79B1) >> 24) as u16
            % SLOTS as u16;
        let entry = &self.slots[usize::from(slot)];
        let seen = entry.visits.load(Relaxed);
        let key = entry.lock().insert(waker.clone()) as u32;
        Seat {
            pulse: self.clone(),
            slot,
            key,
            seen,
        }
    }

    /// Visits the slots in turn, for ever.
    pub async fn beat(&self) {
        let mut next = 0;
        each_step(self.rhythm.period, |due| {
            // After a stall nobody is visited twice in a row.
            next = next.max(due.saturating_sub(SLOTS));
            while next < due {
                let slot = &self.slots[next % SLOTS];
                slot.visits.fetch_add(1, Relaxed);
                slot.wake();
                next += 1;
            }
            false
        })
        .await;
    }

    /// Tells all sessions to leave, spread evenly over `period`; returns when the last have been
    /// told.
    pub async fn send_away(&self, period: Duration) {
        each_step(period, |due| {
            let upto = due.min(SLOTS);
            let from = self.leaving.swap(upto, Release);
            self.slots[from..upto].iter().for_each(Slot::wake);
            upto == SLOTS
        })
        .await;
    }

    /// Ends all sessions where they are.
    pub fn cut_off(&self) {
        self.cut_off.store(true, Release);
        self.slots.iter().for_each(Slot::wake);
    }
}

/// Calls `step` now and then with the number of slots that are due, `SLOTS` each period, until it
/// returns true.
async fn each_step(period: Duration, mut step: impl FnMut(usize) -> bool) {
    let start = Instant::now();
    let mut steps = interval((period / SLOTS as u32).max(LEAST_STEP));
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let elapsed = steps.tick().await.duration_since(start).as_secs_f64();
        // A period of nothing makes all of them due at once.
        let due = if period.is_zero() {
            SLOTS
        } else {
            (elapsed / period.as_secs_f64() * SLOTS as f64) as usize
        };
        if step(due) {
            return;
        }
    }
}

impl Slot {
    fn wake(&self) {
        self.lock()
            .iter()
            .for_each(|(_, waker)| waker.wake_by_ref());
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// How many visits there were since the last call.
    pub fn visits(&mut self) -> u32 {
        let now = self.pulse.slots[usize::from(self.slot)]
            .visits
            .load(Relaxed);
        now.wrapping_sub(std::mem::replace(&mut self.seen, now))
    }

    /// Whether this session's time is over.
    pub fn is_cut_off(&self) -> bool {
        self.pulse.cut_off.load(Acquire)
    }

    /// Whether this session has been told to leave.
    pub fn is_sent_away(&self) -> bool {
        self.pulse.leaving.load(Acquire) > usize::from(self.slot)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pulse.slots[usize::from(self.slot)]
            .lock()
            .remove(self.key as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_are_as_rare_as_both_times_allow() {
        let rhythm = |interval, timeout| {
            let Rhythm {
                period,
                ping_visits,
                dead_visits,
            } = Rhythm::new(Duration::from_secs(interval), Duration::from_secs(timeout));
            (period.as_secs_f64(), ping_visits, dead_visits)
        };
        assert_eq!(rhythm(20, 20), (10.0, 2, 2));
        assert_eq!(rhythm(20, 5), (5.0, 4, 1));
        assert_eq!(rhythm(5, 20), (2.5, 2, 8));
        assert_eq!(rhythm(20, 7), (10.0, 2, 1));
        assert_eq!(rhythm(20, 29), (10.0, 2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_ping_comes_after_half_the_interval_to_all_of_it() {
        for (interval, timeout) in [(600, 20), (20, 20), (60, 20), (20, 7), (5, 20)] {
            let rhythm = Rhythm::new(Duration::from_secs(interval), Duration::from_secs(timeout));
            let pulse = Pulse::new(rhythm);
            let beating = tokio::spawn({
                let pulse = pulse.clone();
                async move { pulse.beat().await }
            });
            for _ in 0..10 {
                tokio::time::sleep(rhythm.period.mul_f64(1.37)).await;
                let (mut seat, mut visits) =
                    (pulse.join(Waker::noop()), rhythm.before_first_ping());
                let begun = Instant::now();
                while visits < rhythm.ping_visits {
                    tokio::time::sleep(rhythm.period / 50).await;
                    visits += seat.visits().min(1) as u16;
                }
                let share = begun.elapsed().as_secs_f64() / interval as f64;
                assert!(
                    (0.49..1.03).contains(&share),
                    "after {share} of {interval} s, timeout {timeout} s"
                );
            }
            beating.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_leave_evenly_spread_over_the_period() {
        let pulse = Pulse::new(Rhythm::new(
            Duration::from_secs(20),
            Duration::from_secs(20),
        ));
        let seats: Vec<Seat> = (0..16).map(|_| pulse.join(Waker::noop())).collect();
        let leaving = tokio::spawn({
            let pulse = pulse.clone();
            async move { pulse.send_away(Duration::from_secs(8)).await }
        });
        for second in 1..8 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let gone = seats.iter().filter(|seat| seat.is_sent_away()).count();
            assert!(
                gone.abs_diff(second * 2) <= 2,
                "{gone} of 16 after {second} of 8 seconds"
            );
        }
        leaving.await.expect("no panic");
        assert!(seats.iter().all(Seat::is_sent_away));
    }
}
