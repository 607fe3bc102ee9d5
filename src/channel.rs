//! Channel names: which paths are channels, and their names. The hub owns the channels themselves.

use std::fmt;
use std::sync::Arc;

/// The longest channel name, in characters (all of them ASCII).
pub(crate) const MAX_NAME: usize = 128;

/// The channel of `/` and `/ws`.
const LOBBY: &str = "lobby";

/// The checked name of a channel: 1 to [`MAX_NAME`] characters of `A-Z a-z 0-9 - _ . ~ : /`, no
/// empty segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelName(Arc<str>);

/// Why a path is no channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Longer than [`MAX_NAME`].
    #[error("bad channel name: {0} characters, {MAX_NAME} are the most")]
    TooLong(usize),
    /// A character that no name has.
    #[error("bad channel name: {0:?} is none of A-Z a-z 0-9 - _ . ~ : /")]
    Character(char),
    /// Two slashes in a row, or a slash at the end. The text is the path without them.
    #[error("bad channel name: an empty segment (a slash too many); use {0}")]
    EmptySegment(String),
    /// A path that does not decode to text.
    #[error("bad channel name: it is not percent-encoded UTF-8")]
    Encoding,
}

impl ChannelName {
    /// The channel of a decoded request path: the path without its first slash. `/` and `/ws` are
    /// the lobby.
    pub(crate) fn from_path(path: &str) -> Result<Self, BadName> {
        match path.strip_prefix('/').unwrap_or(path) {
            "" | "ws" => Ok(Self(LOBBY.into())),
            name => Self::new(name),
        }
    }

    /// Checks a name.
    pub(crate) fn new(name: &str) -> Result<Self, BadName> {
        if let Some(odd) = name.chars().find(|character| !Self::allows(*character)) {
            return Err(BadName::Character(odd));
        }
        if name.len() > MAX_NAME {
            return Err(BadName::TooLong(name.len()));
        }
        if name.split('/').any(str::is_empty) {
            return Err(BadName::EmptySegment(without_empty_segments(name)));
        }
        Ok(Self(name.into()))
    }

    /// Whether names may have this character.
    pub(crate) fn allows(character: char) -> bool {
        character.is_ascii_alphanumeric() || "-_.~:/".contains(character)
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The path that the name was probably meant to be.
fn without_empty_segments(name: &str) -> String {
    let segments = name.split('/').filter(|segment| !segment.is_empty());
    format!("/{}", segments.collect::<Vec<_>>().join("/"))
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names_or_say_why_not() {
        let name = |path: &str| ChannelName::from_path(path).map(|n| n.to_string());
        assert_eq!(name("/"), Ok("lobby".into()));
        assert_eq!(name("/ws"), Ok("lobby".into()));
        assert_eq!(name("/a/b:c.d~e-f_g"), Ok("a/b:c.d~e-f_g".into()));
        let empty_segment = |right: &str| Err(BadName::EmptySegment(right.into()));
        assert_eq!(name("/ws/"), empty_segment("/ws"));
        assert_eq!(name("//"), empty_segment("/"));
        assert_eq!(name("//a///b//"), empty_segment("/a/b"));
        assert_eq!(name("/a b/"), Err(BadName::Character(' ')));
        assert_eq!(name("/a%20b"), Err(BadName::Character('%')));
        assert_eq!(name(&format!("/{}", "x".repeat(128))), Ok("x".repeat(128)));
        assert_eq!(
            name(&format!("/{}", "x".repeat(129))),
            Err(BadName::TooLong(129))
        );
    }
}
