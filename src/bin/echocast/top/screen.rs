//! The terminal while `top` has it: a screen of its own, keys as they are pressed. Gives it back as
//! it was, however it ends.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use console::Term;
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use tokio::io::{AsyncReadExt, Stdin, stdin};

use super::report::Report;
use super::table::{Size, render};

/// Another screen, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

pub(super) struct Screen {
    terminal: Term,
    /// Nothing if keys come from elsewhere: then only signals end it.
    keys: Option<(Stdin, Termios)>,
}

impl Screen {
    pub(super) fn open() -> anyhow::Result<Self> {
        let mut screen = Self {
            terminal: Term::stdout(),
            keys: None,
        };
        if io::stdin().is_terminal() {
            let before = tcgetattr(io::stdin()).context("cannot read the terminal's settings")?;
            let mut settings = before.clone();
            settings
                .local_flags
                .remove(LocalFlags::ICANON | LocalFlags::ECHO);
            // Stopped by Ctrl-Z it would leave its screen to the shell.
            settings.control_chars[SpecialCharacterIndices::VSUSP as usize] = 0;
            tcsetattr(io::stdin(), SetArg::TCSANOW, &settings)
                .context("cannot set up the terminal")?;
            screen.keys = Some((stdin(), before));
        }
        screen.write(ENTER)?;
        Ok(screen)
    }

    /// Returns when the user presses q, or the terminal is gone. Cancellation-safe.
    pub(super) async fn enough(&mut self) {
        let Some((keys, _)) = &mut self.keys else {
            return std::future::pending().await;
        };
        while let Ok(key) = keys.read_u8().await {
            if matches!(key, b'q' | b'Q') {
                return;
            }
        }
    }

    pub(super) fn show(&self, report: &Report) -> anyhow::Result<()> {
        let (rows, columns) = self.terminal.size();
        let table = render(
            report,
            Some(Size {
                rows: usize::from(rows),
                columns: usize::from(columns),
            }),
        );
        // Drawn over what is there, or it would flicker.
        self.write(&format!(
            "\x1b[H{}\x1b[J",
            table.replace('\n', "\x1b[K\r\n") + "\x1b[K"
        ))
    }

    fn write(&self, text: &str) -> anyhow::Result<()> {
        let mut output = io::stdout().lock();
        output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush())
            .context("cannot write to the terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If that fails the terminal is gone.
        self.write(LEAVE).ok();
        if let Some((_, before)) = &self.keys {
            tcsetattr(io::stdin(), SetArg::TCSANOW, before).ok();
        }
    }
}
