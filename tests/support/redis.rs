//! A real Redis in a container of its own, which can be paused, killed and started again on the
//! same port.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use redis::AsyncCommands;
use testcontainers::core::{IntoContainerPort, Mount, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};

use super::{soon, until};

/// A running Redis. Dropping it removes its container.
pub struct Redis {
    container: ContainerAsync<GenericImage>,
    port: u16,
}

impl Redis {
    pub async fn start() -> Self {
        // In memory: what a Redis keeps is not what most tests are about, and disks of test
        // machines are slow.
        Self::run(|image| image.with_mount(Mount::tmpfs_mount("/data"))).await
    }

    /// One with these options of `redis-server`, whose data outlives [`Self::kill`] as far as they
    /// say.
    pub async fn start_with(options: &[&str]) -> Self {
        Self::run(|image| image.with_cmd(options.iter().copied())).await
    }

    /// One that containers in this network also reach, at the name this container has there: the
    /// network's name.
    pub async fn start_in(network: &str) -> Self {
        Self::run(|image| image.with_network(network).with_container_name(network)).await
    }

    /// Another server that speaks the same.
    pub async fn start_image(name: &str, tag: &str) -> Self {
        Self::run_image(name, tag, |image| {
            image.with_mount(Mount::tmpfs_mount("/data"))
        })
        .await
    }

    /// One with whatever the container needs.
    pub async fn run(
        options: impl FnOnce(ContainerRequest<GenericImage>) -> ContainerRequest<GenericImage>,
    ) -> Self {
        Self::run_image("redis", "8-alpine", options).await
    }

    async fn run_image(
        name: &str,
        tag: &str,
        options: impl FnOnce(ContainerRequest<GenericImage>) -> ContainerRequest<GenericImage>,
    ) -> Self {
        let port = free_port();
        let image = GenericImage::new(name, tag)
            .with_wait_for(WaitFor::message_on_stdout("Ready to accept connections"))
            .with_mapped_port(port, 6379.tcp())
            .with_startup_timeout(Duration::from_secs(120));
        Self {
            container: options(image).start().await.unwrap(),
            port,
        }
    }

    /// Where clients on this machine reach it.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection like any client's.
    pub async fn connect(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url())
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap()
    }

    /// A command without an interesting answer.
    pub async fn tell(&self, command: &[&str]) {
        redis::cmd(command[0])
            .arg(&command[1..])
            .exec_async(&mut self.connect().await)
            .await
            .unwrap();
    }

    /// Refuses writes beyond this much memory; `0` is no limit.
    pub async fn limit_memory(&self, limit: &str) {
        self.tell(&["CONFIG", "SET", "maxmemory", limit]).await;
    }

    /// `PUBLISH`; returns how many subscribers Redis gave it to.
    pub async fn publish(&self, channel: &str, payload: &[u8]) -> u64 {
        self.connect()
            .await
            .publish(channel, payload)
            .await
            .unwrap()
    }

    /// What is published to a pub/sub channel from now on.
    pub async fn subscribe(&self, channel: &str) -> Heard {
        let mut pubsub = redis::Client::open(self.url())
            .unwrap()
            .get_async_pubsub()
            .await
            .unwrap();
        pubsub.subscribe(channel).await.unwrap();
        Heard(pubsub)
    }

    /// How many subscriptions there are to a pub/sub channel.
    pub async fn subscribers(&self, channel: &str) -> u64 {
        let mut connection = self.connect().await;
        let answer: (String, u64) = redis::cmd("PUBSUB")
            .arg("NUMSUB")
            .arg(channel)
            .query_async(&mut connection)
            .await
            .unwrap();
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

    /// Starts it again after [`Self::kill`]; empty, unless it was started with options.
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

/// A subscription like any client's.
pub struct Heard(redis::aio::PubSub);

impl Heard {
    /// The next payload.
    pub async fn next(&mut self) -> Vec<u8> {
        let message = soon("a payload", async { self.0.on_message().next().await }).await;
        message.expect("redis goes on").get_payload().unwrap()
    }
}

/// A container that is started again would get another random port, so we choose one: below those
/// the kernel gives to outgoing connections, of which other tests make many, and at random, because
/// other tests choose, too.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..30_000);
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}
