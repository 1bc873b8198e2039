//! `octet models`: models from the hub and on this machine.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use octet_engine::plan::{PlanRequest, format_bytes};
use octet_models::{
    Download, DownloadEnd, DownloadState, Health, ImportHow, InstalledModel, Lease, Manager,
    ModelSource, ModelsError, Offer, OfferStatus, Options, TransferOptions, VerifyReport,
    WeightFormat,
};

use crate::args::ModelsCommand;
use crate::interrupt::on_interrupt;
use crate::models_json;
use crate::output::{count, stdout};
use crate::plan_text;

pub fn run(command: &ModelsCommand) -> anyhow::Result<()> {
    let manager = open()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the program's threads cannot be started")?;
    runtime.block_on(async {
        match command {
            ModelsCommand::List { json } => list(&manager, *json).await,
            ModelsCommand::Pull { name, dry_run } => {
                let name = match name {
                    Some(name) => name.clone(),
                    None => recommended(&manager).await?,
                };
                match dry_run {
                    true => offer(&manager, &name).await,
                    false => pull(&manager, &name).await,
                }
            }
            ModelsCommand::Verify { name, repair } => verify(&manager, name, *repair).await,
            ModelsCommand::Remove { name } => remove(&manager, name).await,
            ModelsCommand::Import { folder, copy } => import(&manager, folder, *copy).await,
        }
    })
}

fn open() -> anyhow::Result<Manager> {
    Ok(Manager::open(Options::of_user()?)?)
}

/// Until the program ends, nobody deletes, repairs or moves the model in `folder`.
fn hold(manager: &Manager, folder: &Path) -> anyhow::Result<()> {
    static HELD: Mutex<Vec<Lease>> = Mutex::new(Vec::new());
    let lease = manager.lease(folder)?;
    HELD.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(lease);
    Ok(())
}

/// What `--model` means: a folder, or else an installed model's name.
pub fn folder_or_name(given: &Path) -> anyhow::Result<PathBuf> {
    if given.exists() {
        // Whose models folder cannot be opened has no model in it.
        if let Ok(manager) = open() {
            hold(&manager, given)?;
        }
        return Ok(given.to_owned());
    }
    let name = given.to_string_lossy();
    // Where it looks like a path it is one, and the engine says what is wrong with it.
    if given.is_absolute() || name.starts_with('.') {
        return Ok(given.to_owned());
    }
    let manager = open()?;
    match manager.folder_of(&name) {
        Ok(folder) => {
            hold(&manager, &folder)?;
            Ok(folder)
        }
        Err(ModelsError::NotFound { .. })
            if manager.state().downloads.iter().any(|d| d.repo == name) =>
        {
            anyhow::bail!("{name} is not complete yet: octet models pull {name} resumes it")
        }
        Err(ModelsError::NotFound { .. }) => anyhow::bail!(
            "there is no folder {name:?} and no installed model of that name; octet models list \
             shows them"
        ),
        Err(error) => Err(error.into()),
    }
}

async fn recommended(manager: &Manager) -> anyhow::Result<String> {
    let offers = manager.offers(&PlanRequest::default()).await;
    let marked = offers.iter().find(|offer| offer.is_recommended);
    let offer = marked
        .or(offers.first())
        .context("there is no recommended model: give a name, as in owner/name")?;
    Ok(offer.repo.clone())
}

