//! Stopping: the signals, and the handles by which a node stops its tasks and waits for them. The
//! order is the node's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The handles of one node. Every task that can be stopped has a clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shutdown {
    /// Once cancelled, listeners close, HTTP connections end after their current answer, and new
    /// clients are rejected.
    pub listeners: CancellationToken,
    /// Once cancelled, the broker publishes the rest of the inbox and ends.
    pub broker: CancellationToken,
    /// Once cancelled, the ops port closes.
    pub ops: CancellationToken,
    /// All sessions, and connections that may become sessions.
    pub sessions: TaskTracker,
    /// Set once the stop signal came.
    draining: Arc<AtomicBool>,
}

impl Shutdown {
    /// `/readyz` fails from now on, so that balancers send no new clients.
    pub(crate) fn begin(&self) {
        self.draining.store(true, Release);
    }

    /// Whether the node drains.
    pub(crate) fn has_begun(&self) -> bool {
        self.draining.load(Acquire)
    }
}

/// Ends with the first SIGTERM or SIGINT. The second one ends the process at once, with the exit
/// code that shells use for a signal.
///
/// # Errors
/// If the signals cannot be listened for.
pub fn on_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("stopping; a second signal ends at once");
        tokio::spawn(
            async move { std::process::exit(either(&mut terminate, &mut interrupt).await) },
        );
    })
}

/// Waits for one of them. Returns the exit code that shells use for it.
async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> i32 {
    tokio::select! {
        _ = terminate.recv() => 143,
        _ = interrupt.recv() => 130,
    }
}
