//! What all tests share: nodes in this process, nodes as processes, clients, and a Redis in a
//! container.

pub mod browser;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod events;
pub mod fleet;
pub mod link;
pub mod module;
pub mod network;
pub mod node;
pub mod process;
pub mod program;
pub mod proxy;
pub mod pty;
pub mod redis;
pub mod screen;
pub mod v1;

use std::future::Future;
use std::time::Duration;

/// How long a test waits for what must happen. Long, because a busy machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a test waits until what it needs is there: servers that elect, share slots and copy
/// their data take longest where ten tests set such things up at once.
const SETUP_PATIENCE: Duration = Duration::from_secs(180);

/// Waits for something that must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(PATIENCE, what, future).await
}

async fn within<T>(patience: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(patience, future)
        .await
        .unwrap_or_else(|_| panic!("not within {patience:?}: {what}"))
}

/// Asks again until it is so.
pub async fn until<F: Future<Output = bool>>(what: &str, is_so: impl FnMut() -> F) {
    soon(what, asking(is_so)).await;
}

/// The same of what must be there before a test can begin.
pub async fn set_up<F: Future<Output = bool>>(what: &str, is_so: impl FnMut() -> F) {
    within(SETUP_PATIENCE, what, asking(is_so)).await;
}

async fn asking<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    while !is_so().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes a test of a function for each broker: `on_both_brokers!(name)` needs `async fn
/// name(cluster: Cluster)`, which gets two nodes that hear each other: with the embedded broker
/// both are the same one.
macro_rules! on_both_brokers {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::support::cluster::Cluster::embedded(&[]).await).await;
            })+
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::support::cluster::Cluster::redis(2, &[]).await).await;
            })+
        }
    };
}
pub(crate) use on_both_brokers;

/// The same, and once more with Redis as plain pub/sub: for what does not need history.
macro_rules! on_all_brokers {
    ($($name:ident),+ $(,)?) => {
        $crate::support::on_both_brokers!($($name),+);
        mod plain_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::support::cluster::Cluster::redis(2, &["--history", "0"]).await).await;
            })+
        }
    };
}
pub(crate) use on_all_brokers;
