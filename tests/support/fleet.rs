//! Several Redis servers in one container, as Sentinels or a Cluster run them: each a process that
//! can be killed or stopped where it is. They are reached at the container's own address, by which
//! they also know each other.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use testcontainers::core::{ExecCommand, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

use super::{set_up, soon, until};

/// The Redis of most tests.
const IMAGE: &str = "redis:8-alpine";

/// What runs in the container: `server PORT OPTIONS…` starts a server, and `$ip` is where it is.
const PRELUDE: &str = r#"
ip=$(hostname -i); ip=${ip%% *}
server() {
  port=$1; shift
  mkdir "/tmp/$port"
  cd "/tmp/$port" || exit 1
  redis-server "$@" --port "$port" --save '' --protected-mode no --daemonize yes --logfile log --pidfile "/tmp/$port/pid" \
    --repl-diskless-sync-delay 0
}
"#;

/// A master, two replicas that follow it, and three Sentinels, which agree after a second that it
/// is dead.
const SENTINELS: &str = r#"
server 7000
server 7001 --replicaof "$ip" 7000
server 7002 --replicaof "$ip" 7000
for port in 7010 7011 7012; do
  printf '%s\n' "sentinel monitor mymaster $ip 7000 2" 'sentinel down-after-milliseconds mymaster 1000' \
    'sentinel failover-timeout mymaster 10000' > "/tmp/$port.conf"
  mkdir "/tmp/$port"
  redis-server "/tmp/$port.conf" --sentinel --port "$port" --protected-mode no --daemonize yes --pidfile "/tmp/$port/pid"
done
"#;

/// Three masters with a replica each, which takes over after two seconds and a bit.
const CLUSTER: &str = r#"
for port in 7000 7001 7002 7003 7004 7005; do
  server $port --cluster-enabled yes --cluster-node-timeout 2000
done
until redis-cli -p 7005 ping; do sleep 0.1; done
redis-cli --cluster create $ip:7000 $ip:7001 $ip:7002 $ip:7003 $ip:7004 $ip:7005 --cluster-replicas 1 --cluster-yes
"#;

/// A slot that is on its way from one master to another.
pub struct OpenSlot {
    from: u16,
    to: u16,
    slot: String,
    /// The id of who gets it.
    target: String,
}

/// Running servers. Dropping it ends them.
pub struct Fleet {
    container: ContainerAsync<GenericImage>,
    ip: IpAddr,
}

impl Fleet {
    /// A master at port 7000 and Sentinels from 7010 on.
    pub async fn sentinels() -> Self {
        Self::sentinels_of(IMAGE).await
    }

    /// The same of another image of Redis.
    pub async fn sentinels_of(image: &str) -> Self {
        let fleet = Self::start(image, SENTINELS).await;
        set_up(
            "the sentinels know each other and the replicas",
            async || {
                let mut known = Vec::new();
                for port in 7010..7013 {
                    let state = fleet
                        .cli(&["-p", &port.to_string(), "sentinel", "master", "mymaster"])
                        .await;
                    let words: Vec<&str> = state.lines().collect();
                    let value = |name: &str| {
                        words
                            .windows(2)
                            .find(|pair| pair[0] == name)
                            .map(|pair| pair[1].to_owned())
                    };
                    known.push(
                        value("num-slaves") == Some("2".into())
                            && value("num-other-sentinels") == Some("2".into()),
                    );
                }
                known.iter().all(|known| *known)
            },
        )
        .await;
        set_up("the replicas follow", async || {
            fleet
                .cli(&["-p", "7000", "info", "replication"])
                .await
                .matches("state=online")
                .count()
                == 2
        })
        .await;
        fleet.add_user(7000..7003).await;
        fleet
    }

    /// Masters at ports 7000 to 7002, replicas at 7003 to 7005.
    pub async fn cluster() -> Self {
        Self::cluster_of(IMAGE).await
    }

    /// The same of another image of Redis.
    pub async fn cluster_of(image: &str) -> Self {
        let fleet = Self::start(image, CLUSTER).await;
        set_up("the cluster is one", async || {
            let mut well = true;
            for port in 7000..7006 {
                let port = port.to_string();
                well &= fleet
                    .cli(&["-p", &port, "cluster", "info"])
                    .await
                    .contains("cluster_state:ok");
                let nodes = fleet.cli(&["-p", &port, "cluster", "nodes"]).await;
                well &= nodes.matches("slave").count() == 3;
            }
            well
        })
        .await;
        set_up("the replicas follow", async || {
            let mut online = 0;
            for port in 7000..7003 {
                let state = fleet
                    .cli(&["-p", &port.to_string(), "info", "replication"])
                    .await;
                online += state.matches("state=online").count();
            }
            online == 3
        })
        .await;
        fleet.add_user(7000..7006).await;
        fleet
    }

    async fn start(image: &str, script: &str) -> Self {
        let script = format!("{PRELUDE}{script}\necho all started\nexec sleep 1000000");
        let (name, tag) = image.split_once(':').expect("a tag");
        let container = GenericImage::new(name, tag)
            .with_wait_for(WaitFor::message_on_stdout("all started"))
            .with_startup_timeout(Duration::from_secs(120))
            .with_cmd(["sh", "-c", &script])
            .start()
            .await
            .unwrap();
        let mut fleet = Self {
            container,
            ip: [0, 0, 0, 0].into(),
        };
        fleet.ip = fleet
            .exec(&["hostname", "-i"])
            .await
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        fleet
    }

