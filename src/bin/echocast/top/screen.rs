//! The terminal while `top` uses it: an alternate screen, and keys as they are pressed. However it
//! ends, the terminal is given back as it was.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use console::Term;
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use tokio::io::{AsyncReadExt, Stdin, stdin};

use super::report::Report;
use super::table::{Size, render};

/// Shows the alternate screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Moves to the upper left corner.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

pub(super) struct Screen {
    terminal: Term,
    /// `None` if standard input is no terminal. Then only signals end it.
    keys: Option<Keys>,
}

struct Keys {
    input: Stdin,
    /// The terminal's settings before we changed them.
    before: Termios,
}

impl Screen {
    pub(super) fn open() -> anyhow::Result<Self> {
        let keys = io::stdin().is_terminal().then(Keys::open).transpose()?;
        // From here on, dropping it gives the terminal back.
        let screen = Self {
            terminal: Term::stdout(),
            keys,
        };
        write(ENTER)?;
        Ok(screen)
    }

    /// Returns when the user presses q, or the terminal is gone. Cancellation-safe.
    pub(super) async fn quit(&mut self) {
        match &mut self.keys {
            Some(keys) => keys.wait_for_q().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn show(&self, report: &Report) -> anyhow::Result<()> {
        let table = render(report, Some(self.size()));
        // Drawn over the last table, because clearing the screen first would flicker.
        let lines = table.replace('\n', &format!("{CLEAR_LINE}\r\n"));
        write(&format!("{HOME}{lines}{CLEAR_LINE}{CLEAR_BELOW}"))
    }

    fn size(&self) -> Size {
        let (rows, columns) = self.terminal.size();
        Size {
            rows: rows.into(),
            columns: columns.into(),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Fails only if the terminal is gone.
        write(LEAVE).ok();
        if let Some(keys) = &self.keys {
            tcsetattr(io::stdin(), SetArg::TCSANOW, &keys.before).ok();
        }
    }
}

impl Keys {
    /// Keys arrive at once, and are not shown.
    fn open() -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin()).context("cannot read the terminal's settings")?;
        let mut settings = before.clone();
        settings
            .local_flags
            .remove(LocalFlags::ICANON | LocalFlags::ECHO);
        // Ctrl-Z would leave the alternate screen to the user's shell.
        settings.control_chars[SpecialCharacterIndices::VSUSP as usize] = 0;
        tcsetattr(io::stdin(), SetArg::TCSANOW, &settings).context("cannot set up the terminal")?;
        Ok(Self {
            input: stdin(),
            before,
        })
    }

    async fn wait_for_q(&mut self) {
        while let Ok(key) = self.input.read_u8().await {
            if matches!(key, b'q' | b'Q') {
                return;
            }
        }
    }
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .context("cannot write to the terminal")
}
