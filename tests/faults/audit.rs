//! Compares what everybody heard with what was acknowledged: nothing missing unless the listener
//! was told so at that very place, nothing twice, one order for all, and told numbers that are
//! right. It judges journals only, whatever happened.

mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::journal::{Event, Hearing, Id, Line, Said};

/// How it went.
#[derive(Debug, Default)]
pub struct Verdict {
    pub acknowledged: usize,
    /// Acknowledged messages that a listener did not hear and was not told of, over all listeners.
    pub missing: usize,
    pub duplicated: usize,
    pub reordered: usize,
    /// Ids that two messages have.
    pub reused: usize,
    /// Acknowledged messages that a listener did not hear, but was told of.
    pub told: usize,
    /// Gaps whose number was wrong.
    pub misstated: usize,
    /// What exactly, for the first of each kind.
    pub complaints: Vec<String>,
}

/// A message's place in the one order: how many histories there were before its own, and its
/// offset.
type Place = (usize, u64);

/// Judges. `strictly`: each speaker's messages must come in the order it said them, too, which
/// nobody promises about messages that were refused and said again.
pub fn audit(speeches: &[&[Line]], hearings: &[&Hearing], strictly: bool) -> Verdict {
    let mut verdict = Verdict::default();
    let map = Map::draw(speeches, hearings, &mut verdict);
    let acknowledged: Vec<Said> = said(speeches)
        .filter(|(_, line)| line.acknowledged.is_some())
        .map(|it| it.0)
        .collect();
    verdict.acknowledged = acknowledged.len();
    for hearing in hearings {
        verdict.check_order(hearing, &map, strictly);
        verdict.check_gaps(hearing, &map);
        verdict.check_completeness(hearing, &map, &acknowledged);
    }
    verdict
}

/// All messages with what their speakers wrote down.
fn said<'a>(speeches: &'a [&[Line]]) -> impl Iterator<Item = (Said, &'a Line)> {
    speeches.iter().enumerate().flat_map(|(speaker, lines)| {
        lines
            .iter()
            .enumerate()
            .map(move |(number, line)| (Said { speaker, number }, line))
    })
}

impl Verdict {
    /// Whether what was acknowledged was heard by everybody, once and in order, or they were told
    /// rightly.
    pub fn is_clean(&self) -> bool {
        self.missing + self.duplicated + self.reordered + self.reused + self.misstated == 0
    }

    fn check_order(&mut self, hearing: &Hearing, map: &Map, strictly: bool) {
        let mut heard = HashSet::new();
        let mut last_place = None;
        let mut last_numbers = HashMap::new();
        for (said, place) in map.heard_places(hearing) {
            let place = place.filter(|_| !map.again.contains(&said));
            if !heard.insert(said) {
                self.duplicated += 1;
                self.complain(&hearing.name, format!("{said} is heard twice"));
                continue;
            }
            let earlier = strictly
                && last_numbers
                    .insert(said.speaker, said.number)
                    .is_some_and(|last| last > said.number);
            if earlier || place.is_some() && place < last_place {
                self.reordered += 1;
                self.complain(
                    &hearing.name,
                    format!("{said} at {place:?} comes behind {last_place:?}"),
                );
            }
            last_place = place.or(last_place);
        }
    }

    /// What a listener was told, against the offsets around it; and offsets left out without a
    /// word.
    fn check_gaps(&mut self, hearing: &Hearing, map: &Map) {
        let mut last: Option<Id> = None;
        let mut told = None;
        // How much of the end of an old history was missing shows only when its speakers are heard
        // again in the new one.
        let mut may_be_of_old = false;
        for event in &hearing.events {
            let id = match event {
                Event::Gap { missed } => {
                    told = Some(
                        told.unwrap_or(Some(0))
                            .zip(*missed)
                            .map(|(sum, more)| sum + more),
                    );
                    continue;
                }
                Event::Heard { id: Some(id), .. } => *id,
                // A plain listener is told nothing.
                Event::Heard { id: None, .. } => continue,
            };
            let told = told.take();
            let Some(last) = last.replace(id) else {
                continue;
            };
            if last.epoch != id.epoch {
                may_be_of_old = true;
                continue;
            }
            let between = (last.offset + 1)..id.offset;
            let missed = between.end.saturating_sub(between.start);
            match told {
                Some(Some(told)) if told < missed || told > missed && !may_be_of_old => {
                    self.misstated += 1;
                    self.complain(
                        &hearing.name,
                        format!("was told of {told} before {id:?}, missed {missed}"),
                    );
                }
                Some(_) => {}
                None => {
                    let unknown = between
                        .filter(|offset| {
                            !map.knows(Id {
                                offset: *offset,
                                ..id
                            })
                        })
                        .count();
                    if unknown > 0 {
                        self.missing += unknown;
                        self.complain(
                            &hearing.name,
                            format!("{unknown} that nobody knows before {id:?}"),
                        );
                    }
                }
            }
        }
    }

