//! Exit codes of all subcommands, and the messages that go with them.

use std::process::ExitCode;

use crate::show::notice;

/// `EX_USAGE` of sysexits(3): a command line or setting that cannot be used.
const USAGE: u8 = 64;

/// Success, or the failure that scripts look for.
pub(crate) fn success_if(holds: bool) -> ExitCode {
    if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints why the subcommand failed.
pub(crate) fn failure(problem: &str) -> ExitCode {
    notice(problem);
    ExitCode::FAILURE
}

/// For a usage error that is printed already.
pub(crate) fn usage() -> ExitCode {
    ExitCode::from(USAGE)
}

/// Prints what is wrong with the command line.
pub(crate) fn usage_error(problem: &str) -> ExitCode {
    notice(problem);
    usage()
}
