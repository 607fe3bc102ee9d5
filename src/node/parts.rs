//! The parts of a node: tasks that last as long as it does, each under a name. One that ends early
//! has panicked, and a node without it must not look alive.

use std::collections::HashMap;
use std::future::Future;

use anyhow::anyhow;
use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};
use tracing::error;

/// Tasks that are watched. Dropping it ends them.
#[derive(Debug, Default)]
pub(super) struct Parts {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

/// The end of a part.
pub(super) type Ended = oneshot::Receiver<()>;

impl Parts {
    /// Begins a part.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = ()> + Send + 'static,
    ) -> Ended {
        let (end, ended) = oneshot::channel();
        let task = self.tasks.spawn(async move {
            // Dropped when the part returns and when it panics.
            let _end: oneshot::Sender<()> = end;
            part.await;
        });
        self.names.insert(task.id(), name);
        ended
    }

    /// Waits until one of them has ended although the node still serves.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        let Some(result) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, error) = match result {
            Ok((id, ())) => (id, anyhow!("it ended")),
            Err(error) => (error.id(), anyhow::Error::new(error)),
        };
        let name = self.names.get(&id).copied().unwrap_or_default();
        error!("{name}: {error}");
        error.context(format!("the {name} failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_or_ends_is_told_by_its_name() {
        let mut parts = Parts::default();
        let _going = parts.spawn("keepalive", std::future::pending());
        let panicked = parts.spawn("sweep", async { panic!("on purpose") });
        let failed = format!("{:#}", parts.failed().await);
        assert!(
            failed.starts_with("the sweep failed: ") && failed.contains("on purpose"),
            "{failed}"
        );
        assert!(panicked.await.is_err(), "and nobody waits for it");
        let _ended = parts.spawn("public port", async {});
        assert_eq!(
            format!("{:#}", parts.failed().await),
            "the public port failed: it ended"
        );
    }
}
