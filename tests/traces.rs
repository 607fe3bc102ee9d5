//! Traces: what a real OTLP receiver gets of a message's way, who decides what is traced, and that
//! nothing is said of it otherwise.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::support::client::{TestClient, http, http_get};
use crate::support::collector::{Collector, Received};
use crate::support::process::NodeProcess;
use crate::support::redis::Redis;
use crate::support::until;

/// A trace that a client has begun and samples, and one that it does not.
const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00f067aa0ba902b7-00";

/// A node that is ready.
async fn start(flags: &[&str], variables: &[(&str, &str)]) -> NodeProcess {
    let node = NodeProcess::start_with(flags, variables).await;
    until("ready", async || {
        http_get(node.ops, "/readyz", &[]).await.0 == 200
    })
    .await;
    node
}

/// The last spans are sent when a node ends.
async fn end(nodes: impl IntoIterator<Item = NodeProcess>) {
    for node in nodes {
        node.signal("TERM").await;
        assert!(node.ended().await.0.success());
    }
}

async fn post(node: &NodeProcess, path: &str, headers: &[(&str, &str)]) {
    let (status, _, body) = http(
        node.address,
        "POST",
        path,
        &[headers, &[("content-length", "0")]].concat(),
    )
    .await;
    assert_eq!(status, 200, "{body}");
}

/// The spans of this name below that one.
fn children<'a>(trace: &'a [Received], parent: &Received, name: &str) -> Vec<&'a Received> {
    let below = trace
        .iter()
        .filter(|child| child.span.parent_span_id == parent.span.span_id);
    below.filter(|child| child.span.name == name).collect()
}

fn publish(trace: &[Received]) -> &Received {
    let publishes: Vec<_> = trace
        .iter()
        .filter(|received| received.span.name == "publish")
        .collect();
    assert_eq!(publishes.len(), 1, "{trace:#?}");
    publishes[0]
}

