//! Runs that end early, and what is left of them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use common::{Form, Model, SMALL, contents};
use octet_kernels::Bits;
use octet_quantize::{Observer, Options, Plan, Progress, QuantizeError, STATE_FILE};
use safetensors::Dtype;

fn options() -> Options {
    let mut options = Options {
        threads: 2,
        ..Options::default()
    };
    options.attention.scale_group_size = Some(64);
    options
}

/// Stops once so many files are finished.
struct StopAfter {
    files: usize,
    seen: Mutex<Vec<Progress>>,
}

impl StopAfter {
    fn files(files: usize) -> Self {
        Self {
            files,
            seen: Mutex::new(Vec::new()),
        }
    }

    fn last(&self) -> Progress {
        *self.seen.lock().unwrap().last().unwrap()
    }
}

impl Observer for StopAfter {
    fn progress(&self, progress: &Progress) {
        self.seen.lock().unwrap().push(*progress);
    }

    fn should_stop(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .any(|progress| progress.files_done >= self.files)
    }
}

struct Place {
    _dir: tempfile::TempDir,
    source: PathBuf,
    out: PathBuf,
}

/// A source, and an output folder in which some files are finished.
fn begun(files: usize) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    Model::new(SMALL, 1).write(&source, Form::Separate, Dtype::BF16, 2);
    fs::write(source.join("tokenizer.json"), "{}").unwrap();
    let stop = StopAfter::files(files);
    let error = run(&source, &out, &options(), &stop).unwrap_err();
    let QuantizeError::Stopped { files_done, .. } = error else {
        panic!("{error}");
    };
    assert!(files_done >= files && files_done < 5, "{files_done}");
    Place {
        _dir: dir,
        source,
        out,
    }
}

fn run(
    source: &Path,
    out: &Path,
    options: &Options,
    observer: &dyn Observer,
) -> Result<octet_quantize::Summary, QuantizeError> {
    Plan::new(source, options)?.run(out, observer)
}

/// What a run that nothing disturbs writes.
fn whole(place: &Place) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let out = place.out.with_file_name("whole");
    run(&place.source, &out, &options(), &()).unwrap();
    contents(&out)
}

#[test]
fn a_stopped_run_goes_on_where_it_was() {
    for files in [0, 1, 3] {
        let place = begun(files);
        let left = contents(&place.out);
        let names: Vec<&str> = left.keys().map(|name| name.to_str().unwrap()).collect();
        assert!(names.contains(&STATE_FILE));
        assert!(
            !names.iter().any(|name| name.ends_with(".incomplete")),
            "{names:?}"
        );
        assert!(!names.contains(&"model.safetensors.index.json"));

        let watch = StopAfter::files(usize::MAX);
        let summary = run(&place.source, &place.out, &options(), &watch).unwrap();
        assert_eq!(summary.kept_files, left.len() - 1);
        assert_eq!(summary.files, 5);
        let progress = watch.last();
        assert_eq!(progress.done_bytes, progress.total_bytes);
        assert_eq!((progress.files_done, progress.files), (5, 5));
        assert_eq!(progress.kept_bytes > 0, files > 0);
        let first = watch.seen.lock().unwrap()[0];
        assert_eq!(first.done_bytes, first.kept_bytes);
        assert!(contents(&place.out) == whole(&place));
    }
}

#[test]
fn the_errors_of_kept_files_are_in_the_summary() {
    let place = begun(2);
    let summary = run(&place.source, &place.out, &options(), &()).unwrap();
    let other = place.out.with_file_name("other");
    let expected = run(&place.source, &other, &options(), &()).unwrap();
    assert_eq!(summary.experts, expected.experts);
    assert_eq!(summary.attention, expected.attention);
}

