//! How the text log writes a record: on one line, with nothing that controls a terminal. The library
//! escapes only a part of that in messages, and nothing in fields.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use super::printable;

/// Writes the message, and fields as `name=value`.
#[derive(Debug)]
pub(super) struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor {
            writer,
            begun: false,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    /// Something was written, so the next field needs a space before it.
    begun: bool,
    result: fmt::Result,
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // `log.…` is where a record of the crate `log` comes from.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.write(field.name(), &format!("{value:?}"));
        }
    }
}

impl Visitor<'_> {
    fn write(&mut self, name: &str, value: &str) -> fmt::Result {
        if std::mem::replace(&mut self.begun, true) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            let name = name.strip_prefix("r#").unwrap_or(name);
            if self.writer.has_ansi_escapes() {
                write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
            } else {
                write!(self.writer, "{name}=")?;
            }
        }
        self.writer.write_str(&printable::line(value))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// The lines that a subscriber has written.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(ansi: bool, record: impl FnOnce()) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_target(false)
            .with_ansi(ansi);
        let subscriber = subscriber
            .fmt_fields(TextFields)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, record);
        let bytes = log.0.lock().expect("nobody panicked").clone();
        String::from_utf8(bytes).expect("logs are text")
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let evil = "a\u{1b}[2J\n WARN forged\r\u{9b}m\u{2028}\u{202e}";
        let shown = "a\\u{1b}[2J\\n WARN forged\\r\\u{9b}m\\u{2028}\\u{202e}";
        let error = io::Error::other(evil);
        let line = logged(false, || {
            tracing::warn!(text = evil, shown = %evil, error = &error as &dyn std::error::Error, "message: {evil}");
        });
        let [message, quoted] = [format!("message: {shown}"), format!("text=\"{shown}\"")];
        assert_eq!(
            line,
            format!(" WARN {message} {quoted} shown={shown} error={shown}\n")
        );
    }

    #[test]
    fn colours_are_only_ours() {
        let line = logged(true, || {
            tracing::info!(channel = "news\u{1b}", "received: {}", "\u{1b}[31m")
        });
        assert!(
            line.ends_with(" received: \\u{1b}[31m \u{1b}[3mchannel\u{1b}[0m\u{1b}[2m=\u{1b}[0m\"news\\u{1b}\"\n"),
            "{line:?}"
        );
    }
}
