//! How much memory the container or systemd unit allows this process, as Linux' control groups
//! tell.

use std::fs;
use std::path::Path;

/// The lowest memory limit on this process, in bytes; `None` if there is none, or no control
/// groups.
pub fn memory_limit() -> Option<usize> {
    lowest(
        Path::new("/sys/fs/cgroup"),
        &fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
    )
}

/// `own` is the process' `/proc/self/cgroup`: a line `ID:CONTROLLERS:PATH` for each hierarchy.
fn lowest(root: &Path, own: &str) -> Option<usize> {
    let limits = own.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (
            fields.next().unwrap_or_default(),
            fields.next().unwrap_or_default(),
        );
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        // The limits above it hold, too. In a container the path may be the host's, and only the
        // root is there.
        let path = root.join(path.trim_start_matches('/'));
        path.ancestors()
            .take_while(|group| group.starts_with(&root))
            .map(|group| group.join(file))
            .collect()
    });
    // `max` is no number; version 1 says "no limit" with one near 2^63.
    let numbers =
        limits.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    numbers
        .filter(|bytes| *bytes < 1 << 60)
        .min()
        .map(|bytes| bytes as usize)
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
