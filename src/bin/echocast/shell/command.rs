//! The meaning of a typed line. Pure: `interactive` carries it out.

use crate::connect::check_close_code;

pub(crate) const HELP: &str = "\
a line           is published as it is; an empty line publishes nothing
//text           publishes /text
/ping [text]     pings the server and shows how long the pong took
/close [code] [reason]
                 closes with that code (default 1000), shows the answer, quits
/last N          reconnects and replays the newest N messages
/help            shows this help
/quit            closes with 1000 and quits, as Ctrl-C and Ctrl-D do
Lines typed without a connection are kept, up to 100, and published later.";

/// The longest payload of a ping, in bytes, because it is a control frame.
const LONGEST_PING: usize = 125;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Nothing,
    Publish(String),
    Ping(String),
    Close { code: u16, reason: String },
    Last(u64),
    Help,
}

impl Command {
    pub(crate) fn quit() -> Self {
        Self::Close {
            code: 1000,
            reason: String::new(),
        }
    }
}

pub(crate) fn parse(line: &str) -> Result<Command, String> {
    match line.strip_prefix('/') {
        None if line.is_empty() => Ok(Command::Nothing),
        None => Ok(Command::Publish(line.to_owned())),
        // Two slashes publish a text that begins with one.
        Some(text) if text.starts_with('/') => Ok(Command::Publish(text.to_owned())),
        Some(command) => parse_command(command),
    }
}

fn parse_command(command: &str) -> Result<Command, String> {
    let (name, arguments) = split(command);
    match name {
        "ping" => parse_ping(arguments),
        "close" => parse_close(arguments),
        "last" => parse_last(arguments),
        // Rejected, because a mistyped text would be lost otherwise.
        "help" | "quit" if !arguments.is_empty() => Err(format!("/{name} takes no arguments")),
        "help" => Ok(Command::Help),
        "quit" => Ok(Command::quit()),
        _ => Err(format!(
            "unknown command '/{name}'; /help lists all, //{name} publishes it"
        )),
    }
}

fn parse_ping(text: &str) -> Result<Command, String> {
    let length = text.len();
    if length > LONGEST_PING {
        return Err(format!(
            "/ping: the text is {length} bytes long, a ping holds at most {LONGEST_PING}"
        ));
    }
    Ok(Command::Ping(text.to_owned()))
}

fn parse_last(count: &str) -> Result<Command, String> {
    match count.parse() {
        Ok(count) => Ok(Command::Last(count)),
        Err(_) => Err(format!("/last: '{count}' is not a number of messages")),
    }
}

fn parse_close(arguments: &str) -> Result<Command, String> {
    let (code, reason) = split(arguments);
    let code = parse_code(code)?;
    check_close_code(code, reason).map_err(|problem| format!("/close: {problem}"))?;
    Ok(Command::Close {
        code,
        reason: reason.to_owned(),
    })
}

fn parse_code(code: &str) -> Result<u16, String> {
    if code.is_empty() {
        return Ok(1000);
    }
    code.parse()
        .map_err(|_| format!("/close: '{code}' is not a close code, as 1000 or 4000 are"))
}

/// The first word, and the rest without spaces around it.
fn split(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(code: u16, reason: &str) -> Result<Command, String> {
        Ok(Command::Close {
            code,
            reason: reason.into(),
        })
    }

    #[test]
    fn lines_without_a_slash_are_published_as_they_are() {
        assert_eq!(
            parse(" hi /quit "),
            Ok(Command::Publish(" hi /quit ".into()))
        );
        assert_eq!(parse("//quit"), Ok(Command::Publish("/quit".into())));
        assert_eq!(parse("//"), Ok(Command::Publish("/".into())));
        assert_eq!(parse(""), Ok(Command::Nothing));
    }

    #[test]
    fn commands_take_their_arguments() {
        assert_eq!(parse("/ping"), Ok(Command::Ping(String::new())));
        assert_eq!(parse("/ping a b"), Ok(Command::Ping("a b".into())));
        assert_eq!(parse("/last 20"), Ok(Command::Last(20)));
        assert_eq!(parse("/close"), close(1000, ""));
        assert_eq!(parse("/close 4000 good bye"), close(4000, "good bye"));
    }

    #[test]
    fn a_command_that_cannot_be_run_is_rejected_with_its_reason() {
        for (line, reason) in [
            ("/nope x", "unknown command '/nope'"),
            ("/", "unknown command '/'"),
            ("/last", "not a number"),
            ("/last -1", "'-1' is not a number"),
            ("/close bye", "'bye' is not a close code"),
            ("/close 1005", "1005 cannot be sent"),
            ("/close 999", "999 cannot be sent"),
            ("/close 70000", "not a close code"),
            ("/quit now", "takes no arguments"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(reason), "{line}: {error}");
        }
        assert!(
            parse(&format!("/close 4000 {}", "x".repeat(124)))
                .expect_err("too long")
                .contains("124 bytes")
        );
        assert!(
            parse(&format!("/ping {}", "x".repeat(126)))
                .expect_err("too long")
                .contains("126 bytes")
        );
    }
}