async fn list(manager: &Manager, as_json: bool) -> anyhow::Result<()> {
    let plan = PlanRequest::default();
    let installed = manager.installed(&plan).await?;
    let offers = manager.offers(&plan).await;
    let state = manager.state();
    let mut out = stdout();
    if as_json {
        let report = models_json::report(&installed, &state, &offers);
        writeln!(out, "{report:#}")?;
        return Ok(());
    }
    for model in &installed {
        show(&mut out, model)?;
    }
    for download in &state.downloads {
        let repo = &download.repo;
        match download.total_bytes {
            0 => writeln!(
                out,
                "{repo}\n    not started; octet models pull {repo} tries again"
            )?,
            total => writeln!(
                out,
                "{repo}\n    unfinished: {} of {}; octet models pull {repo} resumes it",
                format_bytes(download.done_bytes),
                format_bytes(total)
            )?,
        }
    }
    if installed.is_empty() && state.downloads.is_empty() {
        writeln!(out, "No models in {}.", state.settings.folder.display())?;
    }
    let available = |offer: &&Offer| offer.status == OfferStatus::Available;
    for offer in offers.iter().filter(available) {
        writeln!(
            out,
            "Available: {}{}, {}, {}\n    {}{}\n    octet models pull {}",
            offer.title,
            match offer.is_recommended {
                true => " (recommended for this machine)",
                false => "",
            },
            format_bytes(offer.size_bytes),
            offer.license.as_deref().unwrap_or("licence unknown"),
            plan_text::summary(&offer.fit),
            match offer.disk.is_enough {
                true => "",
                false => "; not enough free disk space",
            },
            offer.repo
        )?;
    }
    Ok(())
}

fn show(out: &mut impl Write, model: &InstalledModel) -> io::Result<()> {
    if model.source == ModelSource::Linked && !model.path.exists() {
        return writeln!(
            out,
            "{}\n    linked, and gone: was it moved or its drive removed? octet models remove {} \
             takes it off the list",
            model.id,
            model.path.display()
        );
    }
    let size = match model.source {
        ModelSource::Linked => "linked".to_owned(),
        _ => format_bytes(model.size_bytes),
    };
    let since = date(model.installed_at_ms);
    let checked = match &model.health {
        Health::Good {
            verified_at_ms: Some(ms),
        } => format!(", checked {}", date(*ms)),
        _ => String::new(),
    };
    writeln!(
        out,
        "{}\n    {size}, since {since}{checked}, {}",
        model.id,
        model.path.display()
    )?;
    if let Some(shape) = &model.shape {
        writeln!(
            out,
            "    {}, {} at {}; attention at {}",
            count(shape.layers as usize, "layer"),
            count(shape.experts as usize, "expert"),
            listed(&shape.quantization.experts),
            listed(&shape.quantization.attention)
        )?;
    }
    match (&model.health, &model.fit) {
        (health @ Health::Damaged { can_repair, .. }, _) => {
            let message = health.message().unwrap_or_default();
            let repair = match can_repair {
                true => format!(" octet models verify --repair {} repairs it.", model.id),
                false => String::new(),
            };
            writeln!(out, "    DAMAGED: {message}{repair}")?;
        }
        (_, Some(fit)) => writeln!(out, "    {}", plan_text::summary(fit))?,
        _ => {}
    }
    if !model.has_tokenizer {
        writeln!(
            out,
            "    no tokenizer.json: text cannot be used, only --tokens"
        )?;
    }
    Ok(())
}

/// Formats one after the other.
pub(crate) fn listed(formats: &[WeightFormat]) -> String {
    let formats: Vec<String> = formats.iter().map(ToString::to_string).collect();
    formats.join("; ")
}

/// The day, in UTC.
fn date(ms: u64) -> String {
    let time = i64::try_from(ms).map(jiff::Timestamp::from_millisecond);
    match time {
        Ok(Ok(time)) => time.strftime("%Y-%m-%d").to_string(),
        _ => "an unknown day".to_owned(),
    }
}

async fn offer(manager: &Manager, name: &str) -> anyhow::Result<()> {
    let offer = manager.look_up(name, &PlanRequest::default()).await?;
    let mut out = stdout();
    writeln!(out, "Model      {} ({})", offer.repo, offer.page)?;
    let license = offer.license.as_deref().unwrap_or("unknown");
    writeln!(out, "Licence    {license}")?;
    writeln!(
        out,
        "Size       {} in {}",
        format_bytes(offer.size_bytes),
        count(offer.files as usize, "file")
    )?;
    match &offer.tokenizer_from[..] {
        [] => writeln!(
            out,
            "Tokenizer  NONE: the repository has none, and no known one fits this model, so it \
             cannot be pulled. Ask its authors to add tokenizer.json"
        )?,
        from => writeln!(out, "Tokenizer  from {}", from.join(", or "))?,
    }
    writeln!(out, "Fit        {}", plan_text::summary(&offer.fit))?;
    let free = offer
        .disk
        .free_bytes
        .map_or("unknown".to_owned(), format_bytes);
    let enough = match offer.disk.is_enough {
        true => "enough".to_owned(),
        false => format!(
            "not enough, because {} are kept free for the system",
            format_bytes(TransferOptions::default().disk_reserve_bytes)
        ),
    };
    let needed = format_bytes(offer.disk.needed_bytes);
    writeln!(out, "Disk       {needed} to write, {free} free: {enough}")?;
    Ok(())
}