/// Checks the names and attributes that OpenTelemetry's conventions for messaging ask for.
fn check(received: &Received, kind: SpanKind, operation: [&str; 2], system: &str) {
    assert_eq!(received.span.kind(), kind, "{received:#?}");
    for (key, value) in [
        ("messaging.system", system),
        ("messaging.operation.name", operation[0]),
        ("messaging.operation.type", operation[1]),
        ("messaging.destination.name", "traced"),
        ("messaging.batch.message_count", "1"),
    ] {
        assert_eq!(
            received.attribute(key).as_deref(),
            Some(value),
            "{key}: {received:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_shows_a_publish_and_its_relay_and_delivery_on_each_node() {
    let collector = Collector::start().await;
    let redis = Redis::start().await;
    let (endpoint, url) = (collector.endpoint(), redis.url());
    let variables = |name| {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_SERVICE_NAME", name),
        ]
    };
    let flags = ["--redis-url", url.as_str(), "--drain-period", "0s"];
    let here = start(&flags, &variables("here")).await;
    let there = start(&flags, &variables("there")).await;
    let mut speaker = TestClient::connect(&here.url("/traced")).await;
    let mut listener = TestClient::connect(&there.url("/traced")).await;
    speaker.say("follow me").await;
    listener.expect(["follow me"]).await;
    post(&here, "/traced", &[("traceparent", SAMPLED)]).await;
    listener.expect([""]).await;
    // A client's trace is as long as a client makes it: nobody continues what is none.
    post(&here, "/traced", &[("traceparent", "00-nonsense-01")]).await;
    listener.expect([""]).await;
    speaker.expect(["follow me", "", ""]).await;
    end([here, there]).await;

    let traces = collector.traces();
    assert_eq!(traces.len(), 3, "{traces:#?}");
    for trace in &traces {
        let publish = publish(trace);
        assert_eq!(
            (publish.service.as_str(), trace.len()),
            ("here", 5),
            "{trace:#?}"
        );
        check(publish, SpanKind::Producer, ["publish", "send"], "redis");
        let relays = children(trace, publish, "relay");
        let mut services: Vec<_> = relays.iter().map(|relay| relay.service.as_str()).collect();
        services.sort_unstable();
        assert_eq!(services, ["here", "there"]);
        for relay in relays {
            check(relay, SpanKind::Consumer, ["relay", "process"], "redis");
            let deliveries = children(trace, relay, "deliver");
            assert_eq!(deliveries.len(), 1, "{trace:#?}");
            assert_eq!(deliveries[0].service, relay.service);
            assert_eq!(
                deliveries[0].attribute("echocast.followers").as_deref(),
                Some("1")
            );
        }
    }
    let of_client = |trace: &&Vec<Received>| trace[0].span.trace_id == hex(&SAMPLED[3..35]);
    let continued = traces
        .iter()
        .find(of_client)
        .expect("the client's trace goes on");
    assert_eq!(
        publish(continued).span.parent_span_id,
        hex(&SAMPLED[36..52])
    );
    let begun = traces
        .iter()
        .filter(|trace| publish(trace).span.parent_span_id.is_empty())
        .count();
    assert_eq!(begun, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sampled_is_decided_by_the_standard_variables() {
    for (sampler, argument, expected) in [
        ("always_off", "", 0),
        ("traceidratio", "0", 0),
        // Only what the client samples.
        ("parentbased_traceidratio", "0", 1),
        // Two that nobody has begun, and one of the client.
        ("parentbased_traceidratio", "1", 3),
        ("always_on", "", 4),
    ] {
        let collector = Collector::start().await;
        let endpoint = collector.endpoint();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", argument),
        ];
        let node = start(&["--drain-period", "0s"], &variables).await;
        for headers in [
            &[("traceparent", SAMPLED)][..],
            &[("traceparent", UNSAMPLED)],
            &[],
            &[],
        ] {
            post(&node, "/traced", headers).await;
        }
        end([node]).await;
        let traces = collector.traces();
        assert_eq!(traces.len(), expected, "{sampler} {argument}: {traces:#?}");
        for trace in &traces {
            let publish = publish(trace);
            check(publish, SpanKind::Producer, ["publish", "send"], "echocast");
            let relays = children(trace, publish, "relay");
            check(
                relays[0],
                SpanKind::Consumer,
                ["relay", "process"],
                "echocast",
            );
            assert_eq!(
                children(trace, relays[0], "deliver")[0]
                    .attribute("echocast.followers")
                    .as_deref(),
                Some("0")
            );
            assert_eq!(
                (trace.len(), publish.service.as_str()),
                (3, "echocast"),
                "{trace:#?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_is_refused_says_why_in_its_span() {
    let collector = Collector::start().await;
    let redis = Redis::start().await;
    let (endpoint, url) = (collector.endpoint(), redis.url());
    let flags = ["--redis-url", url.as_str(), "--drain-period", "0s"];
    let node = start(
        &flags,
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())],
    )
    .await;
    let mut connection = redis.connect().await;
    redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory", "1"])
        .exec_async(&mut connection)
        .await
        .unwrap();
    let (status, _, body) = http(node.address, "POST", "/traced", &[("content-length", "0")]).await;
    assert_eq!(status, 503, "{body}");
    end([node]).await;
    let traces = collector.traces();
    assert_eq!(traces.len(), 1, "{traces:#?}");
    let publish = publish(&traces[0]);
    let status = publish.span.status.clone().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert!(
        status.message.contains("not allowed when used memory"),
        "{publish:#?}"
    );
    assert_eq!(publish.attribute("error.type").as_deref(), Some("refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_endpoint_a_clients_trace_is_left_alone() {
    use echocast::broker::envelope::Payload;
    let redis = Redis::start().await;
    let node = crate::support::node::TestNode::start(&["--redis-url", &redis.url()]).await;
    let mut heard = redis.subscribe("echocast:{traced}").await;
    let headers = [("traceparent", SAMPLED), ("content-length", "0")];
    assert_eq!(http(node.address, "POST", "/traced", &headers).await.0, 200);
    match Payload::decode(heard.next().await.into()) {
        Payload::Batch(envelope) => assert_eq!(envelope.traceparent, ""),
        other => panic!("{other:?}"),
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