    fn check_completeness(&mut self, hearing: &Hearing, map: &Map, acknowledged: &[Said]) {
        let heard: HashSet<Said> = map.heard_places(hearing).map(|(said, _)| said).collect();
        let mut places = map.heard_places(hearing).filter_map(|(_, place)| place);
        let (first, last) = (places.next(), places.last());
        let gaps = map.gaps(hearing);
        for said in acknowledged.iter().filter(|said| !heard.contains(said)) {
            let place = map.places.get(said).copied();
            let before = !hearing.from_start && place < first.or(place);
            let behind = !hearing.to_end && place > last.or(first);
            if before || behind {
                continue;
            }
            if gaps
                .iter()
                .any(|(from, to)| *from < place && (place < *to || to.is_none()))
            {
                self.told += 1;
            } else {
                self.missing += 1;
                self.complain(&hearing.name, format!("{said} at {place:?} is missing"));
            }
        }
    }

    fn complain(&mut self, whose: &str, what: String) {
        if self.complaints.len() < 30 {
            self.complaints.push(format!("{whose}: {what}"));
        }
    }
}

/// Exactly what a run ends with.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            acknowledged,
            missing,
            duplicated,
            reordered,
            ..
        } = self;
        write!(
            f,
            "acknowledged {acknowledged}, missing {missing}, duplicated {duplicated}, reordered {reordered}"
        )
    }
}

/// Where everything is, by everything that names an id.
#[derive(Default)]
struct Map {
    /// Oldest first.
    epochs: Vec<u64>,
    places: HashMap<Said, Place>,
    owners: HashMap<Place, Said>,
    /// What is in two histories: published again because the old one was lost before its publisher
    /// got the answer. Who had heard the first must not hear the second, so its place is not the
    /// same for all.
    again: HashSet<Said>,
}

impl Map {
    /// One message under two ids of one history is there twice; one id for two messages is no
    /// order.
    fn draw(speeches: &[&[Line]], hearings: &[&Hearing], verdict: &mut Verdict) -> Self {
        let mut map = Self::default();
        for hearing in hearings {
            for event in &hearing.events {
                if let Event::Heard {
                    said, id: Some(id), ..
                } = event
                {
                    map.put(*said, *id, &hearing.name, verdict);
                }
            }
        }
        for (said, line) in said(speeches) {
            if let Some(Some(id)) = line.acknowledged {
                map.put(said, id, "its acknowledgement", verdict);
            }
        }
        map
    }

    fn put(&mut self, said: Said, id: Id, source: &str, verdict: &mut Verdict) {
        let rank = self.rank(id.epoch).unwrap_or_else(|| {
            self.epochs.push(id.epoch);
            self.epochs.len() - 1
        });
        let place = (rank, id.offset);
        if let Some(other) = self
            .owners
            .insert(place, said)
            .filter(|other| *other != said)
        {
            verdict.reused += 1;
            if verdict.reused == 1 {
                verdict.complain(source, format!("{said} is at {place:?}, where {other} was"));
            }
        }
        let Some(other) = self
            .places
            .insert(said, place)
            .filter(|other| *other != place)
        else {
            return;
        };
        if other.0 != place.0 {
            self.again.insert(said);
            return;
        }
        verdict.duplicated += 1;
        verdict.complain(
            source,
            format!("{said} is at {place:?}, and was at {other:?}"),
        );
    }

    fn knows(&self, id: Id) -> bool {
        self.rank(id.epoch)
            .is_some_and(|rank| self.owners.contains_key(&(rank, id.offset)))
    }

    fn rank(&self, epoch: u64) -> Option<usize> {
        self.epochs.iter().position(|known| *known == epoch)
    }

    /// What a listener heard, in the order it did.
    fn heard_places(&self, hearing: &Hearing) -> impl Iterator<Item = (Said, Option<Place>)> {
        hearing.events.iter().filter_map(|event| match event {
            Event::Heard { said, .. } => Some((*said, self.places.get(said).copied())),
            Event::Gap { .. } => None,
        })
    }

    /// The places around each gap that a listener was told of: `None` before everything, or behind
    /// it. Where a new history begins and nobody knows how much is missing, it may be anything of
    /// the old one.
    fn gaps(&self, hearing: &Hearing) -> Vec<(Option<Place>, Option<Place>)> {
        let mut gaps = Vec::new();
        let mut last = None;
        // Gaps behind which nothing has been heard yet, and whether their number is known.
        let mut open: Vec<(Option<Place>, bool)> = Vec::new();
        for event in &hearing.events {
            match event {
                Event::Gap { missed } => open.push((last, missed.is_some())),
                Event::Heard { said, id, .. } => {
                    // Where this listener heard it: others may have heard it in another history.
                    let here = id.and_then(|id| Some((self.rank(id.epoch)?, id.offset)));
                    let to = here.or_else(|| self.places.get(said).copied());
                    for (from, known) in open.drain(..) {
                        let epoch = |place: Option<Place>| place.map(|place| place.0);
                        let anything = !known && epoch(from) < epoch(to);
                        gaps.push((
                            if anything {
                                from.map(|from| (from.0, 0))
                            } else {
                                from
                            },
                            to,
                        ));
                    }
                    last = to;
                }
            }
        }
        gaps.extend(open.into_iter().map(|(from, _)| (from, None)));
        gaps
    }
}
