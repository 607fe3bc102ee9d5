//! Other people's client libraries, as programs use them. Each says and hears the same messages, is
//! closed and closes, and resumes. The programs that drive them are in tests/clients and
//! tests/node; what is right is known here.

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::Chromium;
use crate::support::client::http;
use crate::support::cluster::Cluster;
use crate::support::program::Program;
use crate::support::proxy::Proxy;
use crate::support::{on_both_brokers, until};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// A client library: its name, the program that drives it, and whether its messages are deflated.
struct Library {
    name: &'static str,
    talk: &'static [&'static str],
    deflates: bool,
}

const LIBRARIES: [Library; 9] = [
    library(
        "Python's websockets",
        &[".venv/bin/python", "talk.py", "websockets"],
        true,
    ),
    library(
        "Python's aiohttp",
        &[".venv/bin/python", "talk.py", "aiohttp"],
        true,
    ),
    library(
        "Python's websocket-client",
        &[".venv/bin/python", "talk.py", "websocket-client"],
        false,
    ),
    library("ws", &["node", "../node/talk.mjs", "ws"], true),
    library("undici", &["node", "../node/talk.mjs", "undici"], true),
    library(
        "Bun",
        &[
            "../node/node_modules/.bin/bun",
            "../node/talk.mjs",
            "native",
        ],
        true,
    ),
    library(
        "Deno",
        &[
            "../node/node_modules/.bin/deno",
            "run",
            "-A",
            "../node/talk.mjs",
            "native",
        ],
        false,
    ),
    library("Go's coder/websocket", &[".bin/talk"], true),
    library(
        "Java's java.net.http",
        &["java", "-cp", ".bin", "Talk"],
        false,
    ),
];

const fn library(name: &'static str, talk: &'static [&'static str], deflates: bool) -> Library {
    Library {
        name,
        talk,
        deflates,
    }
}

on_both_brokers!(
    every_library_talks_closes_and_resumes,
    every_library_is_told_that_the_node_leaves,
    an_event_source_hears_everything_and_resumes_by_itself,
    curl_says_and_hears_everything,
    chromium_talks_without_our_module,
);

async fn every_library_talks_closes_and_resumes(cluster: Cluster) {
    let cluster = &cluster;
    let talks = LIBRARIES
        .iter()
        .enumerate()
        .map(|(number, library)| async move {
            talk(cluster, library, &format!("/talk/{number}")).await;
        });
    futures_util::future::join_all(talks).await;
}

async fn talk(cluster: &Cluster, library: &Library, path: &str) {
    let mut listener = cluster.client(1, path).await;
    let mut program = library.start(&cluster.node(0).url(path));
    program.prints([library.opened()]).await;
    let messages = messages();
    for message in &messages {
        program.type_line(&line(message)).await;
        assert_eq!(listener.next().await, *message, "{}", library.name);
        assert_eq!(program.line().await, line(message), "{}", library.name);
    }
    program.type_line("close 4001 bye").await;
    program.prints(["closed 4001"]).await;
    assert_eq!(program.ended().await.code, Some(0), "{}", library.name);
    // It comes back for what it has missed.
    let first = ids(cluster, path).await.swap_remove(0);
    let mut program = library.start(&format!("{}?since={first}", cluster.node(1).url(path)));
    program.prints([library.opened()]).await;
    for message in &messages[1..] {
        assert_eq!(program.line().await, line(message), "{}", library.name);
    }
}

async fn every_library_is_told_that_the_node_leaves(mut cluster: Cluster) {
    let mut programs = Vec::new();
    for library in &LIBRARIES {
        let mut program = library.start(&cluster.node(0).url("/leaves"));
        program.prints([library.opened()]).await;
        programs.push(program);
    }
    cluster.nodes[0].begin_stop();
    for (mut program, library) in programs.into_iter().zip(&LIBRARIES) {
        assert_eq!(program.line().await, "closed 1012", "{}", library.name);
    }
}

async fn an_event_source_hears_everything_and_resumes_by_itself(cluster: Cluster) {
    for library in ["eventsource", "event-source-polyfill"] {
        hears_and_resumes(&cluster, library, &format!("/stream/{library}")).await;
    }
}

async fn hears_and_resumes(cluster: &Cluster, library: &str, path: &str) {
    let proxy = Proxy::start(cluster.node(0).address).await;
    let mut command = Command::new("node");
    command
        .args([
            "../node/hear.mjs",
            library,
            &format!("http://{}{path}", proxy.address),
        ])
        .current_dir(FOLDER);
    let mut source = Program::start(command);
    source.prints(["open"]).await;
    say_all(cluster, path).await;
    for message in messages() {
        source.prints([line(&message).as_str()]).await;
    }
    proxy.lead_to(None);
    proxy.cut();
    say_all(cluster, path).await;
    proxy.lead_to(Some(cluster.node(1).address));
    source.prints(["open"]).await;
    for message in messages() {
        source.prints([line(&message).as_str()]).await;
    }
    assert_eq!(source.finish().await.code, Some(0), "{library}");
}

async fn say_all(cluster: &Cluster, path: &str) {
    let mut speaker = cluster.client(1, path).await;
    for message in messages() {
        speaker.send(message.clone()).await;
        // Heard back, so that it is kept.
        assert_eq!(speaker.next().await, message);
    }
}

async fn curl_says_and_hears_everything(cluster: Cluster) {
    let mut listener = cluster.client(1, "/curl").await;
    let url = format!("http://{}/curl", cluster.node(0).address);
    let mut stream = curl(&["--no-buffer", "--header", "Accept: text/event-stream", &url]);
    // Its head: the stream is there.
    until("curl listens", async || {
        cluster
            .node(0)
            .metric("echocast_connections{transport=\"sse\"}")
            .await
            == 1.0
    })
    .await;
    for (kind, message) in [
        ("text/plain", messages().remove(0)),
        ("application/octet-stream", messages().remove(2)),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), message.clone().into_data()).unwrap();
        let body = format!("@{}", file.path().display());
        let said = curl(&[
            "--header",
            &format!("Content-Type: {kind}"),
            "--data-binary",
            &body,
            &url,
        ])
        .ended()
        .await;
        assert!(said.output[0].starts_with("{\"id\":"), "{said:?}");
        assert_eq!(listener.next().await, message);
    }
    let binary = BASE64_STANDARD.encode(messages().remove(2).into_data());
    for expected in [
        "data: h\u{e9}llo \u{1f30d}".to_owned(),
        "event: binary".to_owned(),
        format!("data: {binary}"),
    ] {
        // Ids and empty lines are between them.
        while stream.line().await != expected {}
    }
}

