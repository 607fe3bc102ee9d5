//! A group, its feed and readers that come, write as much as they can, fall behind, lag out and go,
//! in a random order that a seed decides; what they hear is held against what was said. What other
//! threads do at the same time mixes with it one lock after the other, as it would there:
//! everything they share is behind the feed's lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::task::Wake;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::window::FIRST;
use super::*;
use crate::feed::walk::Walk;
use crate::feed::window::ReaderState;
use crate::feed::{Cursor, FeedWriter, Lagged, Retention, Start, Taken};
use crate::message::{BatchBuilder, Format, Kind, Missed, Sequence};

/// The walk that follows an append.
const APPENDS: usize = 0;

/// The one that follows a confirmation.
const CONFIRMS: usize = 1;

/// Bytes of a message as a frame.
const FRAME: usize = 2 + size_of::<u64>();

#[derive(Debug, Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// A reader as a session is one.
struct Member {
    cursor: Cursor,
    bell: Arc<Bell>,
    /// Its socket takes nothing now.
    full: bool,
    /// How much of what was said it has heard or left out.
    heard: usize,
    /// The newest confirmation that it knows of.
    confirmed: Sequence,
}

/// A feed, one group, and what a shard does with them.
struct Shard {
    random: StdRng,
    writer: FeedWriter,
    feed: Arc<Feed>,
    group: Group,
    bell: Arc<Bell>,
    members: BTreeMap<usize, Member>,
    /// Who is still to be visited in this round.
    round: Option<Vec<usize>>,
    /// Sockets take everything.
    calm: bool,
    /// All batches, one after another.
    said: Vec<u8>,
    /// Where each batch begins there, and what it weighs.
    batches: Vec<(usize, usize)>,
    confirmed: Sequence,
    /// Of the broker's thread that appends, and of the one that confirms.
    walks: [Option<Walk>; 2],
}

