//! Traces: what a real OTLP receiver gets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::support::client::TestClient;
use crate::support::process::NodeProcess;
use crate::support::redis::Redis;
use crate::support::until;

/// Spans with the service that sent them.
type Received = Arc<Mutex<Vec<(String, Span)>>>;

struct Collector(Received);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for spans in request.into_inner().resource_spans {
            let attributes = spans.resource.unwrap().attributes;
            let service = attributes.into_iter().find(|attribute| attribute.key == "service.name").unwrap();
            let service = format!("{:?}", service.value.unwrap().value.unwrap());
            let received = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(received.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, Received) {
    let received = Received::default();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let service = TraceServiceServer::new(Collector(received.clone()));
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (address, received)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_shows_a_publish_and_its_relay_on_each_node() {
    let (address, received) = collector().await;
    let redis = Redis::start().await;
    let endpoint = format!("http://{address}");
    let variables = |name| [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_SERVICE_NAME", name)];
    let url = redis.url();
    let flags = ["--redis-url", url.as_str(), "--drain-period", "0s"];
    let here = NodeProcess::start_with(&flags, &variables("here")).await;
    let there = NodeProcess::start_with(&flags, &variables("there")).await;
    for node in [&here, &there] {
        until("ready", async || crate::support::client::http_get(node.ops, "/readyz", &[]).await.0 == 200).await;
    }
    let mut speaker = TestClient::connect(&here.url("/traced")).await;
    let mut listener = TestClient::connect(&there.url("/traced")).await;
    speaker.say("follow me").await;
    listener.expect(["follow me"]).await;
    // The last spans are sent when a node ends.
    for node in [here, there] {
        node.signal("TERM").await;
        assert!(node.ended().await.0.success());
    }
    let received = received.lock().unwrap();
    let mut by_trace: HashMap<&[u8], Vec<(&str, &Span)>> = HashMap::new();
    for (service, span) in received.iter() {
        by_trace.entry(&span.trace_id).or_default().push((service, span));
    }
    let spans = by_trace.values().find(|spans| spans.len() == 3).unwrap_or_else(|| panic!("{by_trace:?}"));
    let (publisher, publish) = spans.iter().find(|(_, span)| span.name == "publish").unwrap();
    assert!(publisher.contains("here"));
    let relays: Vec<_> = spans.iter().filter(|(_, span)| span.name == "relay").collect();
    assert_eq!(relays.len(), 2);
    for service in ["here", "there"] {
        let (_, relay) = relays.iter().find(|(name, _)| name.contains(service)).unwrap();
        assert_eq!(relay.parent_span_id, publish.span_id);
        assert!(relay.attributes.iter().any(|attribute| attribute.key == "messaging.destination.name"));
    }
}
