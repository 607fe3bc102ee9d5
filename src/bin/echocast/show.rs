//! Text on its way to people: of strangers, or with words of theirs in it. A terminal is shown its control characters
//! instead of obeying them; a file or a pipe gets every byte. The two standard streams are looked at separately.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal};

use echocast::telemetry::printable;

/// Says something to people: standard output holds messages only.
#[expect(clippy::print_stderr, reason = "this is a command line talking, there is no log")]
pub(crate) fn notice(text: impl fmt::Display) {
    let text = format!("echocast: {text}");
    eprintln!("{}", line_for(&io::stderr(), &text));
}

/// One line of text for this stream.
pub(crate) fn line_for<'a>(stream: &impl IsTerminal, text: &'a str) -> Cow<'a, str> {
    if stream.is_terminal() { printable::line(text) } else { Cow::Borrowed(text) }
}

/// Serialized JSON for standard output.
pub(crate) fn json_for_output(json: &str) -> Cow<'_, str> {
    if io::stdout().is_terminal() { printable::json(json) } else { Cow::Borrowed(json) }
}
