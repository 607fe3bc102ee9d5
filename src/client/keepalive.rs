//! Keepalive: one timer for all sessions of a kind. Sessions are registered in slots. The timer
//! visits one slot after another, so that pings, and at the end the closes of a drain, are spread
//! evenly over time. A visit only wakes the sessions: each compares its slot's count of visits with
//! what it has seen and decides itself what is due.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Enough that one slot's sessions are a small burst: 400 of 100,000.
const SLOTS: usize = 256;

/// The shortest time between two steps. Where slots are due faster, one step visits several.
const LEAST_STEP: Duration = Duration::from_millis(5);

/// Visits sessions in turn.
#[derive(Debug)]
pub(crate) struct Keepalive {
    slots: Box<[Slot]>,
    /// Registrations made so far: spreads new sessions over the slots.
    registered: AtomicU32,
    /// How many slots, from the first, must leave because the node drains.
    draining: AtomicUsize,
    /// Every session must end now.
    cut_off: AtomicBool,
    schedule: PingSchedule,
}

/// When a session pings, counted in visits of its slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PingSchedule {
    /// Time between two visits of a slot.
    pub period: Duration,
    /// Visits from one ping to the next, at least two. For the first one see
    /// [`Self::before_first_ping`].
    pub ping_visits: u16,
    /// Visits after a ping without an answer that make a client dead.
    pub dead_visits: u16,
}

#[derive(Debug, Default)]
struct Slot {
    visits: AtomicU32,
    wakers: Mutex<Slab<Waker>>,
}

/// A session's place in a slot; given back when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    keepalive: Arc<Keepalive>,
    slot: u16,
    key: u32,
    /// The slot's count of visits when the session looked last.
    seen: u32,
}

impl PingSchedule {
    /// Visits as seldom as both times allow, but at least two between pings. The first ping comes
    /// after half the interval at the earliest, so that short connections get none, and after all
    /// of it at the latest.
    pub(crate) fn new(ping_interval: Duration, ping_timeout: Duration) -> Self {
        let ping_visits = (ping_interval.as_secs_f64() / ping_timeout.as_secs_f64())
            .floor()
            .clamp(2.0, 1000.0);
        let period = ping_interval.div_f64(ping_visits);
        // Rounded up, because a client must not be dead earlier than asked. The subtraction
        // absorbs the error of the division where the times divide evenly.
        let dead_visits = (ping_timeout.as_secs_f64() / period.as_secs_f64() - 1e-6)
            .ceil()
            .clamp(1.0, 60_000.0);
        Self {
            period,
            ping_visits: ping_visits as u16,
            dead_visits: dead_visits as u16,
        }
    }

    /// The visits since its last ping that a new session begins with. Random, so that sessions
    /// that began together are not pinged together.
    pub(crate) fn before_first_ping(&self) -> u16 {
        // The first visit comes after up to a period.
        let first = rand::random_range(self.ping_visits.div_ceil(2) + 1..=self.ping_visits);
        self.ping_visits - first
    }
}

impl Keepalive {
    /// Without sessions.
    pub(crate) fn new(schedule: PingSchedule) -> Arc<Self> {
        let slots = (0..SLOTS).map(|_| Slot::default()).collect();
        Arc::new(Self {
            slots,
            registered: AtomicU32::new(0),
            draining: AtomicUsize::new(0),
            cut_off: AtomicBool::new(false),
            schedule,
        })
    }

    /// When a session pings.
    pub(crate) fn schedule(&self) -> PingSchedule {
        self.schedule
    }

    /// Registers a session in one of the slots.
    pub(crate) fn join(self: &Arc<Self>, waker: &Waker) -> Registration {
        let number = self.registered.fetch_add(1, Relaxed);
        // Multiplying by the golden ratio puts consecutive sessions into distant slots.
        let slot = (number.wrapping_mul(0x9E37_79B1) >> 24) as u16 % SLOTS as u16;
        let entry = &self.slots[usize::from(slot)];
        // The count is read first: a visit between these two lines is seen at the next one, and not
        // lost.
        let seen = entry.visits.load(Relaxed);
        let key = entry.lock().insert(waker.clone()) as u32;
        Registration {
            keepalive: self.clone(),
            slot,
            key,
            seen,
        }
    }