async fn pull(manager: &Manager, name: &str) -> anyhow::Result<()> {
    pause_on_interrupt(manager, name)?;
    manager.download(name).await?;
    follow(manager, name).await?;
    let folder = manager.folder_of(name)?;
    let mut out = stdout();
    writeln!(out, "{}", folder.display())?;
    if io::stdout().is_terminal() {
        writeln!(
            out,
            "Every byte was compared. Talk to it: octet chat --model {name}"
        )?;
    }
    Ok(())
}

/// Ctrl-C pauses the download; again, it ends the program, which loses some chunks at most.
fn pause_on_interrupt(manager: &Manager, name: &str) -> anyhow::Result<()> {
    let (manager, name) = (manager.clone(), name.to_owned());
    let runtime = tokio::runtime::Handle::current();
    on_interrupt(move || {
        let (manager, name) = (manager.clone(), name.clone());
        runtime.spawn(async move {
            // It may have ended meanwhile.
            let _ = manager.pause(&name).await;
        });
    })
}

/// Ctrl-C ends whatever is under way in good order; again, it ends the program.
fn stop_on_interrupt(manager: &Manager) -> anyhow::Result<()> {
    let manager = manager.clone();
    let runtime = tokio::runtime::Handle::current();
    on_interrupt(move || {
        let manager = manager.clone();
        runtime.spawn(async move { manager.shut_down().await });
    })
}

