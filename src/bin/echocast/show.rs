//! Text for people, which may contain text of strangers. On a terminal, control characters are
//! shown instead of obeyed; a file or a pipe gets every byte. Standard output and standard error
//! are decided separately.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;

use anyhow::Context;
use echocast::telemetry::printable;

/// Prints a notice on standard error, because standard output holds only results.
#[expect(
    clippy::print_stderr,
    reason = "subcommands other than serve write no log"
)]
pub(crate) fn notice(text: impl fmt::Display) {
    let text = format!("echocast: {text}");
    eprintln!("{}", line_for(&io::stderr(), &text));
}

/// Prints a line on standard output, at once. Breaks if the reader has closed the pipe.
pub(crate) fn print_line(line: &str) -> anyhow::Result<ControlFlow<()>> {
    match write_line(line) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

fn write_line(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

/// A line of text for this stream.
pub(crate) fn line_for<'a>(stream: &impl IsTerminal, text: &'a str) -> Cow<'a, str> {
    if stream.is_terminal() {
        printable::line(text)
    } else {
        Cow::Borrowed(text)
    }
}

/// Serialized JSON for standard output.
pub(crate) fn json_for_output(json: &str) -> Cow<'_, str> {
    if io::stdout().is_terminal() {
        printable::json(json)
    } else {
        Cow::Borrowed(json)
    }
}

/// A latency in the unit that gives it about three digits.
pub(crate) fn latency(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_the_unit_that_suits_them() {
        for (us, shown) in [
            (7, "7 µs"),
            (1_234, "1.23 ms"),
            (45_678, "45.7 ms"),
            (2_345_678, "2.35 s"),
        ] {
            assert_eq!(latency(us), shown);
        }
    }
}