    /// Visits the slots in turn. Never returns.
    pub(crate) async fn run(&self) {
        let mut next = 0;
        each_step(self.schedule.period, |due| {
            // After a stall no slot is visited twice in a row.
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

    /// Makes all sessions leave, spread evenly over `period`. Returns when the last have been woken
    /// for it.
    pub(crate) async fn drain(&self, period: Duration) {
        each_step(period, |due| {
            let upto = due.min(SLOTS);
            // Before the wakes, so that a session that wakes sees that it must leave.
            let from = self.draining.swap(upto, Release);
            self.slots[from..upto].iter().for_each(Slot::wake);
            upto == SLOTS
        })
        .await;
    }

    /// Ends all sessions at once.
    pub(crate) fn cut_off(&self) {
        self.cut_off.store(true, Release);
        self.slots.iter().for_each(Slot::wake);
    }
}

/// Calls `step` repeatedly with the number of slots due since the start, [`SLOTS`] each period,
/// until it returns true.
async fn each_step(period: Duration, mut step: impl FnMut(usize) -> bool) {
    let start = Instant::now();
    let mut steps = interval((period / SLOTS as u32).max(LEAST_STEP));
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Computed from the start, so that late ticks do not add up.
        let elapsed = steps.tick().await.duration_since(start).as_secs_f64();
        // Without a period all of them are due at once.
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

impl Registration {
    /// How many visits there were since the last call.
    pub(crate) fn visits(&mut self) -> u32 {
        let now = self.keepalive.slots[usize::from(self.slot)]
            .visits
            .load(Relaxed);
        now.wrapping_sub(std::mem::replace(&mut self.seen, now))
    }

    /// Whether this session must end at once.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.keepalive.cut_off.load(Acquire)
    }

    /// Whether this session must leave because the node drains.
    pub(crate) fn must_leave(&self) -> bool {
        self.keepalive.draining.load(Acquire) > usize::from(self.slot)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.keepalive.slots[usize::from(self.slot)]
            .lock()
            .remove(self.key as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_are_as_rare_as_both_times_allow() {
        let schedule = |interval, timeout| {
            let PingSchedule {
                period,
                ping_visits,
                dead_visits,
            } = PingSchedule::new(Duration::from_secs(interval), Duration::from_secs(timeout));
            (period.as_secs_f64(), ping_visits, dead_visits)
        };
        assert_eq!(schedule(20, 20), (10.0, 2, 2));
        assert_eq!(schedule(20, 5), (5.0, 4, 1));
        assert_eq!(schedule(5, 20), (2.5, 2, 8));
        assert_eq!(schedule(20, 7), (10.0, 2, 1));
        assert_eq!(schedule(20, 29), (10.0, 2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_ping_comes_after_half_the_interval_to_all_of_it() {
        for (interval, timeout) in [(600, 20), (20, 20), (60, 20), (20, 7), (5, 20)] {
            let schedule =
                PingSchedule::new(Duration::from_secs(interval), Duration::from_secs(timeout));
            let keepalive = Keepalive::new(schedule);
            let running = tokio::spawn({
                let keepalive = keepalive.clone();
                async move { keepalive.run().await }
            });
            for _ in 0..10 {
                tokio::time::sleep(schedule.period.mul_f64(1.37)).await;
                let (mut registration, mut visits) =
                    (keepalive.join(Waker::noop()), schedule.before_first_ping());
                let begun = Instant::now();
                while visits < schedule.ping_visits {
                    tokio::time::sleep(schedule.period / 50).await;
                    visits += registration.visits().min(1) as u16;
                }
                let share = begun.elapsed().as_secs_f64() / interval as f64;
                assert!(
                    (0.49..1.03).contains(&share),
                    "after {share} of {interval} s, timeout {timeout} s"
                );
            }
            running.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_sessions_leave_evenly_spread_over_the_period() {
        let keepalive = Keepalive::new(PingSchedule::new(
            Duration::from_secs(20),
            Duration::from_secs(20),
        ));
        let registrations: Vec<Registration> =
            (0..16).map(|_| keepalive.join(Waker::noop())).collect();
        let leaving = tokio::spawn({
            let keepalive = keepalive.clone();
            async move { keepalive.drain(Duration::from_secs(8)).await }
        });
        for second in 1..8 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let gone = registrations
                .iter()
                .filter(|registration| registration.must_leave())
                .count();
            assert!(
                gone.abs_diff(second * 2) <= 2,
                "{gone} of 16 after {second} of 8 seconds"
            );
        }
        leaving.await.expect("no panic");
        assert!(registrations.iter().all(Registration::must_leave));
    }
}
