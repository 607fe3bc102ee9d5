//! CPU time and memory of local processes, read from /proc. Linux only: elsewhere it fails.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::{SysconfVar, sysconf};

/// Processes that are measured together, as one server.
#[derive(Clone, Debug)]
pub(super) struct Processes {
    ids: Vec<u32>,
    /// Clock ticks a second, the unit of CPU times in /proc.
    ticks: u64,
}

impl Processes {
    /// Fails if one of them cannot be measured.
    pub(super) fn new(ids: Vec<u32>) -> anyhow::Result<Self> {
        let processes = Self {
            ids,
            ticks: clock_ticks()?,
        };
        // Fails here instead of in the middle of a run.
        processes.cpu()?;
        processes.memory()?;
        Ok(processes)
    }

    /// This program itself.
    pub(super) fn this() -> anyhow::Result<Self> {
        Self::new(vec![std::process::id()])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// CPU time used so far, in user and kernel mode.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let ticks = self.sum("stat", cpu_ticks)?;
        Ok(Duration::from_secs_f64(ticks as f64 / self.ticks as f64))
    }

    /// Resident memory, in bytes.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        self.sum("status", resident_bytes)
    }

    fn sum(&self, file: &str, parse: impl Fn(&str) -> Option<u64>) -> anyhow::Result<u64> {
        let value = |id: &u32| {
            let text = fs::read_to_string(format!("/proc/{id}/{file}"))
                .with_context(|| format!("process {id} cannot be measured"))?;
            // A process that has ended, but was not waited for, has no memory.
            parse(&text).with_context(|| format!("process {id} has ended"))
        };
        self.ids.iter().map(value).sum()
    }
}

fn clock_ticks() -> anyhow::Result<u64> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    ticks
        .and_then(|ticks| u64::try_from(ticks).ok())
        .context("the system's clock has no ticks")
}

/// User and kernel time of a `stat` file, its fields 14 and 15. They are counted from behind the
/// name of the program, which may contain spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let size = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes = size.trim().strip_suffix("kB")?.trim();
    Some(kibibytes.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_spaces_and_brackets() {
        let stat = "42 (a) b c) S 1 42 42 0 -1 4194560 9 0 0 0 120 34 0 0 20 0 3 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(154));
        assert_eq!(cpu_ticks("nonsense"), None);
    }

    #[test]
    fn memory_is_in_kibibytes_and_the_dead_have_none() {
        assert_eq!(
            resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t 1 kB\n"),
            Some(2_097_152)
        );
        assert_eq!(resident_bytes("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_some_of_both() {
        let this = Processes::this().expect("this process runs");
        assert!(this.memory().expect("it still runs") > 0);
        assert!(Processes::new(vec![u32::MAX]).is_err());
    }
}
