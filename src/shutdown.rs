//! Stopping: the signals, and what sessions and connections are told and waited for by. The order
//! is the node's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What everything that can be stopped holds a clone of.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Listeners close, HTTP connections end after their current answer, and new clients are
    /// refused.
    pub listeners: CancellationToken,
    /// The broker empties the inbox and leaves.
    pub broker: CancellationToken,
    /// The ops port closes.
    pub ops: CancellationToken,
    /// All sessions, and connections that may become sessions.
    pub sessions: TaskTracker,
    draining: Arc<AtomicBool>,
}

impl Shutdown {
    /// `/readyz` fails from now on, so that balancers send no new clients.
    pub fn begin(&self) {
        self.draining.store(true, Release);
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.draining.load(Acquire)
    }
}

/// Ends with the first SIGTERM or SIGINT. The second one ends the process at once, with the code
/// shells give a signal.
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

/// Waits for one of them; returns the exit code that shells give it.
async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> i32 {
    tokio::select! {
        _ = terminate.recv() => 143,
        _ = interrupt.recv() => 130,
    }
}
