//! Speakers: each says a message at a steady rate whatever happens, with a key of its own, and says
//! it again on every new connection until it is acknowledged; so what is acknowledged must be
//! there, and once.

use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::journal::{Journal, Line, Said, Speech};
use super::wire::{Addresses, Backoff, Wire, any};

/// How long a speaker waits before it says again what was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// What a speaker says.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Time between two messages.
    pub every: Duration,
    /// Bytes added to each message.
    pub padding: usize,
}

/// A speaker that runs.
pub struct Speaker {
    pub speech: Journal<Speech>,
    enough: CancellationToken,
    task: JoinHandle<()>,
}

impl Speaker {
    pub fn start(index: usize, manner: Manner, channel: &str, addresses: Addresses) -> Self {
        let (speech, enough) = (Journal::new(Speech::default()), CancellationToken::new());
        let mut ticks = interval(manner.every);
        // What was due while there was no connection is said afterwards, late.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let speaking = Speaking {
            index,
            speech: speech.clone(),
            ticks,
            enough: enough.clone(),
            padding: "x".repeat(manner.padding),
            refused: Vec::new(),
        };
        // It has no use for what itself says.
        let task = tokio::spawn(speaking.run(format!("{channel}?echo=false"), addresses));
        Self {
            speech,
            enough,
            task,
        }
    }

    /// No new messages; waits until all are acknowledged.
    pub async fn finish(self) -> Journal<Speech> {
        self.enough.cancel();
        self.task.await.unwrap();
        self.speech
    }
}

struct Speaking {
    index: usize,
    speech: Journal<Speech>,
    ticks: Interval,
    enough: CancellationToken,
    padding: String,
    /// To be said again soon.
    refused: Vec<usize>,
}

impl Speaking {
    async fn run(mut self, path: String, addresses: Addresses) {
        let mut backoff = Backoff::default();
        // The first connections are spread evenly.
        let mut address = {
            let addresses = addresses.lock();
            addresses[self.index % addresses.len()]
        };
        while !self.is_done() {
            if let Ok(wire) = Wire::open(address, &path).await
                && self.hold(wire, &mut backoff).await.is_ok()
            {
                return;
            }
            backoff.wait().await;
            address = any(&addresses);
        }
    }

    /// Speaks over one connection until all is said, or it breaks.
    async fn hold(&mut self, mut wire: Wire, backoff: &mut Backoff) -> anyhow::Result<()> {
        self.refused.clear();
        for number in self.unacknowledged() {
            self.say(&mut wire, number).await?;
        }
        let mut again = interval(REFUSED_PAUSE);
        let enough = self.enough.clone();
        while !self.is_done() {
            tokio::select! {
                said = wire.next() => self.hear(&said?, backoff)?,
                due = self.ticks.tick(), if !enough.is_cancelled() => {
                    let number = {
                        let mut speech = self.speech.lock();
                        speech.lines.push(Line { due, acknowledged: None });
                        speech.lines.len() - 1
                    };
                    self.say(&mut wire, number).await?;
                }
                _ = again.tick() => for number in std::mem::take(&mut self.refused) {
                    self.say(&mut wire, number).await?;
                },
                // Only to look again whether it is done.
                () = enough.cancelled(), if !enough.is_cancelled() => {}
            }
        }
        Ok(())
    }

    async fn say(&self, wire: &mut Wire, number: usize) -> anyhow::Result<()> {
        let said = Said {
            speaker: self.index,
            number,
        };
        let reference = number.to_string();
        wire.say(
            &json!({"data": format!("{said} {}", self.padding), "ref": reference, "key": format!("key of {said}")}),
        )
        .await
    }

    fn hear(&mut self, said: &Value, backoff: &mut Backoff) -> anyhow::Result<()> {
        let number = |name: &str| -> Option<usize> { said[name].as_str()?.parse().ok() };
        if let Some(number) = number("ack") {
            let id = said["id"].as_str().map(|id| id.parse().unwrap());
            let before = self.speech.lock().lines[number].acknowledged.replace(id);
            assert!(
                before.is_none_or(|before| before == id),
                "{number} is acknowledged as {before:?} and as {id:?}"
            );
        } else if said["error"].is_string() {
            self.refused
                .push(number("ref").unwrap_or_else(|| panic!("what was refused? {said}")));
            self.speech.lock().refused += 1;
        } else {
            match said["event"].as_str() {
                Some("drain") => backoff.ask(said["retry_ms"].as_u64().unwrap()),
                Some("welcome") => backoff.reset(),
                // It hears others, and what it missed of them is no loss to it.
                Some("gap") => {}
                None if said["data"].is_string() => {}
                _ => bail!("what is {said}?"),
            }
        }
        Ok(())
    }

    fn unacknowledged(&self) -> Vec<usize> {
        let speech = self.speech.lock();
        let open = speech
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.acknowledged.is_none());
        open.map(|(number, _)| number).collect()
    }

    fn is_done(&self) -> bool {
        self.enough.is_cancelled() && self.unacknowledged().is_empty()
    }
}
