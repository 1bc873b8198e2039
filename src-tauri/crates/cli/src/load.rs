//! Loading the model that a command line names.

use std::ops::ControlFlow;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use octet_engine::{Engine, Fill, LoadOptions, LoadProgress, LoadStage, Loaded};

use crate::args::EngineArgs;
use crate::models::folder_or_name;
use crate::output::note_threads;

/// The model's folder or file.
pub fn model_dir(args: &EngineArgs) -> anyhow::Result<PathBuf> {
    match args.model() {
        Some(dir) => folder_or_name(dir),
        None => Ok(octet_demo::ensure()?),
    }
}

/// Loads the model; on a GPU with all that the plan keeps there and in RAM, while on the CPU
/// files are read as they are used, and ahead of that while nothing else is to be done.
pub fn load(args: &EngineArgs) -> anyhow::Result<Loaded> {
    open(args, args.options(), Fill::Behind)
}

/// Loads the model with all that the plan keeps in memory, so that nothing is left to the first
/// tokens.
pub fn load_all(args: &EngineArgs, options: LoadOptions) -> anyhow::Result<Loaded> {
    open(args, options, Fill::All)
}

/// Loads the model, with a bar where somebody watches.
fn open(args: &EngineArgs, options: LoadOptions, fill: Fill) -> anyhow::Result<Loaded> {
    note_threads(args.threads());
    let style = "Loading {bar:30} {decimal_bytes} of {decimal_total_bytes}";
    // Hidden by itself where standard error is no terminal.
    let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(style)?);
    let show = |progress: LoadProgress| {
        // What comes before takes no time that is worth a bar.
        if progress.stage >= LoadStage::Experts {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        }
        ControlFlow::Continue(())
    };
    let loader = Engine::builder(model_dir(args)?).options(options);
    let loaded = loader.fill(fill).watch(show).open();
    bar.finish_and_clear();
    Ok(loaded?)
}
