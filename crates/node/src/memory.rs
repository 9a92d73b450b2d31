//! How much memory there is for this process: the machine's, or less if a control group says so.

use std::path::Path;

/// The least of the machine's memory and the limits of all control groups around this process.
/// `None`: nothing of that can be read.
pub(crate) fn available_bytes() -> Option<u64> {
    least_of(Path::new("/"))
}

/// Files of the kernel are read below `root`, for tests.
fn least_of(root: &Path) -> Option<u64> {
    machine(root).into_iter().chain(control_groups(root)).min()
}

/// `MemTotal:  16384 kB`
fn machine(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// Limits of this process's control group and of those around it, in versions 1 and 2 of the
/// interface. A group may be seen from inside a container by another path: those that are not there
/// say nothing.
fn control_groups(root: &Path) -> Vec<u64> {
    let mut limits = Vec::new();
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (base, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for ancestor in Path::new(group.trim_start_matches('/')).ancestors() {
            let path = root.join(base).join(ancestor).join(file);
            // "max" is no number, and no limit.
            let limit = std::fs::read_to_string(path).ok();
            limits.extend(limit.and_then(|text| text.trim().parse::<u64>().ok()));
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 5 kB\n");

    #[test]
    fn without_control_groups_it_is_the_machines() {
        assert_eq!(least_of(tree(&[MEMINFO]).path()), Some(1_024_000));
        assert_eq!(least_of(tree(&[]).path()), None);
        assert!(available_bytes().unwrap() > 1 << 20);
    }

    #[test]
    fn the_tightest_group_around_the_process_counts() {
        let own = ("sys/fs/cgroup/a/b/memory.max", "max\n");
        let around = ("sys/fs/cgroup/a/memory.max", "4096\n");
        let elsewhere = ("sys/fs/cgroup/c/memory.max", "1\n");
        let group = ("proc/self/cgroup", "0::/a/b\n");
        let files = [MEMINFO, own, around, elsewhere, group];
        assert_eq!(least_of(tree(&files).path()), Some(4_096));
        let seen_from_inside = ("sys/fs/cgroup/memory.max", "8192\n");
        let files = [MEMINFO, seen_from_inside, ("proc/self/cgroup", "0::/\n")];
        assert_eq!(least_of(tree(&files).path()), Some(8_192));
    }

    #[test]
    fn the_first_version_of_the_interface_is_understood() {
        let limit = ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "2048\n");
        let groups = ("proc/self/cgroup", "5:cpu,cpuacct:/y\n4:memory:/x\n");
        assert_eq!(
            least_of(tree(&[MEMINFO, limit, groups]).path()),
            Some(2_048)
        );
        let none = (
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(
            least_of(tree(&[MEMINFO, none, groups]).path()),
            Some(1_024_000)
        );
    }
}
