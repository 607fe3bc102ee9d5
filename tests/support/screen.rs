//! A terminal with a program in it, which a test types into and looks at: tmux, with nobody
//! attached.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use super::PATIENCE;
use super::process::ECHOCAST;

/// A running terminal. Dropping it ends it with the program in it.
pub struct Screen {
    socket: PathBuf,
    home: TempDir,
}

impl Screen {
    /// A terminal of 80 columns in which our binary runs with these arguments.
    pub async fn start(arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let screen = Self {
            socket: home.path().join("tmux"),
            home,
        };
        let size = ["new-session", "-d", "-x", "80", "-y", "24"];
        screen
            .tmux(&[&size, screen.command(arguments).as_slice()].concat())
            .await;
        screen
    }

    /// Runs it once more, with the same home, on an empty screen.
    pub async fn run_again(&self, arguments: &[&str]) {
        self.tmux(&[&["respawn-pane", "-k"], self.command(arguments).as_slice()].concat())
            .await;
    }

    /// What runs in the terminal. The exit code is put on the screen, because tmux 3.3 does not
    /// always learn it; and the terminal stays to be looked at, also after Ctrl-C, which is meant
    /// for the program only.
    fn command<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let script = "trap : INT; unset XDG_STATE_HOME; HOME=$0 \"$@\"; echo \"exit code $?\"; exec sleep infinity";
        let home = self.home.path().to_str().unwrap();
        [&["sh", "-c", script, home, ECHOCAST], arguments].concat()
    }

    /// Types this as it is.
    pub async fn type_text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]).await;
    }

    /// Presses a key by tmux's name for it: `Enter`, `Up`, `C-c`.
    pub async fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]).await;
    }

    pub async fn type_line(&self, line: &str) {
        self.type_text(line).await;
        self.press("Enter").await;
    }

    /// The rows that have something in them.
    pub async fn rows(&self) -> Vec<String> {
        let rows = self.tmux(&["capture-pane", "-p"]).await;
        rows.lines()
            .map(|row| row.trim_end().to_owned())
            .filter(|row| !row.is_empty())
            .collect()
    }

    /// Waits until these rows are the last ones; `…` at the end of one stands for anything.
    pub async fn ends_with(&self, wanted: &[&str]) {
        self.until(wanted, |rows| {
            let last = rows.iter().rev().take(wanted.len()).rev();
            rows.len() >= wanted.len() && last.zip(wanted).all(|(row, wanted)| matches(row, wanted))
        })
        .await;
    }

    /// Waits until this row is among them.
    pub async fn shows(&self, wanted: &str) {
        self.until(&[wanted], |rows| {
            rows.iter().any(|row| matches(row, wanted))
        })
        .await;
    }

    async fn until(&self, wanted: &[&str], is_so: impl Fn(&[String]) -> bool) {
        let asking = async {
            while !is_so(&self.rows().await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let shown = tokio::time::timeout(PATIENCE, asking).await.is_ok();
        assert!(
            shown,
            "not within {PATIENCE:?}: {wanted:#?}\non the screen: {:#?}",
            self.rows().await
        );
    }

    async fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(&self.socket)
            .args(arguments)
            .output()
            .await
            .unwrap_or_else(|error| panic!("cannot start tmux (tests/run installs it): {error}"));
        assert!(
            output.status.success(),
            "tmux {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let ended = std::process::Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .arg("kill-server")
            .output();
        // While a failed test unwinds, its own words matter more.
        if !std::thread::panicking() {
            assert!(ended.unwrap().status.success(), "tmux ends");
        }
    }
}

fn matches(row: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('…') {
        Some(start) => row.starts_with(start),
        None => row == wanted,
    }
}