impl Shard {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (messages, bytes) = (random.random_range(0..20), 500 << random.random_range(0..7));
        let retention = Retention {
            messages,
            bytes,
            history_bytes: usize::MAX,
            ttl: Duration::from_secs(60),
        };
        let (writer, feed) = FeedWriter::for_test(retention);
        let bell = Arc::<Bell>::default();
        let group = Group::new(&feed, bell.clone().into());
        let (members, said, batches, walks) = Default::default();
        Self {
            random,
            writer,
            feed,
            group,
            bell,
            members,
            round: None,
            calm: false,
            said,
            batches,
            confirmed: Sequence::default(),
            walks,
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..20 => self.append(),
            20..23 => {
                self.finish(APPENDS);
                self.pushed(|writer| writer.mark_gap(Missed::Unknown));
            }
            23..30 => self.confirm(),
            30..36 => {
                let walk = self.random.random_range(0..2);
                self.walk(walk);
            }
            36..40 if self.members.len() < 10 => self.join(),
            40..50 => {
                let some = self.random.random_range(0..10);
                self.members
                    .values_mut()
                    .nth(some)
                    .into_iter()
                    .for_each(Member::has_room);
            }
            50..53 if self.round.is_some() => self.take(),
            53..55 => self.bell.wake_by_ref(),
            _ => _ = self.turn(),
        }
    }

    fn append(&mut self) {
        let mut batch = BatchBuilder::default();
        for _ in 0..self.random.random_range(1..4) {
            batch.push(
                Kind::Binary,
                &(self.said.len() as u64 + batch.bytes() as u64).to_be_bytes(),
                0,
            );
        }
        let confirms = self
            .random
            .random_bool(0.3)
            .then_some(self.confirmed.next());
        self.confirmed = self.confirmed.max(confirms.unwrap_or_default());
        self.finish(APPENDS);
        self.pushed(|writer| _ = writer.add_next(batch.build(0), confirms));
        self.walks[APPENDS] = Some(Walk::begin(&mut self.feed.lock()));
    }

    fn confirm(&mut self) {
        self.finish(CONFIRMS);
        self.confirmed = self.confirmed.next();
        assert!(self.feed.lock().confirm(self.confirmed));
        self.walks[CONFIRMS] = Some(Walk::begin(&mut self.feed.lock()));
    }

    /// Does one step of a walk that is under way; returns whether there was one.
    fn walk(&mut self, walk: usize) -> bool {
        let Some(under_way) = &mut self.walks[walk] else {
            return false;
        };
        if under_way.step(&mut self.feed.lock()) {
            self.walks[walk] = None;
        }
        true
    }

    /// A thread does one thing after the other.
    fn finish(&mut self, walk: usize) {
        while self.walk(walk) {}
    }

    fn pushed(&mut self, push: impl FnOnce(&mut FeedWriter)) {
        push(&mut self.writer);
        let batch = self
            .feed
            .lock()
            .batches
            .back()
            .expect("it was pushed")
            .clone();
        self.batches.push((self.said.len(), batch.weight()));
        self.said.extend_from_slice(batch.raw());
    }

    fn join(&mut self) {
        let count = self.random.random_range(0..10);
        let cursor = match self.feed.find(Start::Last(count)) {
            Ok(found) => found.cursor,
            Err(_) => self.feed.follow(),
        };
        let begin = self
            .batches
            .get((cursor.position() - FIRST) as usize)
            .map_or(self.said.len(), |(begin, _)| *begin);
        let heard = begin + cursor.messages_behind() * FRAME;
        let bell = Arc::new(Bell(true.into()));
        let key = self.members.last_key_value().map_or(0, |(key, _)| key + 1);
        self.members.insert(
            key,
            Member {
                cursor,
                bell,
                full: false,
                heard,
                confirmed: Sequence::default(),
            },
        );
    }

    /// Does one thing of those that are due; returns whether there was one.
    fn turn(&mut self) -> bool {
        match &mut self.round {
            Some(round) => match round.pop() {
                Some(key) => self.visit(key),
                None => {
                    self.round = None;
                    if self.group.settle() {
                        self.bell.wake_by_ref();
                    }
                }
            },
            None if self.bell.0.swap(false, Relaxed) => {
                self.round = Some(
                    self.members
                        .iter()
                        .filter(|(_, one)| one.cursor.is_in_group())
                        .map(|(key, _)| *key)
                        .collect(),
                );
                self.group.begin();
            }
            None => {
                let due =
                    |(key, one): (&usize, &Member)| one.bell.0.swap(false, Relaxed).then_some(*key);
                let Some(key) = self.members.iter().find_map(due) else {
                    return false;
                };
                self.visit(key);
            }
        }
        true
    }

    fn take(&mut self) {
        self.group.take();
        assert!(
            self.group.first >= self.feed.lock().first,
            "it holds what the feed no longer does"
        );
    }

    /// What a session does when it is polled, with a client who skips when it lags.
    fn visit(&mut self, key: usize) {
        let Self {
            random,
            members,
            group,
            said,
            batches,
            ..
        } = self;
        let Some(member) = members.get_mut(&key) else {
            return;
        };
        if !self.calm && random.random_bool(0.02) {
            members.remove(&key);
            return;
        }
        let Member {
            cursor,
            bell,
            full,
            heard,
            confirmed,
        } = member;
        let waker = bell.clone().into();
        let mut idle = false;
        for _ in 0..random.random_range(1..4) {
            let mut own = Taken::new();
            let taken =
                match cursor.unread(group.batches()) {
                    Some(unread) => unread,
                    None => match cursor.take_or_join_group(&waker, &mut own) {
                        Ok(()) => &own[..],
                        Err(Lagged) => {
                            let behind = &batches[(cursor.position() - FIRST) as usize..];
                            let weight: usize = behind.iter().map(|(_, weight)| weight).sum();
                            assert!(
                                weight > self.feed.retention.bytes,
                                "nothing was pushed out before its time"
                            );
                            if let Some((batch, end)) = cursor.unfinished_item(Format::RAW) {
                                assert!(said[*heard..].starts_with(
                                    &batch.raw()[cursor.sent(&batch, Format::RAW)..end]
                                ));
                            }
                            cursor.skip_to_newest();
                            *heard = batches[batches.len() - 1].0;
                            continue;
                        }
                    },
                };
            idle = taken.is_empty() || *full;
            if idle {
                break;
            }
            let sent = cursor.sent(&taken[0], Format::RAW);
            let bytes: Vec<u8> = taken
                .iter()
                .flat_map(|batch| &batch.raw()[..])
                .skip(sent)
                .copied()
                .collect();
            *full = !self.calm && random.random_bool(0.3);
            let written = if *full {
                random.random_range(0..=bytes.len())
            } else {
                bytes.len()
            };
            assert!(
                said[*heard..].starts_with(&bytes[..written]),
                "all of it in order, once"
            );
            *heard += written;
            let (mut index, mut at) = (0, sent + written);
            while let Some(batch) = taken.get(index).filter(|batch| at >= batch.raw().len()) {
                at -= batch.raw().len();
                index += 1;
            }
            cursor.advance(taken, Format::RAW, index, at);
        }
        if !idle {
            bell.wake_by_ref();
        }
        if cursor.is_in_group() && cursor.position() < group.batches().end() {
            cursor.leave_group(&waker);
        }
        if cursor.confirmed(self.confirmed).is_some() {
            *confirmed = self.confirmed;
        }
    }

    /// Everybody comes to rest.
    fn calm_down(&mut self) {
        self.calm = true;
        self.finish(APPENDS);
        self.finish(CONFIRMS);
        self.members.values_mut().for_each(Member::has_room);
        let turns = (0..100_000).take_while(|_| self.turn()).count();
        assert!(turns < 100_000, "it never comes to rest");
        for member in self.members.values() {
            assert!(member.cursor.is_in_group());
            assert_eq!(
                (member.heard, member.confirmed),
                (self.said.len(), self.confirmed)
            );
        }
        let window = self.feed.lock();
        let states: Vec<_> = window
            .readers
            .iter()
            .map(|(_, reader)| reader.state)
            .collect();
        assert_eq!(
            (states, window.woken, self.group.batches.len()),
            (vec![ReaderState::Waiting], 0, 0)
        );
        self.calm = false;
    }
}

impl Member {
    /// Its socket takes more again.
    fn has_room(&mut self) {
        if std::mem::take(&mut self.full) {
            self.bell.wake_by_ref();
        }
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "it is shown if that seed fails")]
fn whatever_happens_everybody_hears_everything_once_or_is_told_and_nothing_is_kept_for_nobody() {
    for seed in 0..500 {
        println!("seed {seed}");
        let mut shard = Shard::new(seed);
        for _ in 0..20 {
            (0..shard.random.random_range(0..100)).for_each(|_| shard.step());
            shard.calm_down();
        }
        for _ in 0..4 {
            shard.append();
            shard.calm_down();
        }
        let window = shard.feed.lock();
        let kept: usize = window.batches.iter().skip(3).map(|batch| batch.len()).sum();
        assert!(kept <= shard.feed.retention.messages, "{kept}");
    }
}