#[test]
fn what_a_killed_run_leaves_is_no_obstacle() {
    let place = begun(2);
    let state = place.out.join(STATE_FILE);
    // Half a line, half a file, and a file whose line was never written.
    let mut journal = fs::read(&state).unwrap();
    journal.extend_from_slice(br#"{"file":"model-00005-of-0"#);
    fs::write(&state, journal).unwrap();
    fs::write(
        place
            .out
            .join("model-00004-of-00005.safetensors.incomplete"),
        "x",
    )
    .unwrap();
    fs::write(place.out.join("model-00005-of-00005.safetensors"), "y").unwrap();
    run(&place.source, &place.out, &options(), &()).unwrap();
    assert!(contents(&place.out) == whole(&place));
}

#[test]
fn a_run_killed_before_its_first_line_is_no_obstacle() {
    let place = begun(0);
    fs::write(place.out.join(STATE_FILE), r#"{"version":1,"sou"#).unwrap();
    run(&place.source, &place.out, &options(), &()).unwrap();
    assert!(contents(&place.out) == whole(&place));
}

#[test]
fn files_that_changed_since_are_made_again() {
    let place = begun(3);
    let damaged = fs::read_dir(&place.out)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .unwrap();
    let mut bytes = fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let summary = run(&place.source, &place.out, &options(), &()).unwrap();
    assert!(summary.kept_files >= 2);
    assert!(contents(&place.out) == whole(&place));
}

#[test]
fn other_options_are_refused_by_name() {
    let place = begun(1);
    let mut other = options();
    other.experts.bits = Bits::B4;
    other.round_to_nearest = true;
    let message = run(&place.source, &place.out, &other, &())
        .unwrap_err()
        .to_string();
    for part in [
        "expert bits 2 then, 4 now",
        "round to nearest 0 then, 1 now",
        "new folder",
    ] {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
    // Threads change nothing.
    let threads = Options {
        threads: 1,
        ..options()
    };
    run(&place.source, &place.out, &threads, &()).unwrap();
}

#[test]
fn another_source_is_refused_by_what_differs() {
    let place = begun(1);
    let refusal = |source: &Path| {
        let error = run(source, &place.out, &options(), &()).unwrap_err();
        assert!(matches!(error, QuantizeError::OtherRun { .. }), "{error}");
        error.to_string()
    };
    let other = place.source.with_file_name("other");
    Model::new(SMALL, 2).write(&other, Form::Separate, Dtype::BF16, 2);
    let message = refusal(&other);
    assert!(message.contains("holds other weights"), "{message}");
    assert!(message.contains("source"), "{message}");

    let mut model = Model::new(SMALL, 1);
    model.config["rms_norm_eps"] = 1e-6.into();
    model.write(&other, Form::Separate, Dtype::BF16, 2);
    assert!(refusal(&other).contains("config.json differs"));

    fs::remove_dir_all(&other).unwrap();
    Model::new(SMALL, 1).write(&other, Form::Separate, Dtype::F32, 2);
    assert!(refusal(&other).contains("now"));

    // The same files elsewhere are the same source.
    fs::remove_dir_all(&other).unwrap();
    fs::rename(&place.source, &other).unwrap();
    run(&other, &place.out, &options(), &()).unwrap();
}

#[test]
fn a_folder_in_use_is_refused() {
    let place = begun(1);
    let state = fs::File::open(place.out.join(STATE_FILE)).unwrap();
    state.lock().unwrap();
    let error = run(&place.source, &place.out, &options(), &()).unwrap_err();
    assert!(matches!(error, QuantizeError::InUse { .. }), "{error}");
    drop(state);
    run(&place.source, &place.out, &options(), &()).unwrap();
}

#[test]
fn folders_that_hold_anything_else_are_refused_and_left_alone() {
    let place = begun(0);
    let refusal = |out: &Path| run(&place.source, out, &options(), &()).unwrap_err();
    let other = place.out.with_file_name("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("letter.txt"), "dear").unwrap();
    assert!(refusal(&other).to_string().contains("not empty"));
    assert_eq!(contents(&other).len(), 1);

    assert!(
        refusal(&other.join("letter.txt"))
            .to_string()
            .contains("not a folder")
    );

    fs::write(other.join(STATE_FILE), "gibberish\n").unwrap();
    assert!(refusal(&other).to_string().contains("damaged"));
    assert_eq!(fs::read(other.join(STATE_FILE)).unwrap(), b"gibberish\n");

    let finished = place.out.with_file_name("finished");
    run(&place.source, &finished, &options(), &()).unwrap();
    let before = contents(&finished);
    assert!(
        refusal(&finished)
            .to_string()
            .contains("finished checkpoint")
    );
    assert!(contents(&finished) == before);

    for inside in [place.source.clone(), place.source.join("deeper/still")] {
        let error = refusal(&inside);
        assert!(
            matches!(error, QuantizeError::OutInSource { .. }),
            "{error}"
        );
    }
    assert!(!place.source.join("deeper").exists());
}
