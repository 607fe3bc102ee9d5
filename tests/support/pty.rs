//! A terminal that keeps every byte a program writes to it: what a screen shows does not tell what
//! it was made to do.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use nix::pty::openpty;
use tokio::process::{Child, Command};

use super::until;

/// Which of a program's standard streams are the terminal. The others are pipes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Streams {
    Output,
    Errors,
    All,
}

/// A program with a terminal. Dropping it kills it.
pub struct Pty {
    pub child: Child,
    keyboard: File,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    pub fn start(mut command: Command, streams: Streams) -> Self {
        let ends = openpty(None, None).unwrap();
        let terminal = || Stdio::from(ends.slave.try_clone().unwrap());
        let pipe_unless = |it: bool| if it { terminal() } else { Stdio::piped() };
        command.stdin(pipe_unless(streams == Streams::All));
        command.stdout(pipe_unless(streams != Streams::Errors));
        command.stderr(pipe_unless(streams != Streams::Output));
        let child = command.kill_on_drop(true).spawn().unwrap();
        // Kept by nobody but the program, so that its end is seen.
        drop((command, ends.slave));
        let written = Arc::new(Mutex::new(Vec::new()));
        collect(ends.master.try_clone().unwrap(), Arc::clone(&written));
        Self {
            child,
            keyboard: File::from(ends.master),
            written,
        }
    }

    /// Types at the terminal.
    pub fn type_text(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// All it has written to the terminal until now.
    pub fn written(&self) -> String {
        String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
    }

    /// Waits until this is in what it has written.
    pub async fn writes(&self, wanted: &str) {
        until(&format!("{wanted:?} on the terminal"), async || {
            String::from_utf8_lossy(&self.written.lock().unwrap()).contains(wanted)
        })
        .await;
    }
}

/// Reads to the end, on a thread of its own: a terminal cannot be read in any other way. Its end is
/// an error (EIO).
fn collect(terminal: OwnedFd, written: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut terminal = File::from(terminal);
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = terminal.read(&mut buffer) {
            written.lock().unwrap().extend_from_slice(&buffer[..length]);
        }
    });
}
