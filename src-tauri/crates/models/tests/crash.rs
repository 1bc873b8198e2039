//! Programs that are killed and disks that fill up.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::*;
use octet_models::{DownloadEnd, DownloadState, Manager, ModelsError, PauseReason};
use octet_test_hub::{Fault, FaultKind, TestHub};

/// Set in the process that is to be killed.
const CHILD: &str = "OCTET_TEST_DOWNLOAD";

/// With a trunk of 16 MB.
fn larger_model() -> BTreeMap<String, Vec<u8>> {
    let mut files = random_model(32_000, 5, false);
    files.insert(
        "tokenizer.json".to_owned(),
        model_files()["tokenizer.json"].clone(),
    );
    files
}

/// What the killed process does: run by itself, it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_downloads() {
    let Ok(text) = std::env::var(CHILD) else {
        println!("skipped: only for another test to run");
        return;
    };
    let (url, home) = text.split_once('|').unwrap();
    let manager = Manager::open(options(url, Path::new(home))).unwrap();
    manager.download(MODEL).await.unwrap();
    manager.wait(MODEL).await.unwrap();
}

fn child(url: &str, home: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_downloads", "--nocapture"])
        .env(CHILD, format!("{url}|{}", home.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_download_goes_on_and_fetches_next_to_nothing_twice() {
    const KILLS: usize = 3;
    const LOST_AT_MOST: u64 = 8 << 20;
    let files = larger_model();
    let hub = TestHub::start(0).await.unwrap();
    hub.publish(MODEL, repo(files.clone()));
    let mut bench = Bench::at(hub);
    let slow = FaultKind::Slow {
        bytes_per_sec: 6_000_000,
    };
    bench
        .hub
        .misbehave(Fault::bytes(".safetensors", 100_000, slow));
    let sent = |bench: &Bench| bench.hub.sent_bytes().values().sum::<u64>();
    for kill in 1..=KILLS {
        let mut child = child(&bench.hub.url(), bench.home.path());
        while sent(&bench) < kill as u64 * 4_000_000 {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended before it was killed"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    bench.hub.behave();
    bench.restart();
    let state = bench.shown().unwrap().state;
    let reason = PauseReason::Interrupted;
    assert_eq!(state, DownloadState::Paused { reason });
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    bench.assert_complete(&files).await;
    // Each connection began no more than that before the end of the one before it.
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let mut resumed = 0;
    for served in bench.hub.served() {
        let Some(name) = served.file.filter(|name| name.ends_with(".safetensors")) else {
            continue;
        };
        let end = ends.entry(name.clone()).or_default();
        assert!(
            served.from + LOST_AT_MOST >= *end,
            "{name}: {} after {end}",
            served.from
        );
        resumed += u32::from(served.from > 0);
        *end = (served.from + served.sent_bytes).max(*end);
    }
    assert!(resumed >= 1, "nothing was resumed");
}

/// A small file system of its own, unmounted when it is dropped.
#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn new(bytes: u64) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output()
            .map_err(|error| error.to_string())?;
        match mount.status.success() {
            true => Ok(Self(folder)),
            false => Err(String::from_utf8_lossy(&mount.stderr).into_owned()),
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_is_an_error_and_what_arrived_is_kept() {
    let disk = match SmallDisk::new(26 << 20) {
        Ok(disk) => disk,
        Err(reason) => {
            skip(&format!("no small file system can be mounted: {reason}"));
            return;
        }
    };
    let files = larger_model();
    let hub = TestHub::start(0).await.unwrap();
    hub.publish(MODEL, repo(files.clone()));
    let mut bench = Bench::at(hub);
    bench.options.data_dir = disk.0.path().to_owned();
    // Too small from the start.
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![0; 20 << 20]).unwrap();
    bench.restart();
    let problem = bench.fail().await;
    assert_problem!(&problem, ModelsError::DiskFull { .. });
    let sent = bench.hub.sent_bytes();
    assert!(
        !sent.keys().any(|name| name.ends_with(".safetensors")),
        "nothing was begun"
    );

    // Filled by somebody else in the middle.
    std::fs::remove_file(&filler).unwrap();
    let slow = FaultKind::Slow {
        bytes_per_sec: 8_000_000,
    };
    bench
        .hub
        .misbehave(Fault::bytes(".safetensors", 1000, slow));
    bench.manager.download(MODEL).await.unwrap();
    while bench.shown().is_some_and(|d| d.done_bytes < 2_000_000) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::write(&filler, vec![0; 16 << 20]).unwrap();
    let problem = match bench.manager.wait(MODEL).await.unwrap() {
        DownloadEnd::Failed(problem) => problem,
        other => panic!("{other:?}"),
    };
    assert_problem!(&problem, ModelsError::DiskFull { .. });
    let kept = bench.shown().unwrap().done_bytes;
    assert!(kept >= 2_000_000, "{kept}");
    std::fs::remove_file(&filler).unwrap();
    bench.hub.behave();
    bench.restart();
    assert_eq!(bench.shown().unwrap().done_bytes, kept);
    assert_eq!(bench.download().await, DownloadEnd::Gone);
    let model = bench.the_model().await;
    assert!(read_folder(&model.path) == wanted(files));
}
