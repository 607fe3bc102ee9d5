//! The file that keeps typed lines: `$XDG_STATE_HOME/echocast/history`.

use std::env;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

pub(super) struct History {
    path: PathBuf,
}

impl History {
    /// The first line that is typed creates the file.
    pub(super) fn load(editor: &mut DefaultEditor) -> anyhow::Result<Self> {
        let folder = state_folder()?.join("echocast");
        create_private(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join("history");
        // Missing before the first line, which is no problem.
        if path.exists() {
            editor
                .load_history(&path)
                .map_err(|error| anyhow!("cannot read {}: {error}", path.display()))?;
        }
        Ok(Self { path })
    }

    pub(super) fn append(
        &self,
        line: &str,
        editor: &mut DefaultEditor,
    ) -> Result<(), ReadlineError> {
        editor.add_history_entry(line)?;
        editor.append_history(&self.path)
    }
}

/// Only its owner can read it, because people type secrets.
fn create_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// As the XDG specification has it, a path that is not absolute is ignored.
fn state_folder() -> anyhow::Result<PathBuf> {
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    if let Some(path) = state.filter(|path| path.is_absolute()) {
        return Ok(path);
    }
    let home = env::home_dir().context("neither XDG_STATE_HOME nor HOME is set")?;
    Ok(home.join(".local/state"))
}
