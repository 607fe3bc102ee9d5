//! What a typed line means. Pure: it is carried out by `interactive`.

use crate::connect::check_close_code;

pub(crate) const HELP: &str = "\
a line           is said as it is; an empty one says nothing
//text           says /text
/ping [text]     pings the server and shows how long the pong took
/close [code] [reason]
                 closes with that code (default 1000), shows the answer, leaves
/last N          reconnects and replays the newest N messages
/help            this
/quit            closes with 1000 and leaves, as Ctrl-C and Ctrl-D do
Lines typed while there is no connection are kept, up to 100, and said later.";

/// A ping is a control frame, which holds no more.
const LONGEST_PING: usize = 125;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Nothing,
    Say(String),
    Ping(String),
    Close { code: u16, reason: String },
    Last(u64),
    Help,
    Quit,
}

pub(crate) fn parse(line: &str) -> Result<Command, String> {
    let Some(command) = line.strip_prefix('/') else {
        return Ok(if line.is_empty() {
            Command::Nothing
        } else {
            Command::Say(line.to_owned())
        });
    };
    if command.starts_with('/') {
        return Ok(Command::Say(command.to_owned()));
    }
    let (name, rest) = command
        .split_once(char::is_whitespace)
        .unwrap_or((command, ""));
    let rest = rest.trim();
    match name {
        "ping" if rest.len() > LONGEST_PING => Err(format!(
            "/ping: the text is {} bytes long, a ping holds at most {LONGEST_PING}",
            rest.len()
        )),
        "ping" => Ok(Command::Ping(rest.to_owned())),
        "close" => parse_close(rest),
        "last" => match rest.parse() {
            Ok(count) => Ok(Command::Last(count)),
            Err(_) => Err(format!("/last: '{rest}' is not a number of messages")),
        },
        "help" | "quit" if !rest.is_empty() => Err(format!("/{name} takes nothing after it")),
        "help" => Ok(Command::Help),
        "quit" => Ok(Command::Quit),
        _ => Err(format!(
            "unknown command '/{name}'; /help lists them, //{name} says it"
        )),
    }
}

fn parse_close(rest: &str) -> Result<Command, String> {
    let (code, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let code = match code {
        "" => 1000,
        code => code
            .parse()
            .map_err(|_| format!("/close: '{code}' is not a close code, as 1000 or 4000 are"))?,
    };
    let reason = reason.trim().to_owned();
    check_close_code(code, &reason).map_err(|problem| format!("/close: {problem}"))?;
    Ok(Command::Close { code, reason })
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
    fn lines_without_a_slash_are_said_as_they_are() {
        assert_eq!(parse(" hi /quit "), Ok(Command::Say(" hi /quit ".into())));
        assert_eq!(parse("//quit"), Ok(Command::Say("/quit".into())));
        assert_eq!(parse("//"), Ok(Command::Say("/".into())));
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
    fn what_cannot_be_done_is_named() {
        for (line, reason) in [
            ("/nope x", "unknown command '/nope'"),
            ("/", "unknown command '/'"),
            ("/last", "not a number"),
            ("/last -1", "'-1' is not a number"),
            ("/close bye", "'bye' is not a close code"),
            ("/close 1005", "1005 cannot be sent"),
            ("/close 999", "999 cannot be sent"),
            ("/close 70000", "not a close code"),
            ("/quit now", "takes nothing"),
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
