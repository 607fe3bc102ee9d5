//! Text of strangers, on its way to a terminal, to a pipe and into the log: a terminal never obeys
//! it, a pipe gets every byte, and a line of the log is one record.

use echocast::telemetry::printable;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::client::TestClient;
use crate::support::node::TestNode;
use crate::support::program::{Program, echocast, node};
use crate::support::pty::{Pty, Streams};
use crate::support::soon;

/// A window's title, a cleared screen, another colour, the clipboard, a line that looks like
/// another message, and text that is shown backwards.
const HOSTILE: &str =
    "\u{1b}]0;title\u{7}\u{1b}[2J\r\n< another\u{9b}31m\u{1b}]52;c;aGk=\u{7}\u{8}\u{7f}\u{202e}end";

const SHOWN: &str = r"\u{1b}]0;title\u{7}\u{1b}[2J\r\n< another\u{9b}31m\u{1b}]52;c;aGk=\u{7}\u{8}\u{7f}\u{202e}end";

/// Nothing in it is for the terminal to obey but ends of lines, which a terminal makes of `\n`.
fn assert_harmless(written: &str) {
    for line in written.split("\r\n") {
        assert!(
            !line.contains(printable::is_harmful),
            "{line:?} in {written:?}"
        );
    }
}

#[tokio::test]
async fn a_terminal_shows_the_control_characters_of_messages() {
    let node = TestNode::start(&[]).await;
    let url = node.url("/");
    let mut stranger = TestClient::connect(&url).await;
    for (arguments, streams) in [
        (&["client", "--say", "here"][..], Streams::Output),
        (&["client", "--say", "here"], Streams::All),
        (&["client", "--raw", "--say", "here"], Streams::Output),
        (&["shell", "-x", "here", "-w", "-1"], Streams::Output),
        (
            &["shell", "--raw", "-x", "here", "-w", "-1"],
            Streams::Output,
        ),
    ] {
        let program = Pty::start(echocast(&[arguments, &[&url]].concat()), streams);
        program.writes("here").await;
        stranger.say(HOSTILE).await;
        program.writes(SHOWN).await;
        assert_harmless(&program.written());
    }
}

#[tokio::test]
async fn a_terminal_that_cannot_edit_lines_is_no_exception() {
    let node = TestNode::start(&[]).await;
    let home = tempfile::tempdir().unwrap();
    let mut command = echocast(&["shell", &node.url("/")]);
    command
        .env("TERM", "dumb")
        .env("HOME", home.path())
        .env_remove("XDG_STATE_HOME");
    let mut shell = Pty::start(command, Streams::All);
    shell.writes("connected to").await;
    shell.type_text("here\n");
    shell.writes("< here").await;
    TestClient::connect(&node.url("/")).await.say(HOSTILE).await;
    shell.writes(&format!("< {SHOWN}")).await;
    assert_harmless(&shell.written());
}

#[tokio::test]
async fn a_pipe_gets_every_byte() {
    let node = TestNode::start(&[]).await;
    let url = node.url("/");
    let mut stranger = TestClient::connect(&url).await;
    for arguments in [
        &["client", "--say", "here", &url][..],
        &["shell", "-x", "here", "-w", "-1", &url],
    ] {
        let mut command = echocast(arguments);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true);
        let mut program = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let output = program.stdout.as_mut().unwrap();
        let mut read = vec![0; "here\n".len()];
        soon("the first line", output.read_exact(&mut read))
            .await
            .unwrap();
        stranger.say(HOSTILE).await;
        let mut read = vec![0; HOSTILE.len() + 1];
        soon("the message", output.read_exact(&mut read))
            .await
            .unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), format!("{HOSTILE}\n"));
    }
}

/// A server that gives this answer to every request.
async fn answering(status: &str, body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            // A client that is gone already is none of this test's business.
            if stream.read(&mut request).await.is_ok() {
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    });
    address
}

