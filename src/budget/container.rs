//! The memory limit of the container or systemd unit, from Linux' control groups.

use std::fs;
use std::path::{Path, PathBuf};

/// The lowest memory limit on this process, in bytes; `None` if there is none, or no control
/// groups.
pub(super) fn memory_limit() -> Option<usize> {
    lowest(
        Path::new("/sys/fs/cgroup"),
        &fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
    )
}

/// The lowest limit of the control groups in `own`, the process' `/proc/self/cgroup`: a line
/// `ID:CONTROLLERS:PATH` for each hierarchy.
fn lowest(root: &Path, own: &str) -> Option<usize> {
    let files = own.lines().flat_map(|line| limit_files(root, line));
    // `max` is no number. Version 1 has a number near 2^63 for "no limit".
    let numbers =
        files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    let limits = numbers.filter(|bytes| *bytes < 1 << 60);
    limits.min().map(|bytes| bytes as usize)
}

/// The files that may hold a limit of one line's group.
fn limit_files(root: &Path, line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let controllers = fields.next().unwrap_or_default();
    let path = fields.next().unwrap_or_default();
    let is_of_memory = controllers.split(',').any(|name| name == "memory");
    let (root, file) = match controllers {
        // Version 2 has one hierarchy for all controllers.
        "" => (root.to_owned(), "memory.max"),
        _ if is_of_memory => (root.join("memory"), "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    // The limits of the groups above count, too. In a container the path may be the host's, and
    // only the root exists.
    let group = root.join(path.trim_start_matches('/'));
    let groups = group
        .ancestors()
        .take_while(|group| group.starts_with(&root));
    groups.map(|group| group.join(file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_above_the_process_counts() {
        let dir =
            std::env::temp_dir().join(format!("echocast-cgroup-{:016x}", rand::random::<u64>()));
        let write = |file: &str, text: &str| {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
            fs::write(path, text).expect("a file");
        };
        assert_eq!(lowest(&dir, "0::/\n"), None);
        write("memory.max", "max\n");
        assert_eq!(lowest(&dir, "0::/unit\n"), None);
        write("unit/memory.max", "2000\n");
        write("unit/inner/memory.max", "3000\n");
        assert_eq!(lowest(&dir, "0::/unit/inner\n"), Some(2000));
        assert_eq!(lowest(&dir, "0::/of/the/host\n"), None);
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/docker/memory.limit_in_bytes", "1000\n");
        assert_eq!(
            lowest(&dir, "5:cpu,memory:/docker\n1:name=systemd:/unit\n"),
            Some(1000)
        );
        fs::remove_dir_all(dir).expect("it is there");
    }
}
