//! `echocast top`: two nodes over Redis under load, watched in a terminal and by scripts, while one
//! of them drains and dies.

use serde_json::Value;

use super::{USAGE, run};
use crate::support::node::TestNode;
use crate::support::process::NodeProcess;
use crate::support::program::{Program, echocast};
use crate::support::redis::Redis;
use crate::support::screen::Screen;

/// Two nodes, and a load on them that lasts longer than any test.
struct Busy {
    // Ends before what it loads.
    _load: Program,
    here: NodeProcess,
    there: NodeProcess,
    _redis: Redis,
}

impl Busy {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let url = redis.url();
        let flags = ["--redis-url", url.as_str(), "--drain-delay", "1m"];
        let (here, there) = (
            NodeProcess::start(&flags).await,
            NodeProcess::start(&flags).await,
        );
        for node in [&here, &there] {
            let ready = async || {
                crate::support::client::http_get(node.ops, "/readyz", &[])
                    .await
                    .0
                    == 200
            };
            crate::support::until("ready", ready).await;
        }
        let (one, other) = (here.url("/load"), there.url("/load"));
        let load = [
            "bench", &one, &other, "-s", "6", "-p", "2", "-r", "200", "-d", "10m", "--warmup", "0s",
        ];
        Self {
            _load: Program::start(echocast(&load)),
            here,
            there,
            _redis: redis,
        }
    }

    fn ops(&self) -> [String; 2] {
        [&self.here, &self.there].map(|node| node.ops.to_string())
    }
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_get_figures_of_every_replica_and_of_all() {
    let busy = Busy::start().await;
    let [here, there] = busy.ops();
    // Until the load has begun.
    let mut stream = Program::start(echocast(&["top", "--json", &here, &there]));
    let report = loop {
        let report = json(&stream.line().await);
        let rates = ["messages_in_per_second", "messages_out_per_second"]
            .map(|name| report["total"][name].as_f64());
        let late = ["relay_p99_us", "delivery_p99_us"].map(|name| report["total"][name].as_u64());
        if rates.iter().all(|rate| rate.is_some_and(|rate| rate > 1.0))
            && late.iter().all(Option::is_some)
        {
            break report;
        }
    };
    let (total, replicas) = (&report["total"], report["replicas"].as_array().unwrap());
    assert_eq!(total["connections"]["websocket"], 8, "{report}");
    assert_eq!(
        (&total["connections"]["sse"], &total["lost"]["broker"]),
        (&0.into(), &0.into()),
        "{report}"
    );
    assert!(
        total["messages_out_per_second"].as_f64() > total["messages_in_per_second"].as_f64(),
        "{report}"
    );
    assert!(
        total["bytes_out_per_second"].as_f64() > total["bytes_in_per_second"].as_f64(),
        "{report}"
    );
    let mut addresses: Vec<&str> = replicas
        .iter()
        .map(|replica| replica["address"].as_str().unwrap())
        .collect();
    addresses.sort_unstable();
    let mut expected = [here.as_str(), there.as_str()];
    expected.sort_unstable();
    assert_eq!(addresses, expected);
    for replica in replicas {
        assert_eq!(
            (&replica["draining"], &replica["broker_up"]),
            (&false.into(), &true.into()),
            "{report}"
        );
        assert!(
            replica["broker_roundtrip_us"]
                .as_u64()
                .is_some_and(|us| us > 0),
            "{report}"
        );
        assert_eq!(
            (&replica["version"], &replica["error"]),
            (&echocast::VERSION.into(), &Value::Null),
            "{report}"
        );
        assert_eq!(replica["connections"]["websocket"], 4, "{report}");
    }

    // One of them is killed; what is told of it and of the rest is what has happened.
    busy.there.signal("KILL").await;
    let report = loop {
        let report = json(&stream.line().await);
        if report["replicas"]
            .as_array()
            .unwrap()
            .iter()
            .any(|replica| replica.get("error").is_some())
        {
            break report;
        }
    };
    let dead = report["replicas"]
        .as_array()
        .unwrap()
        .iter()
        .find(|replica| replica["address"] == there)
        .unwrap();
    assert_eq!(
        (
            &dead["connections"],
            &report["total"]["connections"]["websocket"]
        ),
        (&Value::Null, &4.into())
    );
    let ended = run(&["top", "--once", "--json", &here, &there]).await;
    assert_eq!(
        (ended.code, ended.output.len(), ended.errors.as_str()),
        (Some(1), 1, ""),
        "{ended:?}"
    );
    let again = json(&ended.output[0]);
    let why = |report: &Value| {
        report["replicas"]
            .as_array()
            .unwrap()
            .iter()
            .find_map(|row| row.get("error").cloned())
    };
    assert!(
        why(&again).unwrap().as_str().unwrap().contains("refused"),
        "{again}"
    );
    stream.signal("INT").await;
    assert_eq!(stream.ended().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_each_replica_has_a_line_until_q_gives_the_terminal_back() {
    let busy = Busy::start().await;
    let [here, there] = busy.ops();
    let screen = Screen::start(&["top", &here, &there]).await;
    screen.shows(&format!("{here}  up     …")).await;
    screen.shows(&format!("{there}  up     …")).await;
    screen.ends_with(&["total            2 of 2   8  …"]).await;
    busy.there.signal("TERM").await;
    screen.shows(&format!("{there}  draining  …")).await;
    busy.there.signal("KILL").await;
    screen
        .shows(&format!("{there}  cannot connect: Connection refused…"))
        .await;
    screen.ends_with(&["total            1 of 2   4  …"]).await;
    screen.press("q").await;
    screen.ends_with(&["exit code 0"]).await;
    // Nothing of the table is left, and what is typed is seen again.
    screen.type_text("hello").await;
    screen.ends_with(&["exit code 0", "hello"]).await;
    assert_eq!(screen.rows().await.len(), 2);
    screen.run_again(&["top", &here]).await;
    screen.shows(&format!("{here}  up     …")).await;
    screen.press("C-c").await;
    screen.ends_with(&["exit code 0"]).await;
}

#[tokio::test]
async fn where_there_is_no_terminal_one_table_is_printed() {
    let node = TestNode::start(&[]).await;
    let ended = run(&["top", &node.ops.to_string()]).await;
    assert_eq!(
        (ended.code, ended.errors.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    let [titles, row, total] = &ended.output[..] else {
        panic!("{ended:?}")
    };
    let titles = [
        "replica",
        "ws",
        "sse",
        "in/s",
        "bytes out/s",
        "relay p99",
        "delivery p99",
        "inbox",
        "broker",
        "lost",
    ]
    .iter()
    .find(|title| !titles.contains(**title));
    assert_eq!(titles, None, "{ended:?}");
    assert!(
        row.starts_with(&node.ops.to_string()) && row.contains(echocast::VERSION),
        "{ended:?}"
    );
    assert!(total.starts_with("total"), "{ended:?}");
}

#[tokio::test]
async fn who_cannot_be_asked_is_shown_with_the_reason() {
    let node = TestNode::start(&[]).await;
    let [public, ops] = [node.address, node.ops].map(|address| address.to_string());
    let ended = run(&["top", &public, "nowhere.invalid", &ops]).await;
    assert_eq!(
        (ended.code, ended.errors.as_str()),
        (Some(1), ""),
        "{ended:?}"
    );
    let row = |name: &str| {
        ended
            .output
            .iter()
            .find(|row| row.starts_with(name))
            .unwrap()
    };
    assert!(row(&public).contains("not an ops port?"), "{ended:?}");
    assert!(
        row("nowhere.invalid:8081").contains("cannot be resolved"),
        "{ended:?}"
    );
    assert!(row("total").contains("1 of 3"), "{ended:?}");
    let ended = run(&["top", "ftp://node", "http://"]).await;
    assert_eq!((ended.code, ended.output.len()), (USAGE, 0), "{ended:?}");
    assert!(
        ended.errors.contains("'ftp://node'") && ended.errors.contains("'http://'"),
        "{ended:?}"
    );
}
