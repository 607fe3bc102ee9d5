//! Standard error as the JSON log writes it. The JSON library escapes only C0. This module escapes all other
//! control characters, because people read logs on terminals, too.

use std::io::{self, Stderr, Write};

use super::printable;

/// Takes one record in each write, because the library writes them so.
#[derive(Debug)]
pub(super) struct JsonLines<W = Stderr>(W);

impl JsonLines {
    pub(super) fn new() -> Self {
        Self(io::stderr())
    }
}

impl<W: Write> Write for JsonLines<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let (line, end) = record.split_at(record.len() - usize::from(record.ends_with(b"\n")));
        match str::from_utf8(line) {
            Ok(text) => self
                .0
                .write_all(&[printable::json(text).as_bytes(), end].concat())?,
            Err(_) => self.0.write_all(record)?,
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_stays_a_line_of_json() {
        let mut written = Vec::new();
        let record = "{\"message\":\"a\u{9b}m\u{7f}\u{202e}\\n\"}\n";
        assert_eq!(
            JsonLines(&mut written)
                .write(record.as_bytes())
                .expect("a vector takes it"),
            record.len()
        );
        assert_eq!(
            str::from_utf8(&written),
            Ok("{\"message\":\"a\\u009bm\\u007f\\u202e\\n\"}\n")
        );
    }
}
