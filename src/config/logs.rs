//! Settings of the log.

use super::given::{Complaining, Given, choice};
use crate::telemetry::LogFormat;

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub(super) struct LogSettings {
    /// How logs are written; auto is text on a terminal, else JSON. RUST_LOG sets levels
    #[arg(
        long,
        env = "ECHOCAST_LOG_FORMAT",
        default_value = "auto",
        value_name = "auto|text|json",
        value_parser = choice(&[
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("json", LogFormat::Json),
        ])
    )]
    log_format: Given<LogFormat>,
    /// Whether each message is logged; auto is on if standard error is a terminal
    #[arg(
        long,
        env = "ECHOCAST_LOG_MESSAGES",
        default_value = "auto",
        value_name = "auto|on|off",
        value_parser = choice(&[
            ("auto", Switch::Auto),
            ("on", Switch::On),
            ("off", Switch::Off),
        ])
    )]
    log_messages: Given<Switch>,
}

/// Settings of the log.
#[derive(Clone, Copy, Debug)]
pub struct Logs {
    /// How logs are written.
    pub format: LogFormat,
    /// Whether each message is logged.
    pub messages: Switch,
}

/// On, off, or on if standard error is a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// On if standard error is a terminal.
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

impl Switch {
    /// Whether it is on in this process.
    pub(crate) fn is_on(self) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
            // As a person who starts a node by hand wants to see messages.
            Self::Auto => std::io::IsTerminal::is_terminal(&std::io::stderr()),
        }
    }
}

impl LogSettings {
    pub(super) fn check(&self, complaining: &mut Complaining) -> Logs {
        Logs {
            format: complaining.value_or("--log-format", &self.log_format, LogFormat::Auto),
            messages: complaining.value_or("--log-messages", &self.log_messages, Switch::Auto),
        }
    }
}
