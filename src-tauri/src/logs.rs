//! Logs: one file a day, the last few kept, and never what a chat says.

use std::path::Path;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::EnvFilter;

/// Days that are kept.
const DAYS: usize = 7;

/// Name of the files, before the date.
const PREFIX: &str = "octet";

/// Lines of the newest file that diagnostics show.
const TAIL_LINES: usize = 60;

/// Writes logs into `dir` from now on, as long as the guard lives. `OCTET_LOG` sets what is
/// logged, in the syntax of `tracing-subscriber`; `info` without it.
pub fn start(dir: &Path) -> Option<WorkerGuard> {
    let appender = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix(PREFIX)
        .filename_suffix("log")
        .max_log_files(DAYS)
        .build(dir)
        .inspect_err(|error| eprintln!("octet: no log in {}: {error}", dir.display()))
        .ok()?;
    let (writer, guard) = tracing_appender::non_blocking(appender);
    let filter = EnvFilter::try_from_env("OCTET_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(false)
        .try_init();
    // A second start in one process keeps the first one's log.
    logging.is_ok().then_some(guard)
}

/// The end of the newest log in `dir`.
pub fn tail(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let is_log = |name: &str| name.starts_with(PREFIX) && name.ends_with(".log");
    let newest = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| is_log(&name.to_string_lossy()))
        })
        // Dates in names sort by time.
        .max();
    let text = newest
        .and_then(|path| std::fs::read(path).ok())
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_that_of_the_newest_log() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("octet.2026-11-22.log", "old");
        write("octet.2026-11-23.log", &"line\n".repeat(100));
        write("other.txt", "no log");
        assert_eq!(tail(dir.path()).lines().count(), TAIL_LINES);
        assert_eq!(tail(&dir.path().join("nothing")), "");
    }
}
