//! Memory limits that Linux control groups (containers, systemd units) put on this process.
//!
//! A group's usage includes the page cache of the files it read. The kernel gives those pages
//! back before it refuses memory, so they count as available here: a checkpoint that was just
//! downloaded or mapped must not make the machine look full. Limits of all enclosing groups
//! hold at once; the tightest counts.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// What the tightest enclosing control group allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryLimit {
    pub limit_bytes: u64,
    pub available_bytes: u64,
}

/// Where a version of the interface keeps its figures.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Keys of `memory.stat` whose sum is the page cache, without shared memory.
    page_cache: [&'static str; 2],
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    page_cache: ["total_active_file", "total_inactive_file"],
};

const V2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    page_cache: ["active_file", "inactive_file"],
};

/// The limit on this process, or `None` if there is none.
#[cfg(target_os = "linux")]
pub(super) fn memory_limit() -> Option<MemoryLimit> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_of(&membership, Path::new("/sys/fs/cgroup"))
}

/// `membership` is the text of `/proc/self/cgroup`, `root` where the hierarchies are mounted.
fn limit_of(membership: &str, root: &Path) -> Option<MemoryLimit> {
    membership
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_id, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
            if controllers.is_empty() {
                tightest(root, group, &V2)
            } else if controllers.split(',').any(|name| name == "memory") {
                tightest(&root.join("memory"), group, &V1)
            } else {
                None
            }
        })
        .reduce(both)
}

/// The limits of `group` and of all groups around it, up to the mount point.
fn tightest(mount: &Path, group: &str, files: &Files) -> Option<MemoryLimit> {
    // Inside a container the path may be the host's, and then leads nowhere below the mount
    // point: the walk up passes over what is not there and ends at the container's own group.
    let below: PathBuf = Path::new(group)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    below
        .ancestors()
        .filter_map(|group| limit_in(&mount.join(group), files))
        .reduce(both)
}

fn both(a: MemoryLimit, b: MemoryLimit) -> MemoryLimit {
    MemoryLimit {
        limit_bytes: a.limit_bytes.min(b.limit_bytes),
        available_bytes: a.available_bytes.min(b.available_bytes),
    }
}

fn limit_in(dir: &Path, files: &Files) -> Option<MemoryLimit> {
    // An unlimited v2 group reads "max", which is no number; v1 gives a number beyond any RAM.
    let limit_bytes = read_number(&dir.join(files.limit))?;
    let usage_bytes = read_number(&dir.join(files.usage))?;
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let page_cache_bytes: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(key, _)| files.page_cache.contains(key))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum();
    let held_bytes = usage_bytes.saturating_sub(page_cache_bytes);
    Some(MemoryLimit {
        limit_bytes,
        available_bytes: limit_bytes.saturating_sub(held_bytes),
    })
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(dir: &Path, files: &Files, limit: &str, usage: u64, page_cache: u64) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(files.limit), format!("{limit}\n")).unwrap();
        fs::write(dir.join(files.usage), format!("{usage}\n")).unwrap();
        let [active, inactive] = files.page_cache;
        let stat = format!("anon 7\n{active} {page_cache}\n{inactive} 1\nslab 3\n");
        fs::write(dir.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn v2_page_cache_is_available_and_the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let slice = root.path().join("user.slice");
        group(&slice, &V2, "1000", 900, 499);
        group(&slice.join("app.scope"), &V2, "max", 50, 0);
        assert_eq!(
            limit_of("0::/user.slice/app.scope\n", root.path()),
            Some(MemoryLimit {
                limit_bytes: 1000,
                available_bytes: 600
            })
        );
        group(&slice.join("app.scope"), &V2, "300", 51, 0);
        assert_eq!(
            limit_of("0::/user.slice/app.scope\n", root.path()),
            Some(MemoryLimit {
                limit_bytes: 300,
                available_bytes: 250
            })
        );
    }

    #[test]
    fn v1_is_read_from_the_memory_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        group(&root.path().join("memory/a/b"), &V1, "2000", 1500, 99);
        let membership = "9:name=systemd:/x\n4:cpu,memory:/a/b\n0::/\n";
        assert_eq!(
            limit_of(membership, root.path()),
            Some(MemoryLimit {
                limit_bytes: 2000,
                available_bytes: 600
            })
        );
    }

    #[test]
    fn a_host_path_seen_from_a_container_ends_at_the_mount_point() {
        let root = tempfile::tempdir().unwrap();
        group(root.path(), &V2, "4096", 96, 10);
        for membership in ["0::/docker/0123abcd", "0::/../../other.slice", "0::/"] {
            let limit = limit_of(membership, root.path()).expect(membership);
            assert_eq!(limit.limit_bytes, 4096, "{membership}");
            assert_eq!(limit.available_bytes, 4011, "{membership}");
        }
    }

    #[test]
    fn of_two_hierarchies_each_gives_its_tighter_figure() {
        let root = tempfile::tempdir().unwrap();
        group(&root.path().join("memory/a"), &V1, "2000", 101, 0);
        group(&root.path().join("b"), &V2, "3000", 2901, 0);
        assert_eq!(
            limit_of("4:memory:/a\n0::/b\n", root.path()),
            Some(MemoryLimit {
                limit_bytes: 2000,
                available_bytes: 100
            })
        );
    }

    #[test]
    fn no_limit_is_found_where_none_is_set() {
        let root = tempfile::tempdir().unwrap();
        group(root.path(), &V2, "max", 50, 0);
        assert_eq!(limit_of("0::/\n", root.path()), None);
        assert_eq!(limit_of("nonsense\n4:cpu:/\n", root.path()), None);
        assert_eq!(limit_of("", root.path()), None);
    }
}
