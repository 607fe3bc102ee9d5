//! A program that a test talks to through its pipes: ours, and other people's clients.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::process::ECHOCAST;
use super::soon;

/// A running program. Dropping it kills it.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
}

/// How a program ended, with the rest of what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub output: Vec<String>,
    pub errors: String,
}

/// Our binary with these arguments, and with no settings from the environment the tests run in.
pub fn echocast(arguments: &[&str]) -> Command {
    let mut command = Command::new(ECHOCAST);
    command.args(arguments).env_remove("RUST_LOG");
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ECHOCAST_"))
    {
        command.env_remove(name);
    }
    command
}

/// A node on free ports, with these flags.
pub fn node(flags: &[&str]) -> Command {
    let ports = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    echocast(&[&["serve"], &ports[..], flags].concat())
}

impl Program {
    /// Starts it with its input held open: some clients leave when theirs ends.
    pub fn start(mut command: Command) -> Self {
        let name = command.as_std().get_program().to_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", name.display()));
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            errors: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
        }
    }

    /// Writes a line to its input.
    pub async fn type_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input is open");
        soon("typing", input.write_all(format!("{line}\n").as_bytes()))
            .await
            .unwrap();
    }

    /// The next line of its output.
    pub async fn line(&mut self) -> String {
        soon("a line of output", self.output.next_line())
            .await
            .unwrap()
            .expect("it writes more lines")
    }

    /// The next line of what it tells people.
    pub async fn notice(&mut self) -> String {
        soon("a line of errors", self.errors.next_line())
            .await
            .unwrap()
            .expect("it says more")
    }

    /// Writes these lines, in this order, and nothing between them.
    pub async fn prints<'a>(&mut self, lines: impl IntoIterator<Item = &'a str>) {
        for line in lines {
            assert_eq!(self.line().await, line);
        }
    }

    /// Sends a signal by name, as `kill -NAME` does.
    pub async fn signal(&self, name: &str) {
        let id = self
            .child
            .id()
            .expect("it has not been waited for")
            .to_string();
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(id)
            .status()
            .await
            .unwrap();
        assert!(status.success(), "kill -{name}");
    }

    /// Ends its input and waits for its end.
    pub async fn finish(mut self) -> Ended {
        self.input = None;
        self.ended().await
    }

    /// Waits for its end with its input still open.
    pub async fn ended(mut self) -> Ended {
        let (output, errors, status) = soon("the program ends", async {
            tokio::join!(
                rest(&mut self.output),
                rest(&mut self.errors),
                self.child.wait()
            )
        })
        .await;
        Ended {
            code: status.unwrap().code(),
            output,
            errors: errors.join("\n"),
        }
    }
}

async fn rest(lines: &mut Lines<impl AsyncBufReadExt + Unpin>) -> Vec<String> {
    let mut rest = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        rest.push(line);
    }
    rest
}
