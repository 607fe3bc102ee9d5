//! A real network cut: one node runs in a container that is taken out of Redis' network and put
//! back.

use std::net::SocketAddr;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{NetworkConnectRequest, NetworkDisconnectRequest};
use bollard::query_parameters::InspectContainerOptions;
use testcontainers::core::WaitFor;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::time::sleep;

use super::play::Play;
use super::stage::{FLAGS, LOST, NODES, ROOMY, Stage};
use crate::support::client::http_get;
use crate::support::node::metric;
use crate::support::redis::Redis;
use crate::support::{set_up, until};

/// A node in a container, in two networks: clients reach it by one, and it reaches Redis by the
/// other.
struct Island {
    // Goes before the network it is in.
    container: ContainerAsync<GenericImage>,
    docker: Docker,
    network: String,
    /// Where this machine reaches it.
    address: SocketAddr,
}

impl Island {
    /// A node that reaches Redis in `network`, at that name.
    async fn start(network: &str) -> Self {
        let redis = format!("redis://{network}:6379");
        let command = ["serve", "--log-format", "json", "--redis-url", &redis]
            .into_iter()
            .chain([FLAGS, ROOMY].concat());
        let container = GenericImage::new("echocast", "local")
            .with_wait_for(WaitFor::message_on_stderr("\"serving\""))
            .with_network(network)
            .with_cmd(command)
            .start()
            .await
            .expect("tests/run builds the image echocast:local");
        let docker = Docker::connect_with_local_defaults()
            .unwrap()
            .negotiate_version()
            .await
            .unwrap();
        let mut this = Self {
            container,
            docker,
            network: network.into(),
            address: ([0, 0, 0, 0], 8080).into(),
        };
        this.join("bridge").await;
        this.address.set_ip(this.ip("bridge").await);
        set_up("the node in the container is ready", async || {
            http_get(this.ops(), "/readyz", &[]).await.0 == 200
        })
        .await;
        this
    }

    async fn join(&self, network: &str) {
        let request = NetworkConnectRequest {
            container: self.container.id().into(),
            ..Default::default()
        };
        self.docker.connect_network(network, request).await.unwrap();
    }

    async fn cut_off(&self) {
        let request = NetworkDisconnectRequest {
            container: self.container.id().into(),
            ..Default::default()
        };
        self.docker
            .disconnect_network(&self.network, request)
            .await
            .unwrap();
    }

    async fn ip(&self, network: &str) -> std::net::IpAddr {
        let options = None::<InspectContainerOptions>;
        let details = self
            .docker
            .inspect_container(self.container.id(), options)
            .await
            .unwrap();
        let networks = details.network_settings.unwrap().networks.unwrap();
        networks[network]
            .ip_address
            .as_ref()
            .unwrap()
            .parse()
            .unwrap()
    }

    fn ops(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), 8081)
    }

    async fn metric(&self, name: &str) -> f64 {
        metric(&http_get(self.ops(), "/metrics", &[]).await.1, name)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_off_from_redis_for_ten_seconds_loses_nothing() {
    // Another run on this machine may have such a network, too.
    let network = format!("echocast-test-{}", std::process::id());
    let redis = Redis::start_in(&network).await;
    let island = Island::start(&network).await;
    let stage = Stage::of(NODES - 1, redis).await;
    stage.addresses.lock().push(island.address);
    let outcome = Play::steady(
        &stage.addresses,
        "network between a node and Redis cut",
        async {
            island.cut_off().await;
            until("it notices", async || {
                island.metric("echocast_broker_up").await == 0.0
            })
            .await;
            sleep(Duration::from_secs(10)).await;
            island.join(&network).await;
            until("it is back", async || {
                island.metric("echocast_broker_up").await == 1.0
            })
            .await;
        },
    )
    .await;
    outcome.nothing_is_lost(0);
    assert_eq!(
        stage.metric(LOST).await + island.metric(LOST).await as u64,
        0
    );
}