fn curl(arguments: &[&str]) -> Program {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error"]).args(arguments);
    Program::start(command)
}

async fn chromium_talks_without_our_module(cluster: Cluster) {
    let mut listener = cluster.client(1, "/raw").await;
    let page = Chromium::start()
        .await
        .open(&format!("http://{}/other", cluster.node(0).address))
        .await;
    let url = cluster.node(0).url("/raw");
    page.run(&format!(
        "window.heard = [];
        const socket = window.socket = new WebSocket('{url}');
        const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
        socket.binaryType = 'arraybuffer';
        socket.onopen = () => heard.push(socket.extensions.includes('permessage-deflate') ? 'open deflate' : 'open plain');
        socket.onmessage = ({{ data }}) => heard.push(typeof data === 'string'
          ? `text ${{hex(new TextEncoder().encode(data))}}` : `binary ${{hex(new Uint8Array(data))}}`);
        socket.onclose = ({{ code, reason }}) => heard.push(`closed ${{code}} ${{reason}}`);"
    ))
    .await;
    let mut expected = vec!["open deflate".to_owned()];
    page.becomes("return heard", &json!(expected)).await;
    for message in messages() {
        let said = line(&message);
        let (kind, hex) = said.split_once(' ').unwrap();
        page.run(&format!(
            "const bytes = Uint8Array.from('{hex}'.match(/../g) ?? [], (hex) => parseInt(hex, 16));
            socket.send('{kind}' === 'text' ? new TextDecoder().decode(bytes) : bytes);"
        ))
        .await;
        assert_eq!(listener.next().await, message);
        expected.push(said);
    }
    page.becomes("return heard", &json!(expected)).await;
    page.run("socket.close(4001, 'bye')").await;
    expected.push("closed 4001 bye".to_owned());
    page.becomes("return heard", &json!(expected)).await;
}

/// The messages of a conversation: both kinds, empty, long enough to be deflated, and longer than
/// one frame of many libraries.
fn messages() -> Vec<Message> {
    let long: String = (0..6000)
        .map(|number| format!("{number:>9}\u{e9}"))
        .collect();
    vec![
        Message::text("h\u{e9}llo \u{1f30d}"),
        Message::text(""),
        Message::binary((0..=255).collect::<Vec<u8>>()),
        Message::binary(Vec::new()),
        Message::binary(long.as_bytes()[..60_000].to_vec()),
        Message::text(long.chars().take(50_000).collect::<String>()),
    ]
}

/// A message as the programs write and read it.
fn line(message: &Message) -> String {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    match message {
        Message::Binary(bytes) => format!("binary {}", hex(bytes)),
        text => format!("text {}", hex(text.to_text().unwrap().as_bytes())),
    }
}

async fn ids(cluster: &Cluster, path: &str) -> Vec<String> {
    let accept = [("Accept", "application/json")];
    let (_, _, body) = http(
        cluster.node(0).address,
        "GET",
        &format!("{path}?last=1000"),
        &accept,
    )
    .await;
    let body: Value = serde_json::from_str(&body).unwrap();
    body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect()
}

impl Library {
    fn start(&self, url: &str) -> Program {
        let mut command = Command::new(self.talk[0]);
        command.args(&self.talk[1..]).arg(url).current_dir(FOLDER);
        Program::start(command)
    }

    fn opened(&self) -> &'static str {
        if self.deflates {
            "open deflate"
        } else {
            "open plain"
        }
    }
}
