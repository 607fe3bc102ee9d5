//! A real Redis in a container of its own, which can be paused, killed and started again on the same port.

use std::time::Duration;

use redis::AsyncCommands;
use testcontainers::core::{IntoContainerPort, Mount, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

use super::until;

/// A running Redis. Dropping it removes its container.
pub struct Redis {
    container: ContainerAsync<GenericImage>,
    port: u16,
}

impl Redis {
    pub async fn start() -> Self {
        let port = free_port();
        let container = GenericImage::new("redis", "8-alpine")
            .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
            .with_mapped_port(port, 6379.tcp())
            // In memory: what a Redis keeps is not what these tests are about, and disks of test machines are slow.
            .with_mount(Mount::tmpfs_mount("/data"))
            .with_startup_timeout(Duration::from_secs(120))
            .start()
            .await
            .unwrap();
        Self { container, port }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection like any client's.
    pub async fn connect(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// `PUBLISH`; returns how many subscribers Redis gave it to.
    pub async fn publish(&self, channel: &str, payload: &[u8]) -> u64 {
        self.connect().await.publish(channel, payload).await.unwrap()
    }

    /// How many subscriptions there are to a pub/sub channel.
    pub async fn subscribers(&self, channel: &str) -> u64 {
        let mut connection = self.connect().await;
        let answer: (String, u64) =
            redis::cmd("PUBSUB").arg("NUMSUB").arg(channel).query_async(&mut connection).await.unwrap();
        answer.1
    }

    /// Stops its processes where they are: sockets stay open and nothing answers.
    pub async fn pause(&self) {
        self.container.pause().await.unwrap();
    }

    pub async fn unpause(&self) {
        self.container.unpause().await.unwrap();
    }

    /// Ends it at once.
    pub async fn kill(&self) {
        self.container.stop_with_timeout(Some(0)).await.unwrap();
    }

    /// Starts it again after [`Self::kill`], empty.
    pub async fn restart(&self) {
        self.container.start().await.unwrap();
        until("redis answers again", async || {
            let client = redis::Client::open(self.url()).unwrap();
            match client.get_multiplexed_async_connection().await {
                Ok(mut connection) => redis::cmd("PING").exec_async(&mut connection).await.is_ok(),
                Err(_) => false,
            }
        })
        .await;
    }
}

/// A container that is started again would get another random port, so we choose one: below those the kernel gives to
/// outgoing connections, of which other tests make many, and at random, because other tests choose, too.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..30_000);
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}