#[tokio::test]
async fn the_words_of_a_server_are_shown_on_a_terminal_and_passed_on_to_a_pipe() {
    let server = answering("403 Forbidden", "no \u{202e}entry\u{2067}\n").await;
    let bench = format!("ws://{server}/");
    for arguments in [
        &["client", &server][..],
        &["shell", "-x", "a", &server],
        &["bench", "-s", "1", &bench],
    ] {
        let mut program = Pty::start(echocast(arguments), Streams::Errors);
        program
            .writes(r"403 Forbidden: no \u{202e}entry\u{2067}")
            .await;
        assert_eq!(
            soon("its end", program.child.wait()).await.unwrap().code(),
            Some(1)
        );
        // A progress bar is ours.
        let words = program.written();
        assert_harmless(&words[words.find("echocast: ").unwrap()..]);

        let ended = Program::start(echocast(arguments)).finish().await;
        assert!(
            ended
                .errors
                .contains("403 Forbidden: no \u{202e}entry\u{2067}"),
            "{ended:?}"
        );
    }
    // Not ready, in words that are no node's.
    let server = answering("503 Service Unavailable", HOSTILE).await;
    let probe = Pty::start(
        echocast(&["health", "--ops-url", &format!("http://{server}")]),
        Streams::Errors,
    );
    probe.writes(SHOWN).await;
    assert_harmless(&probe.written());
}

#[tokio::test]
async fn what_answers_at_an_ops_port_does_not_drive_the_terminal_of_top() {
    let label = HOSTILE.replace('\n', "\\n");
    let metrics = format!(
        "echocast_build_info{{version=\"{label}\",commit=\"{label}\"}} 1\n\
         echocast_messages_lost_total{{cause=\"{label}\"}} 3\n"
    );
    let node = answering("200 OK", &metrics).await;
    let nonsense = answering("200 OK", &HOSTILE.replace('\n', "")).await;
    let mut command = echocast(&["top", "--once", &node, &nonsense]);
    // Without colours, so that whatever a terminal would obey is the answers'.
    command.env("TERM", "dumb");
    let mut table = Pty::start(command, Streams::Output);
    soon("its end", table.child.wait()).await.unwrap();
    for words in [
        format!("{SHOWN} ({SHOWN})"),
        format!("{SHOWN} 3"),
        "cannot read '".to_owned(),
    ] {
        table.writes(&words).await;
    }
    assert_harmless(&table.written());

    let mut json = Pty::start(
        echocast(&["top", "--once", "--json", &node, &nonsense]),
        Streams::Output,
    );
    soon("its end", json.child.wait()).await.unwrap();
    json.writes("\n").await;
    assert_harmless(&json.written());
    let report: Value = serde_json::from_str(&json.written()).unwrap();
    let versions: Vec<&Value> = report["replicas"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["version"])
        .collect();
    assert!(versions.contains(&&HOSTILE.into()), "{report}");
}

#[tokio::test]
async fn a_message_cannot_forge_a_line_of_the_log() {
    for format in ["text", "json"] {
        let flags = ["--log-messages", "on", "--log-format", format];
        let mut node = Program::start(node(&flags));
        let serving = node.notice().await;
        let (_, listen) = serving
            .split_once("\"listen\":\"")
            .or(serving.split_once("listen="))
            .unwrap();
        let end = listen
            .find(|c: char| c != '.' && c != ':' && !c.is_ascii_digit())
            .unwrap();
        let url = format!("ws://{}/", &listen[..end]);
        let mut stranger = TestClient::connect(&url).await;
        stranger.say(HOSTILE).await;
        stranger.say("the next").await;
        loop {
            let line = node.notice().await;
            assert!(!line.contains(printable::is_harmful), "{format}: {line:?}");
            if line.contains("the next") {
                break;
            }
            if line.contains("received: ") && format == "text" {
                assert!(line.contains(&format!("received: {SHOWN}")), "{line}");
            } else if line.contains("received: ") {
                let record: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(record["message"], format!("received: {HOSTILE}"));
            }
        }
    }
}