    pub fn address(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    /// What nodes are told.
    pub fn sentinel_url(&self) -> String {
        format!(
            "redis+sentinel://echocast:secret@{ip}:7010,{ip}:7011,{ip}:7012/mymaster",
            ip = self.ip
        )
    }

    /// The same; not all of it, because the rest can be asked for.
    pub fn cluster_url(&self) -> String {
        format!(
            "redis+cluster://echocast:secret@{ip}:7000,{ip}:7004",
            ip = self.ip
        )
    }

    /// The server that has a channel now.
    pub async fn owner(&self, channel: &str) -> u16 {
        self.find_owner(channel).await.expect("the cluster is up")
    }

    /// Waits until another server than this has a channel.
    pub async fn failover(&self, channel: &str, dead: u16) {
        until("a replica takes over", async || {
            self.find_owner(channel)
                .await
                .is_some_and(|owner| owner != dead)
        })
        .await;
    }

    async fn find_owner(&self, channel: &str) -> Option<u16> {
        let key = format!("{{{channel}}}");
        for port in 7000..7006 {
            // What does not have it says who does: MOVED 5061 172.17.0.2:7001
            let answer = self.cli(&["-p", &port.to_string(), "get", &key]).await;
            match answer.rsplit_once(':') {
                Some((moved, port)) if moved.contains("MOVED") => return port.trim().parse().ok(),
                // There is no such key, so the owner's answer is an empty line; who is dead or
                // unwell gives another or none.
                None if answer == "\n" => return Some(port),
                _ => {}
            }
        }
        None
    }

    /// Moves a channel's slot from its master to another, key by key, as tools do; it is open for
    /// some time.
    pub async fn move_slot(&self, channel: &str) {
        let open = self.open_slot(channel).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.close_slot(open).await;
    }

    /// Begins to move a channel's slot.
    pub async fn open_slot(&self, channel: &str) -> OpenSlot {
        let from = self.owner(channel).await;
        let to = 7000 + (from - 7000 + 1) % 3;
        let slot = self.at(to, &["cluster", "keyslot", channel]).await;
        let (source, target) = (
            self.at(from, &["cluster", "myid"]).await,
            self.at(to, &["cluster", "myid"]).await,
        );
        self.at(to, &["cluster", "setslot", &slot, "importing", &source])
            .await;
        self.at(from, &["cluster", "setslot", &slot, "migrating", &target])
            .await;
        OpenSlot {
            from,
            to,
            slot,
            target,
        }
    }

    /// Moves what is in a slot, and ends that.
    pub async fn close_slot(
        &self,
        OpenSlot {
            from,
            to,
            slot,
            target,
        }: OpenSlot,
    ) {
        loop {
            let keys = self
                .at(from, &["cluster", "getkeysinslot", &slot, "100"])
                .await;
            if keys.is_empty() {
                break;
            }
            let (ip, port) = (self.ip.to_string(), to.to_string());
            let migrate = ["migrate", &*ip, &*port, "", "0", "5000", "keys"];
            self.at(
                from,
                &[&migrate, &*keys.lines().collect::<Vec<_>>()].concat(),
            )
            .await;
        }
        for port in [to, from] {
            let answer = self
                .at(port, &["cluster", "setslot", &slot, "node", &target])
                .await;
            assert_eq!(answer, "OK");
        }
    }

    async fn at(&self, port: u16, command: &[&str]) -> String {
        self.cli(&[&["-p", &port.to_string()], command].concat())
            .await
            .trim()
            .to_owned()
    }

    /// Gives a user called echocast the rights that the runbook lists, on all servers.
    async fn add_user(&self, ports: impl Iterator<Item = u16>) {
        for port in ports {
            may_do_what_it_must(&mut self.connect(port).await).await;
        }
    }

    /// Sends a signal to the server at this port.
    pub async fn signal(&self, name: &str, port: u16) {
        self.exec(&["sh", "-c", &format!("kill -{name} $(cat /tmp/{port}/pid)")])
            .await;
    }

    /// What `redis-cli` says.
    pub async fn cli(&self, arguments: &[&str]) -> String {
        self.exec(&[&["redis-cli"], arguments].concat()).await
    }

    async fn exec(&self, command: &[&str]) -> String {
        let mut result = self
            .container
            .exec(ExecCommand::new(command.iter().copied()))
            .await
            .unwrap();
        String::from_utf8(result.stdout_to_vec().await.unwrap()).unwrap()
    }

    /// A connection like any client's.
    pub async fn connect(&self, port: u16) -> MultiplexedConnection {
        let client = redis::Client::open(format!("redis://{}", self.address(port))).unwrap();
        soon("redis answers", client.get_multiplexed_async_connection())
            .await
            .unwrap()
    }
}

/// Makes a user called echocast, with the command that the README gives.
pub async fn may_do_what_it_must(connection: &mut MultiplexedConnection) {
    let readme = include_str!("../../README.md");
    let (_, command) = readme
        .split_once("redis-cli ACL SETUSER ")
        .expect("the README has it");
    let (command, _) = command.split_once("```").expect("it ends");
    let words = command
        .split_whitespace()
        .filter(|word| *word != "\\")
        .map(|word| word.trim_matches('\''));
    let words: Vec<&str> = words.collect();
    redis::cmd("ACL")
        .arg("SETUSER")
        .arg(words)
        .exec_async(connection)
        .await
        .unwrap();
}
