//! A play: speakers on all nodes and listeners of all kinds, before, during and after a fault; and
//! how it went.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::audit::{Verdict, audit};
use super::journal::{Event, Hearing, Journal, Line, Said, Speech};
use super::listener;
use super::speaker::{Manner, Speaker};
use super::wire::Addresses;
use crate::support::until;

const CHANNEL: &str = "/chaos";
const SPEAKERS: usize = 4;
const RESUMING: usize = 3;

/// How most speakers speak.
pub const STEADY: Manner = Manner {
    every: Duration::from_millis(20),
    padding: 0,
};

/// How long it may take after a fault until everything is acknowledged, and then until it is heard
/// everywhere.
const PATIENCE: Duration = Duration::from_secs(60);

/// Steady times around a fault.
const STEADY_TIME: Duration = Duration::from_secs(1);

/// A play that is on.
pub struct Play {
    speakers: Vec<Speaker>,
    hearings: Vec<Journal<Hearing>>,
    listening: JoinSet<()>,
}

/// How it went.
pub struct Outcome {
    pub speeches: Vec<Speech>,
    /// Three by `echocast.v1`, one by server-sent events; the first of them began on the first node
    /// and so on.
    pub resuming: Vec<Hearing>,
    /// In the order of their nodes.
    pub plain: Vec<Hearing>,
    /// When the fault was.
    pub fault: Range<Instant>,
}

impl Play {
    /// A play in the [`STEADY`] manner through this fault, whose outcome is printed under a name.
    pub async fn steady(
        addresses: &Addresses,
        name: &str,
        fault: impl Future<Output = ()>,
    ) -> Outcome {
        let play = Self::begin(addresses, STEADY).await;
        let outcome = play.through(fault).await;
        outcome.print(name);
        outcome
    }

    /// Everybody takes their places, and then the speakers begin.
    pub async fn begin(addresses: &Addresses, manner: Manner) -> Self {
        let mut play = Self {
            speakers: Vec::new(),
            hearings: Vec::new(),
            listening: JoinSet::new(),
        };
        let nodes = addresses.lock().clone();
        for index in 0..=RESUMING {
            let kind = if index < RESUMING { "v1" } else { "sse" };
            let hearing = play.hearing(format!("{kind} {index}"), true);
            let (node, channel, addresses) = (
                nodes[index % nodes.len()],
                CHANNEL.to_owned(),
                addresses.clone(),
            );
            if index < RESUMING {
                play.listening
                    .spawn(listener::resuming(hearing, node, channel, addresses));
            } else {
                play.listening
                    .spawn(listener::events(hearing, node, channel, addresses));
            }
        }
        for node in &nodes {
            play.add_plain(*node, true);
        }
        until("everybody listens", async || {
            play.hearings.iter().all(|it| it.lock().connections > 0)
        })
        .await;
        for index in 0..SPEAKERS {
            play.speakers
                .push(Speaker::start(index, manner, CHANNEL, addresses.clone()));
        }
        play
    }

    /// A plain listener of this node comes late.
    pub async fn join(&mut self, node: SocketAddr) {
        let hearing = self.add_plain(node, false);
        until("it listens", async || hearing.lock().connections > 0).await;
    }

    fn add_plain(&mut self, node: SocketAddr, from_start: bool) -> Journal<Hearing> {
        let hearing = self.hearing(
            format!("plain {}", self.hearings.len() - RESUMING - 1),
            from_start,
        );
        self.listening
            .spawn(listener::plain(hearing.clone(), node, CHANNEL.to_owned()));
        hearing
    }

    fn hearing(&mut self, name: String, from_start: bool) -> Journal<Hearing> {
        let hearing = Journal::new(Hearing::new(name, from_start));
        self.hearings.push(hearing.clone());
        hearing
    }

    /// Steady, the fault, steady again, and to the end.
    pub async fn through(self, fault: impl Future<Output = ()>) -> Outcome {
        sleep(STEADY_TIME).await;
        let from = Instant::now();
        fault.await;
        let to = Instant::now();
        sleep(STEADY_TIME).await;
        self.end(from..to).await
    }

    /// Ends when everything is acknowledged and heard, as far as it will be.
    pub async fn end(mut self, fault: Range<Instant>) -> Outcome {
        let speeches: Vec<_> = self
            .speakers
            .iter()
            .map(|speaker| speaker.speech.clone())
            .collect();
        let finished = timeout(PATIENCE, async {
            for speaker in self.speakers.drain(..) {
                speaker.finish().await;
            }
        });
        assert!(
            finished.await.is_ok(),
            "not acknowledged {PATIENCE:?} after the end: {:?}",
            open(&speeches)
        );
        let last: Vec<Said> = speeches
            .iter()
            .enumerate()
            .map(|it| last(it.0, &it.1.lock()))
            .collect();
        let everything = async {
            while !self
                .hearings
                .iter()
                .all(|hearing| has_heard(&hearing.lock(), &last))
            {
                sleep(Duration::from_millis(20)).await;
            }
        };
        // If it does not come to that, the audit says what is missing.
        let _ = timeout(PATIENCE, everything).await;
        while let Some(ended) = self.listening.try_join_next() {
            ended.expect("no listener heard nonsense");
        }
        self.listening.shutdown().await;
        let mut resuming: Vec<Hearing> =
            self.hearings.iter().map(|hearing| hearing.take()).collect();
        let plain = resuming.split_off(RESUMING + 1);
        Outcome {
            speeches: speeches.iter().map(Journal::take).collect(),
            resuming,
            plain,
            fault,
        }
    }
}

