//! Supervision of a node's tasks: each lasts as long as the node serves, under a name. One that
//! ends early has panicked, and a node without it must not look alive.

use std::collections::HashMap;
use std::future::Future;
use std::panic::resume_unwind;

use anyhow::anyhow;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinSet};
use tracing::error;

/// The tasks of a node. Dropping it aborts them.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

/// One of the tasks.
#[derive(Debug)]
pub(super) struct Task {
    /// Nothing is sent: the sender is dropped with the task.
    ended: oneshot::Receiver<()>,
    abort: AbortHandle,
}

impl Task {
    /// Waits until it has ended or panicked. Cancellation-safe.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }

    pub(super) fn abort(&self) {
        self.abort.abort();
    }
}

impl Supervisor {
    /// Begins a task.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Task {
        let (end, ended) = oneshot::channel();
        let abort = self.tasks.spawn(async move {
            // Dropped when the task returns, panics or is aborted.
            let _end: oneshot::Sender<()> = end;
            task.await;
        });
        self.names.insert(abort.id(), name);
        Task { ended, abort }
    }

    /// Supervises tasks that were begun elsewhere, as one task of this name.
    pub(super) fn adopt<T: 'static + Send>(&mut self, name: &'static str, tasks: JoinSet<T>) {
        self.spawn(name, first_end(tasks));
    }

    /// Waits until a task has ended although the node still serves. Cancellation-safe.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        let Some(result) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, error) = match result {
            Ok((id, ())) => (id, anyhow!("it ended")),
            Err(error) => (error.id(), anyhow::Error::new(error)),
        };
        let name = self.name(id);
        error!("{name}: {error}");
        error.context(format!("the {name} failed"))
    }

    /// Logs tasks that panicked after the node began to drain, when nobody waits for a failure any
    /// more.
    pub(super) fn log_panics(&mut self) {
        while let Some(result) = self.tasks.try_join_next() {
            if let Err(error) = result
                && error.is_panic()
            {
                error!("{}: {error}", self.name(error.id()));
            }
        }
    }

    fn name(&self, id: Id) -> &'static str {
        self.names.get(&id).copied().unwrap_or_default()
    }
}

/// Ends or panics as the first of these tasks does, and then drops the others.
async fn first_end<T: 'static>(mut tasks: JoinSet<T>) {
    if let Some(Err(error)) = tasks.join_next().await
        && let Ok(panic) = error.try_into_panic()
    {
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_reported_by_its_name() {
        let mut supervisor = Supervisor::default();
        let _running = supervisor.spawn("keepalive", std::future::pending());
        let mut panicked = supervisor.spawn("sweep", async { panic!("on purpose") });
        let failed = format!("{:#}", supervisor.failed().await);
        assert!(
            failed.starts_with("the sweep failed: ") && failed.contains("on purpose"),
            "{failed}"
        );
        // It ends for whoever waits for it, too.
        panicked.ended().await;
        let _ended = supervisor.spawn("public port", async {});
        assert_eq!(
            format!("{:#}", supervisor.failed().await),
            "the public port failed: it ended"
        );
    }

    #[tokio::test]
    async fn one_of_many_adopted_tasks_that_panics_is_reported_by_their_name() {
        let mut supervisor = Supervisor::default();
        let mut shards: JoinSet<()> = JoinSet::new();
        shards.spawn(std::future::pending());
        shards.spawn(async { panic!("on purpose") });
        supervisor.adopt("sessions", shards);
        let failed = format!("{:#}", supervisor.failed().await);
        assert!(
            failed.starts_with("the sessions failed: ") && failed.contains("on purpose"),
            "{failed}"
        );
    }
}
