//! The most memory this process has held.

/// Bytes of resident memory at the peak (on Windows, now); `None` where the system does not tell.
pub fn peak_rss_bytes() -> Option<u64> {
    imp::peak()
}

#[cfg(target_os = "linux")]
mod imp {
    /// `VmHWM`, which unlike `getrusage` does not count what the parent process held.
    pub fn peak() -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
mod imp {
    pub fn peak() -> Option<u64> {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is valid for writes, and zeroes are a valid `rusage`.
        let usage = unsafe {
            if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
                return None;
            }
            usage.assume_init()
        };
        // Bytes on macOS, kilobytes on the BSDs.
        let unit = if cfg!(target_vendor = "apple") {
            1
        } else {
            1024
        };
        u64::try_from(usage.ru_maxrss).ok().map(|peak| peak * unit)
    }
}

#[cfg(not(unix))]
mod imp {
    use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

    pub fn peak() -> Option<u64> {
        let pid = sysinfo::get_current_pid().ok()?;
        let mut system = System::new();
        let what = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
        Some(system.process(pid)?.memory())
    }
}
