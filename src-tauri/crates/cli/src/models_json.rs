//! `octet models list --json`: what the library tells, with failures, damage and formats in words.

use octet_models::{
    Download, DownloadState, Health, InstalledModel, ModelsState, Offer, Quantization, WeightFormat,
};
use serde_json::{Value, json};

use crate::models::listed;
use crate::plan_report;

/// The whole report.
pub fn report(installed: &[InstalledModel], state: &ModelsState, offers: &[Offer]) -> Value {
    let mut settings = json!(state.settings);
    settings["tokenNote"] = json!(state.settings.token_note.as_ref().map(ToString::to_string));
    json!({
        "installed": installed.iter().map(model).collect::<Vec<_>>(),
        "downloads": state.downloads.iter().map(download).collect::<Vec<_>>(),
        "offers": offers.iter().map(offer).collect::<Vec<_>>(),
        "settings": settings,
    })
}

fn model(model: &InstalledModel) -> Value {
    let mut json = json!(model);
    json["fit"] = json!(model.fit.as_ref().map(plan_report::fit_json));
    if let Health::Damaged {
        files, can_repair, ..
    } = &model.health
    {
        json["health"] = json!({
            "kind": "damaged",
            "message": model.health.message(),
            "files": files.iter().map(|bad| &bad.file).collect::<Vec<_>>(),
            "canRepair": can_repair,
        });
    }
    if let (Some(shape), Value::Object(fields)) = (&model.shape, &mut json["shape"]) {
        let Quantization { experts, attention } = &shape.quantization;
        fields.remove("quantization");
        fields.insert("expertQuantization".to_owned(), json!(listed(experts)));
        fields.insert("attentionQuantization".to_owned(), json!(listed(attention)));
    }
    json
}

fn download(download: &Download) -> Value {
    let mut json = json!(download);
    if let DownloadState::Retrying { problem, .. } | DownloadState::Failed { problem } =
        &download.state
    {
        json["state"]["problem"] = json!({
            "code": problem.code(),
            "message": problem.message(),
            "hint": problem.hint(),
        });
    }
    json
}

fn offer(offer: &Offer) -> Value {
    let mut json = json!(offer);
    json["fit"] = plan_report::fit_json(&offer.fit);
    json["quantization"] = json!(offer.quantization.as_ref().map(in_short));
    json
}

/// As the catalogue tells it: `HQQ: 2-bit experts in groups of 16, 4-bit attention in groups of 64`.
fn in_short(quantization: &Quantization) -> String {
    let part = |formats: &[WeightFormat], what: &str| match formats.first() {
        Some(WeightFormat::Hqq {
            bits, group_size, ..
        }) => {
            let groups = group_size.map_or(String::new(), |size| format!(" in groups of {size}"));
            format!("{bits}-bit {what}{groups}")
        }
        Some(WeightFormat::Gguf { name, .. }) => format!("{name} {what}"),
        None => what.to_owned(),
    };
    format!(
        "HQQ: {}, {}",
        part(&quantization.experts, "experts"),
        part(&quantization.attention, "attention")
    )
}

#[cfg(test)]
mod tests {
    use octet_models::{ModelsError, Quantization, WeightFormat};

    use super::*;

    #[test]
    fn formats_are_told_in_words() {
        let mut quantization = Quantization {
            experts: vec![WeightFormat::hqq(2, Some(16))],
            attention: vec![WeightFormat::hqq(4, Some(64))],
        };
        assert_eq!(
            in_short(&quantization),
            "HQQ: 2-bit experts in groups of 16, 4-bit attention in groups of 64"
        );
        quantization.experts = vec![WeightFormat::hqq(3, None)];
        assert_eq!(
            in_short(&quantization),
            "HQQ: 3-bit experts, 4-bit attention in groups of 64"
        );
    }

    #[test]
    fn a_failed_download_keeps_code_message_and_hint() {
        let failed = Download {
            repo: "ada/m".to_owned(),
            state: DownloadState::Failed {
                problem: ModelsError::Missing {
                    what: "ada/m".to_owned(),
                },
            },
            done_bytes: 0,
            total_bytes: 0,
            files_done: 0,
            files: 0,
            bytes_per_sec: 0.0,
            seconds_left: None,
            is_repair: false,
        };
        assert_eq!(
            download(&failed)["state"],
            json!({
                "kind": "failed",
                "problem": {
                    "code": "missing",
                    "message": "The hub has no ada/m, or it is private.",
                    "hint": "Check the spelling; if it is private, enter an access token of an \
                             account that can read it.",
                },
            })
        );
    }
}
