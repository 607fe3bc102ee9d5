//! Text of strangers, escaped so that it neither controls a terminal nor looks like another line.
//! Callers find out which stream is a terminal. Logs are always escaped.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a terminal might act on this character instead of showing it, or show another order or
/// another line than there is: C0 without the tab, DEL, C1, the separators of lines and paragraphs,
/// and the controls of writing direction.
pub fn is_harmful(character: char) -> bool {
    match character {
        '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        character => character.is_control(),
    }
}

/// `text` as one line in which each harmful character is written as in Rust: `\n`, `\u{1b}`.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |out, character| {
        out.extend(character.escape_default())
    })
}

/// Serialized JSON, on one line, that means the same and has no harmful character: `\u001b`.
/// Serializers escape C0 only.
pub fn json(json: &str) -> Cow<'_, str> {
    escaped(json, |out, character| {
        // None of them is above U+FFFF, where JSON would need two of these.
        write!(out, "\\u{:04x}", u32::from(character)).expect("a string takes everything");
    })
}

fn escaped(text: &str, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_harmful(character) {
            escape(&mut out, character);
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every range by its ends, and the neighbours that must stay.
    const HARMFUL: [(char, char); 7] = [
        ('\0', '\u{8}'),
        ('\n', '\u{1f}'),
        ('\u{7f}', '\u{9f}'),
        ('\u{61c}', '\u{61c}'),
        ('\u{200e}', '\u{200f}'),
        ('\u{2028}', '\u{202e}'),
        ('\u{2066}', '\u{2069}'),
    ];

    #[test]
    fn exactly_these_characters_are_harmful() {
        let mut found: Vec<(char, char)> = Vec::new();
        for character in '\0'..=char::MAX {
            if !is_harmful(character) {
                continue;
            }
            match found.last_mut() {
                Some((_, last)) if u32::from(*last) + 1 == u32::from(character) => {
                    *last = character
                }
                _ => found.push((character, character)),
            }
        }
        assert_eq!(found, HARMFUL);
    }

    #[test]
    fn harmful_characters_are_shown_and_the_rest_stays() {
        for (text, shown) in [
            ("", ""),
            ("a\tb é 漢 👩‍👩‍👧 \\n", "a\tb é 漢 👩‍👩‍👧 \\n"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{9b}31m\u{85}", "\\u{9b}31m\\u{85}"),
            ("one\r\ntwo\u{2028}three", "one\\r\\ntwo\\u{2028}three"),
            ("abc\u{202e}cba\u{2069}", "abc\\u{202e}cba\\u{2069}"),
            ("\u{8}\u{7f}", "\\u{8}\\u{7f}"),
        ] {
            assert_eq!(line(text), shown);
        }
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({"a\u{9b}": "\u{1b}[2J\u{7f}\u{9b}\u{2028}\u{202e}\n\t\\ é"});
        let text = value.to_string();
        let shown = json(&text);
        assert!(!shown.contains(is_harmful), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).expect("it is still JSON"),
            value
        );
    }
}