/// How much of each speech is not acknowledged.
fn open(speeches: &[Journal<Speech>]) -> Vec<usize> {
    let open = |line: &&Line| line.acknowledged.is_none();
    speeches
        .iter()
        .map(|speech| speech.lock().lines.iter().filter(open).count())
        .collect()
}

fn last(speaker: usize, speech: &Speech) -> Said {
    Said {
        speaker,
        number: speech.lines.len() - 1,
    }
}

/// Whether somebody who is still there has heard all of these.
fn has_heard(hearing: &Hearing, all: &[Said]) -> bool {
    let heard = |it: &Said| {
        hearing
            .events
            .iter()
            .rev()
            .any(|event| matches!(event, Event::Heard { said, .. } if said == it))
    };
    !hearing.to_end || all.iter().all(heard)
}

impl Outcome {
    /// The verdict on listeners that resume, or on all.
    pub fn audit(&self, with_plain: bool) -> Verdict {
        let speeches: Vec<&[Line]> = self.speeches.iter().map(|speech| &*speech.lines).collect();
        let hearings: Vec<&Hearing> = self
            .resuming
            .iter()
            .chain(self.plain.iter().filter(|_| with_plain))
            .collect();
        audit(&speeches, &hearings, self.refused() == 0)
    }

    /// Asserts that everybody heard everything, and that so many plain listeners lost their
    /// connection.
    pub fn nothing_is_lost(&self, disconnected: usize) {
        let verdict = self.audit(true);
        assert!(
            verdict.is_clean() && verdict.told == 0,
            "{verdict}: {:#?}",
            verdict.complaints
        );
        let nameless = self
            .speeches
            .iter()
            .flat_map(|it| &it.lines)
            .filter(|line| line.acknowledged == Some(None))
            .count();
        assert!(
            verdict.acknowledged > 0 && nameless == 0,
            "{nameless} were acknowledged without an id"
        );
        assert_eq!(
            self.plain.iter().filter(|it| !it.to_end).count(),
            disconnected,
            "plain listeners disconnected"
        );
        let gaps = self
            .resuming
            .iter()
            .map(|hearing| hearing.gaps().len())
            .sum::<usize>();
        assert_eq!(gaps, 0, "nobody was told of a gap");
    }

    /// How often speakers were told that something was not published.
    pub fn refused(&self) -> usize {
        self.speeches.iter().map(|speech| speech.refused).sum()
    }

    /// How many acknowledged messages a listener did not hear.
    pub fn missed(&self, hearing: &Hearing) -> usize {
        let acknowledged = |(speaker, speech): (usize, &Speech)| {
            let lines = speech
                .lines
                .iter()
                .enumerate()
                .filter(|(_, line)| line.acknowledged.is_some());
            lines
                .map(|(number, _)| Said { speaker, number })
                .collect::<Vec<_>>()
        };
        let heard: std::collections::HashSet<Said> =
            hearing.heard().map(|(said, _)| said).collect();
        self.speeches
            .iter()
            .enumerate()
            .flat_map(acknowledged)
            .filter(|said| !heard.contains(said))
            .count()
    }

    /// How late these listeners heard what was due during the fault.
    pub fn lateness<'a>(&self, hearings: impl IntoIterator<Item = &'a Hearing>) -> Lateness {
        let mut late: Vec<Duration> = Vec::new();
        for hearing in hearings {
            for (Said { speaker, number }, at) in hearing.heard() {
                let due = self.speeches[speaker].lines[number].due;
                if self.fault.contains(&due) {
                    late.push(at - due);
                }
            }
        }
        late.sort();
        assert!(!late.is_empty(), "something was heard");
        Lateness {
            p50: late[late.len() / 2],
            p99: late[late.len() * 99 / 100],
            max: late[late.len() - 1],
        }
    }

    /// The same of those that came back and resumed by `echocast.v1`, and of all.
    pub fn late(&self) -> [Lateness; 2] {
        [
            self.lateness(&self.resuming[..RESUMING]),
            self.lateness(self.resuming.iter().chain(&self.plain)),
        ]
    }

    /// Prints a row of a table: what happened, how long, the verdict, what was told, how late
    /// messages were.
    #[expect(
        clippy::print_stdout,
        reason = "shown by `cargo test -- --show-output`, and copied into tests/README.md"
    )]
    pub fn print(&self, fault: &str) {
        let verdict = self.audit(true);
        let [careful, all] = self.late();
        let seconds = (self.fault.end - self.fault.start).as_secs_f32();
        let reconnects = self
            .resuming
            .iter()
            .map(|hearing| hearing.connections - 1)
            .sum::<usize>();
        println!(
            "| {fault} | {seconds:.1} s | {verdict}, told {} | v1: {careful} | all: {all} | {reconnects} reconnects |",
            verdict.told
        );
    }
}

/// How late half, 99 % and all of some messages were at most.
#[derive(Clone, Copy, Debug)]
pub struct Lateness {
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50, self.p99, self.max].map(|late| late.as_millis());
        write!(f, "p50 {p50} ms, p99 {p99} ms, max {max} ms")
    }
}
