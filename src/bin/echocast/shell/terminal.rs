//! The keyboard while the shell runs: line editing and history, on a thread of their own because
//! reading a terminal blocks. What lines mean is not known here, and what is shown is `screen`'s.

use std::fmt::Display;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::mpsc as std_mpsc;
use std::{env, thread};

use anyhow::{Context, anyhow};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use tokio::sync::mpsc;

use super::screen::{AbovePrompt, Screen};

/// Lines as they are typed.
pub(crate) struct Keyboard {
    typed: mpsc::Receiver<Typed>,
    go_on: std_mpsc::Sender<()>,
}

pub(crate) enum Typed {
    Line(String),
    /// Something the user should know, as that the history cannot be kept.
    Notice(String),
    /// Ctrl-C or Ctrl-D, or the terminal is gone.
    End,
}

impl Keyboard {
    /// Safe to drop and to call again.
    pub(crate) async fn next(&mut self) -> Typed {
        self.typed.recv().await.unwrap_or(Typed::End)
    }

    /// Owed for each `Typed`. The prompt appears again only when the last line has been dealt with:
    /// its answer stands above it, and no new line is begun on a shell that is about to leave.
    pub(crate) fn go_on(&self) {
        // Fails only after `Typed::End`, when there is no prompt to show any more.
        self.go_on.send(()).ok();
    }
}

/// Takes the terminal over. There is one, and it has one reader: call this once.
pub(crate) fn open() -> anyhow::Result<(Keyboard, Screen)> {
    let mut editor =
        DefaultEditor::with_config(Config::builder().history_ignore_dups(true)?.build())
            .context("cannot edit lines on this terminal")?;
    let above_prompt: AbovePrompt = match editor.create_external_printer() {
        Ok(printer) => Some(Box::new(printer)),
        Err(_) => None,
    };
    let screen = Screen::new(above_prompt)?;
    let (lines, typed) = mpsc::channel(1);
    let (go_on, may_go_on) = std_mpsc::channel();
    thread::Builder::new()
        .name("keyboard".to_owned())
        .spawn(move || edit(editor, &lines, &may_go_on))
        .context("cannot start the keyboard's thread")?;
    Ok((Keyboard { typed, go_on }, screen))
}

/// Reads lines until the user or the shell has enough. Not joined: the process ends over it.
fn edit(
    mut editor: DefaultEditor,
    lines: &mpsc::Sender<Typed>,
    may_go_on: &std_mpsc::Receiver<()>,
) {
    let hand_over = |typed| lines.blocking_send(typed).is_ok() && may_go_on.recv().is_ok();
    let notice =
        |what: &str, error: &dyn Display| hand_over(Typed::Notice(format!("{what}: {error:#}")));
    let mut history = None;
    match load_history(&mut editor) {
        Ok(path) => history = Some(path),
        Err(error) if notice("no history", &error) => {}
        Err(_) => return,
    }
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted | ReadlineError::Eof | ReadlineError::Signal(_)) => {
                break;
            }
            Err(error) => {
                notice("cannot read the terminal", &error);
                break;
            }
        };
        if let Some(path) = &history
            && let Err(error) = editor
                .add_history_entry(&line)
                .and_then(|_| editor.append_history(path))
        {
            notice("the history is no longer kept", &error);
            history = None;
        }
        if !hand_over(Typed::Line(line)) {
            return;
        }
    }
    hand_over(Typed::End);
}

/// Reads `$XDG_STATE_HOME/echocast/history`. The first line typed creates it, readable by its owner
/// only.
fn load_history(editor: &mut DefaultEditor) -> anyhow::Result<PathBuf> {
    let state = match env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
    {
        Some(path) => path,
        None => env::home_dir()
            .context("neither XDG_STATE_HOME nor HOME is set")?
            .join(".local/state"),
    };
    let folder = state.join("echocast");
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700);
    private
        .create(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join("history");
    if path.exists() {
        editor
            .load_history(&path)
            .map_err(|error| anyhow!("cannot read {}: {error}", path.display()))?;
    }
    Ok(path)
}
