//! One server as a node knows it: how to connect to it, whether it is heard, and the connection for
//! what is neither subscribing nor publishing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

use anyhow::Context;
use deadpool_redis::{Manager, Pool};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionInfo};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::round_trips::RoundTrips;
use super::{ANSWER_PATIENCE, CONNECT_PATIENCE};
use crate::redis_address::tls::RedisTls;

/// One server, for as long as it owns anything.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) info: ConnectionInfo,
    tls: Arc<RedisTls>,
    /// Where it is, for maps of servers and for people.
    pub(super) name: String,
    /// Whether this node hears what is published there.
    pub(super) up: watch::Sender<bool>,
    /// It owns nothing any more.
    pub(super) gone: CancellationToken,
    /// Whether what is published there comes back.
    pub(super) round_trips: Arc<RoundTrips>,
    /// How many subscriptions there have been.
    subscriptions: AtomicU64,
    /// It refused to publish, for a reason that may hold for all channels.
    suspect: AtomicBool,
    /// For everything but subscriptions, publishing and pages.
    connection: Shared,
    /// For pages of histories, behind which nothing else is to wait.
    page_connection: Shared,
}

/// The connection for pages among those that send probes; the others draw their numbers at random.
const PAGES: u64 = 0;

/// A connection that is made when it is needed. As old as the subscription of this number: what
/// ended that one may have ended this, too, and nobody was told.
type Shared = Mutex<Option<(u64, MultiplexedConnection)>>;

impl Server {
    pub(super) fn new(info: ConnectionInfo, tls: Arc<RedisTls>) -> Self {
        Self {
            name: info.addr().to_string(),
            info,
            tls,
            up: watch::Sender::new(false),
            gone: CancellationToken::new(),
            round_trips: Arc::default(),
            subscriptions: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
            connection: Mutex::new(None),
            page_connection: Mutex::new(None),
        }
    }

    /// There is a new subscription.
    pub(super) fn begin_subscription(&self) {
        self.subscriptions.fetch_add(1, AcqRel);
    }

    /// The number of the newest subscription. A connection that is older may lead to another
    /// server.
    pub(super) fn subscription(&self) -> u64 {
        self.subscriptions.load(Acquire)
    }

    /// A connection of its own for somebody, as this configures it.
    pub(super) async fn connect(
        &self,
        config: &AsyncConnectionConfig,
    ) -> anyhow::Result<MultiplexedConnection> {
        connect(&self.info, &self.tls, config).await
    }

    /// Connections that publish. They are made with the files for TLS as these are now.
    pub(super) fn pool(&self, most: usize) -> anyhow::Result<Pool> {
        let client = self.tls.client(self.info.clone())?;
        let manager = Manager::new_with_config(client.get_connection_info().clone(), config())?;
        Ok(Pool::builder(manager).max_size(most).build()?)
    }

    /// It refused to publish: whether it can do that at all is to be checked.
    pub(super) fn suspect(&self) {
        self.suspect.store(true, Release);
    }

    /// Whether it is to be checked; the caller does so.
    pub(super) fn take_suspicion(&self) -> bool {
        self.suspect.swap(false, AcqRel)
    }

    /// The connection for everything else.
    pub(super) async fn connection(&self) -> anyhow::Result<MultiplexedConnection> {
        self.shared(&self.connection).await
    }

    /// It failed: the next one tries another, because this one may be dead for good.
    pub(super) async fn forget_connection(&self) {
        *self.connection.lock().await = None;
    }

    /// The connection for pages of histories.
    pub(super) async fn page_connection(&self) -> anyhow::Result<MultiplexedConnection> {
        let mut connection = self.shared(&self.page_connection).await?;
        if let Some((probe, publish)) = self.round_trips.begin(PAGES)
            // Otherwise reading will fail, too.
            && publish.exec_async(&mut connection).await.is_ok()
        {
            self.round_trips.taken(probe);
        }
        Ok(connection)
    }

    /// The same of that.
    pub(super) async fn forget_page_connection(&self) {
        *self.page_connection.lock().await = None;
        self.round_trips.end(PAGES);
    }

    async fn shared(&self, shared: &Shared) -> anyhow::Result<MultiplexedConnection> {
        let mut connection = shared.lock().await;
        let subscriptions = self.subscription();
        if let Some((_, connection)) = connection.as_ref().filter(|it| it.0 == subscriptions) {
            return Ok(connection.clone());
        }
        let made = self.connect(&config()).await?;
        Ok(connection.insert((subscriptions, made)).1.clone())
    }
}

/// How connections are made.
pub(super) fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_PATIENCE))
        .set_response_timeout(Some(ANSWER_PATIENCE))
}

pub(super) async fn connect(
    info: &ConnectionInfo,
    tls: &RedisTls,
    config: &AsyncConnectionConfig,
) -> anyhow::Result<MultiplexedConnection> {
    let client = tls.client(info.clone())?;
    client
        .get_multiplexed_async_connection_with_config(config)
        .await
        .context("connecting")
}
