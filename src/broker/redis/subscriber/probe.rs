//! Proof that a subscriber receives, every second.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::time::{Instant, timeout};

use super::super::fitness;
use super::super::receiver::Receiver;
use super::Subscriber;

/// A probe that takes longer means that the link is down.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);

/// Probes after which channels are asked for again that were forbidden: somebody may have changed
/// what the user may do.
const FORBIDDEN_PROBES: u64 = 5;

impl Subscriber<'_> {
    /// Sends a probe and waits until it comes back over the subscription; returns when it was sent.
    pub(super) async fn probe(&mut self) -> anyhow::Result<Instant> {
        // 1. Send it, and wait.
        self.probes += 1;
        let sent = Instant::now();
        let round_trip = async {
            self.send_probe().await?;
            self.pushes.wait_for_probe(self.probes).await;
            anyhow::Ok(())
        };
        tokio::select! {
            done = timeout(PROBE_PATIENCE, round_trip) => done.context("a probe did not come back")??,
            () = self.pushes.disconnected.notified() => bail!("connection lost"),
        }
        let seconds = sent.elapsed().as_secs_f64();
        self.link.metrics.broker_roundtrip.observe(seconds);
        // 2. Check that the server can still be the broker, and that it is the one to which others'
        // connections lead.
        fitness::check_again(self.redis, &self.server, &self.pushes.probe).await?;
        ensure!(
            !self.server.round_trips.is_missing(PROBE_PATIENCE),
            "what is published is not received: this address leads to another server than before"
        );
        Ok(sent)
    }

    /// Publishes a probe. Over another connection, which is the one that reads histories: on the
    /// subscription's own, an unsolicited unsubscription could be taken for the answer.
    async fn send_probe(&self) -> anyhow::Result<()> {
        let mut connection = self.server.connection().await?;
        let mut publish = redis::cmd(self.redis.publish_command());
        publish.arg(&self.pushes.probe).arg(self.probes);
        if publish.exec_async(&mut connection).await.is_err() {
            // The end of that connection alone does not keep this node from receiving.
            self.server.forget_connection().await;
            connection = self.server.connection().await?;
            publish
                .exec_async(&mut connection)
                .await
                .context("sending a probe")?;
        }
        Ok(())
    }

    /// Subscribes again to what was refused, if it is still among `wanted`: the server may only have
    /// been the last to know that it has the channel.
    pub(super) async fn try_refused_again(
        &mut self,
        mut wanted: Vec<Arc<Receiver>>,
    ) -> anyhow::Result<()> {
        if self.probes.is_multiple_of(FORBIDDEN_PROBES) {
            self.refused.append(&mut self.forbidden);
        }
        if self.refused.is_empty() {
            return Ok(());
        }
        let refused = std::mem::take(&mut self.refused);
        let address = |receiver: &Arc<Receiver>| Arc::as_ptr(receiver).addr();
        let addresses: HashSet<usize> = refused.iter().map(address).collect();
        wanted.retain(|receiver| addresses.contains(&address(receiver)));
        self.subscribe(&wanted).await
    }
}