/// Shows a download until it has ended.
async fn follow(manager: &Manager, name: &str) -> anyhow::Result<()> {
    let bar = progress_bar("{bar:32} {decimal_bytes} of {decimal_total_bytes} {msg}")?;
    let mut changes = manager.watch();
    let watching = async {
        loop {
            let download = changes
                .borrow_and_update()
                .downloads
                .iter()
                .find(|d| d.repo == name)
                .cloned();
            if let Some(download) = download {
                // Of length 0, before the sizes are known, it would be drawn full.
                if download.total_bytes > 0 {
                    bar.set_length(download.total_bytes);
                }
                bar.set_position(download.done_bytes);
                bar.set_message(message(&download));
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let ended = tokio::select! {
        ended = manager.wait(name) => ended?,
        () = watching => unreachable!("BUG: it watches for ever"),
    };
    bar.finish_and_clear();
    match ended {
        DownloadEnd::Gone => Ok(()),
        DownloadEnd::Paused => {
            anyhow::bail!("paused; octet models pull {name} resumes it")
        }
        DownloadEnd::Failed(problem) => {
            let token = match problem {
                ModelsError::Gated { .. } | ModelsError::Token { .. } => {
                    " octet takes it from HF_TOKEN."
                }
                _ => "",
            };
            anyhow::bail!("{} {}{token}", problem.message(), problem.hint())
        }
    }
}

fn message(download: &Download) -> String {
    let files = format!("{} of {} files", download.files_done, download.files);
    match &download.state {
        DownloadState::Running => {
            let speed = format_bytes(download.bytes_per_sec as u64);
            let left = download.seconds_left.map_or(String::new(), |seconds| {
                format!(
                    ", {} left",
                    HumanDuration(Duration::from_secs(seconds.into()))
                )
            });
            format!("{files}, {speed}/s{left}")
        }
        DownloadState::Preparing => "checking the repository".to_owned(),
        DownloadState::Stalled { seconds } => format!("{files}, nothing received for {seconds} s"),
        DownloadState::Retrying {
            in_seconds,
            problem,
        } => {
            format!("{files}, retrying in {in_seconds} s: {}", problem.message())
        }
        _ => files,
    }
}

fn progress_bar(style: &str) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(style)?);
    bar.enable_steady_tick(Duration::from_millis(500));
    Ok(bar)
}

/// Does long work under a bar.
async fn with_bar<T>(
    manager: &Manager,
    work: impl Future<Output = octet_models::Result<T>>,
) -> anyhow::Result<T> {
    let bar = progress_bar(
        "{bar:32} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
    )?;
    let mut changes = manager.watch();
    let watching = async {
        loop {
            if let Some(task) = changes.borrow_and_update().tasks.first() {
                if task.total_bytes > 0 {
                    bar.set_length(task.total_bytes);
                }
                bar.set_position(task.done_bytes);
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = watching => unreachable!("BUG: it watches for ever"),
    };
    bar.finish_and_clear();
    match done {
        // What it says of downloads does not hold for other work.
        Err(ModelsError::Cancelled) => anyhow::bail!("stopped; nothing was changed"),
        done => Ok(done?),
    }
}

async fn verify(manager: &Manager, name: &str, repair: bool) -> anyhow::Result<()> {
    stop_on_interrupt(manager)?;
    let report = with_bar(manager, manager.verify(name)).await?;
    let id = report.model.clone();
    show_report(&report)?;
    match (report.bad.is_empty(), repair) {
        (true, _) => Ok(()),
        (false, false) => {
            let bad = count(report.bad.len(), "file");
            match can_repair(manager, &id).await? {
                true => anyhow::bail!(
                    "{id} is damaged ({bad}): octet models verify --repair {id} downloads them again"
                ),
                false => {
                    anyhow::bail!("{id} is damaged ({bad}): remove it and import undamaged files")
                }
            }
        }
        (false, true) => {
            with_bar(manager, manager.repair(&id)).await?;
            follow(manager, &id).await?;
            Ok(writeln!(
                stdout(),
                "{id}: {} downloaded again",
                count(report.bad.len(), "file")
            )?)
        }
    }
}

/// Whether there is a place to get good files from.
async fn can_repair(manager: &Manager, id: &str) -> anyhow::Result<bool> {
    let installed = manager.installed(&PlanRequest::default()).await?;
    let model = installed.iter().find(|model| model.id == id);
    Ok(model.is_some_and(|model| model.source == ModelSource::Hub))
}

fn show_report(report: &VerifyReport) -> io::Result<()> {
    let mut out = stdout();
    for bad in &report.bad {
        writeln!(out, "{} {}", bad.file, bad.fault)?;
    }
    if report.files > 0 {
        let good = (report.files as usize).saturating_sub(report.bad.len());
        let bytes = format_bytes(report.bytes);
        writeln!(
            out,
            "{}: {} are as published ({bytes})",
            report.model,
            count(good, "file")
        )?;
    } else if report.bad.is_empty() {
        writeln!(
            out,
            "{}: the engine finds nothing wrong; no hashes are known",
            report.model
        )?;
    }
    Ok(())
}

async fn remove(manager: &Manager, name: &str) -> anyhow::Result<()> {
    let downloads = manager.state().downloads;
    if let Some(download) = downloads.iter().find(|d| d.repo == name && !d.is_repair) {
        manager.cancel(&download.repo).await?;
        let freed = freed(download.done_bytes);
        return Ok(writeln!(stdout(), "{name}: download cancelled{freed}")?);
    }
    let linked = manager.linked_folder(name)?;
    let removed = manager.remove(name).await?;
    let model = removed.model;
    let mut out = stdout();
    match linked {
        Some(folder) => writeln!(
            out,
            "{model}: removed from the list; its files stay in {}",
            folder.display()
        )?,
        None => writeln!(out, "{model}: removed{}", freed(removed.freed_bytes))?,
    }
    Ok(())
}

/// What a deletion brings, where that is anything.
fn freed(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        _ => format!(", {} freed", format_bytes(bytes)),
    }
}

async fn import(manager: &Manager, folder: &Path, copy: bool) -> anyhow::Result<()> {
    let how = if copy {
        ImportHow::Copy
    } else {
        ImportHow::Link
    };
    stop_on_interrupt(manager)?;
    let id = with_bar(manager, manager.import(folder, how)).await?;
    Ok(writeln!(stdout(), "{id}")?)
}
