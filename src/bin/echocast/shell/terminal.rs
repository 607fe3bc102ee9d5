//! The keyboard while the shell runs: line editing and history. Reading a terminal blocks, so it
//! has a thread of its own. The meaning of lines is known to `command`, and output is `screen`'s.

use std::fmt::Display;
use std::sync::mpsc as std_mpsc;
use std::thread;

use anyhow::Context;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use tokio::sync::mpsc;

use super::history::History;
use super::screen::{AbovePrompt, Screen};

/// Lines as they are typed.
pub(crate) struct Keyboard {
    typed: mpsc::Receiver<Typed>,
    go_on: std_mpsc::Sender<()>,
}

pub(crate) enum Typed {
    Line(String),
    /// A problem to be shown, for example that the history cannot be kept.
    Notice(String),
    /// Ctrl-C or Ctrl-D, or the terminal is gone.
    End,
}

impl Keyboard {
    fn open(editor: DefaultEditor) -> anyhow::Result<Self> {
        let (lines, typed) = mpsc::channel(1);
        let (go_on, may_go_on) = std_mpsc::channel();
        let reader = Reader {
            editor,
            history: None,
            lines,
            may_go_on,
        };
        // Never joined, because it may wait for a key. The end of the process ends it.
        thread::Builder::new()
            .name("keyboard".to_owned())
            .spawn(move || reader.run())
            .context("cannot start the keyboard's thread")?;
        Ok(Self { typed, go_on })
    }

    /// Cancellation-safe.
    pub(crate) async fn next(&mut self) -> Typed {
        self.typed.recv().await.unwrap_or(Typed::End)
    }

    /// Has to follow each `Typed`. The prompt appears only after it. So the answer to a line stands
    /// above the next prompt, and no line is begun in a shell that is about to leave.
    pub(crate) fn go_on(&self) {
        // Fails only after `Typed::End`, when there will be no prompt.
        self.go_on.send(()).ok();
    }
}

/// Takes the terminal over. There is only one terminal, so call it once.
pub(crate) fn open() -> anyhow::Result<(Keyboard, Screen)> {
    let config = Config::builder().history_ignore_dups(true)?.build();
    let mut editor =
        DefaultEditor::with_config(config).context("cannot edit lines on this terminal")?;
    // The screen keeps the settings that the terminal has now.
    let screen = Screen::new(above_prompt(&mut editor))?;
    Ok((Keyboard::open(editor)?, screen))
}

fn above_prompt(editor: &mut DefaultEditor) -> AbovePrompt {
    match editor.create_external_printer() {
        Ok(printer) => Some(Box::new(printer)),
        Err(_) => None,
    }
}

/// The thread that reads lines, until the user or the shell has enough.
struct Reader {
    editor: DefaultEditor,
    /// `None` if it cannot be kept.
    history: Option<History>,
    lines: mpsc::Sender<Typed>,
    may_go_on: std_mpsc::Receiver<()>,
}

impl Reader {
    /// Each step ends it with `None` once the shell is gone.
    fn run(mut self) -> Option<()> {
        self.load_history()?;
        while let Some(line) = self.read()? {
            // Kept even if it turns out to be no command, so that it can be corrected.
            self.keep(&line)?;
            self.hand_over(Typed::Line(line))?;
        }
        self.hand_over(Typed::End)
    }

    fn load_history(&mut self) -> Option<()> {
        match History::load(&mut self.editor) {
            Ok(history) => self.history = Some(history),
            Err(error) => self.notice("no history", &error)?,
        }
        Some(())
    }

    /// `Some(None)` at the end of the input.
    fn read(&mut self) -> Option<Option<String>> {
        match self.editor.readline("> ") {
            Ok(line) => Some(Some(line)),
            Err(ReadlineError::Interrupted | ReadlineError::Eof | ReadlineError::Signal(_)) => {
                Some(None)
            }
            Err(error) => {
                self.notice("cannot read the terminal", &error)?;
                Some(None)
            }
        }
    }

    fn keep(&mut self, line: &str) -> Option<()> {
        let Some(history) = &self.history else {
            return Some(());
        };
        if let Err(error) = history.append(line, &mut self.editor) {
            // Reported once, and not for every line.
            self.history = None;
            self.notice("the history is no longer kept", &error)?;
        }
        Some(())
    }

    fn notice(&self, problem: &str, error: &dyn Display) -> Option<()> {
        self.hand_over(Typed::Notice(format!("{problem}: {error:#}")))
    }

    /// Returns when the shell has dealt with it.
    fn hand_over(&self, typed: Typed) -> Option<()> {
        self.lines.blocking_send(typed).ok()?;
        self.may_go_on.recv().ok()
    }
}
