//! The settings file.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use octet_engine::plan::{Misses, OffloadPreset};
use octet_store::StoreError;
use octet_store::settings::{
    Preset, SamplingSettings, Settings, SettingsFile, SettingsNotice, Theme, builtin_presets,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

fn scratch() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config").join("settings.json");
    fs::create_dir(path.parent().unwrap()).unwrap();
    (folder, path)
}

fn names(path: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn settings_come_back_as_they_were_saved() {
    let (_folder, path) = scratch();
    let (file, loaded) = SettingsFile::open(&path);
    assert!(loaded.is_new && loaded.notice.is_none());
    assert_eq!(loaded.settings, Settings::default());
    let mut settings = loaded.settings;
    settings.sampling.temperature = 0.3;
    settings.sampling.seed = Some(u64::MAX.to_string());
    settings.sampling.stop = vec!["\n\n".to_owned(), "</s>".to_owned()];
    settings.presets.push(Preset {
        name: "Mine".to_owned(),
        sampling: SamplingSettings::default(),
    });
    settings.active_preset = Some("Mine".to_owned());
    settings.offload.preset = OffloadPreset::Gpu12;
    settings.offload.misses = Misses::Fetch;
    settings.offload.vram_budget_bytes = Some(11.5e9);
    settings.appearance.theme = Theme::Dark;
    settings.last_model = Some("demo".to_owned());
    assert_eq!(file.save(&settings).unwrap(), settings);
    let (_, loaded) = SettingsFile::open(&path);
    assert!(!loaded.is_new && loaded.notice.is_none());
    assert_eq!(loaded.settings, settings);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"temperature\": 0.3,"), "{text}");
    assert!(text.contains("\"preset\": \"gpu12\""), "{text}");
    assert_eq!(names(&path), ["settings.json"]);
}

/// As version 0.1 wrote it, before the names of these choices were those of the memory plan.
#[test]
fn settings_of_an_earlier_version_are_read_as_they_were_meant() {
    let (_folder, path) = scratch();
    for (preset, misses, expected) in [
        ("auto", "auto", (OffloadPreset::Auto, Misses::Auto)),
        ("gpu16", "fetch", (OffloadPreset::Gpu16, Misses::Fetch)),
        ("gpu12", "cpu", (OffloadPreset::Gpu12, Misses::Cpu)),
        ("cpu", "auto", (OffloadPreset::Cpu, Misses::Auto)),
    ] {
        let text = format!(
            r#"{{
  "activePreset": "Mine",
  "appearance": {{
    "language": "de", "reduceMotion": "system", "textSize": 15, "theme": "dark", "zoom": 100
  }},
  "lastModel": "demo",
  "loadLastModelOnStart": true,
  "offload": {{
    "contextLength": 4096,
    "expertsPerLayerOnGpu": 3,
    "misses": "{misses}",
    "prefetch": 1,
    "preset": "{preset}",
    "ramBudgetBytes": 12000000000.0,
    "threads": 8,
    "vramBudgetBytes": 11500000000.0
  }},
  "paneOpen": true,
  "presets": [
    {{
      "name": "Mine",
      "sampling": {{
        "maxTokens": null, "minP": 0.0, "repetitionPenalty": 1.0, "seed": null, "stop": [],
        "systemPrompt": "", "temperature": 0.3, "topK": 0, "topP": 0.95
      }}
    }}
  ],
  "sampling": {{
    "maxTokens": null, "minP": 0.0, "repetitionPenalty": 1.0, "seed": null, "stop": [],
    "systemPrompt": "", "temperature": 0.3, "topK": 0, "topP": 0.95
  }},
  "sidebarOpen": true,
  "version": 1
}}"#
        );
        fs::write(&path, &text).unwrap();
        let (file, loaded) = SettingsFile::open(&path);
        assert!(loaded.notice.is_none(), "{:?}", loaded.notice);
        let offload = &loaded.settings.offload;
        assert_eq!((offload.preset, offload.misses), expected);
        assert_eq!(offload.experts_per_layer_on_gpu, Some(3));
        assert_eq!(loaded.settings.presets[0].sampling.temperature, 0.3);
        // It is written with the same names, which the earlier version reads.
        file.save(&loaded.settings).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(&text).unwrap());
    }
}

#[test]
fn saving_gives_back_what_was_kept() {
    let (_folder, path) = scratch();
    let (file, loaded) = SettingsFile::open(&path);
    let mut settings = loaded.settings;
    settings.sampling.temperature = 99.0;
    settings.active_preset = Some("Precise".to_owned());
    let kept = file.save(&settings).unwrap();
    assert_eq!(kept.sampling.temperature, 2.0);
    assert_eq!(kept.active_preset.as_deref(), Some("Precise"));
    assert_eq!(SettingsFile::open(&path).1.settings, kept);
}

#[test]
fn a_damaged_file_is_kept_aside_and_said() {
    let (_folder, path) = scratch();
    for (number, content) in [
        b"{\"sampling\":".as_slice(),
        b"",
        b"[1]",
        b"\xff\xff",
        b"nonsense",
    ]
    .iter()
    .enumerate()
    {
        fs::write(&path, content).unwrap();
        let (file, loaded) = SettingsFile::open(&path);
        assert_eq!(loaded.settings, Settings::default());
        assert!(!loaded.is_new);
        let Some(SettingsNotice::Unreadable { kept, detail }) = loaded.notice else {
            panic!("{:?}", loaded.notice)
        };
        assert!(!detail.is_empty());
        let name = format!("settings.damaged-{}.json", number + 1);
        assert_eq!(kept, path.with_file_name(&name));
        assert_eq!(fs::read(&kept).unwrap(), *content);
        file.save(&Settings::default()).unwrap();
        assert_eq!(SettingsFile::open(&path).1.notice, None);
    }
}

#[test]
fn one_bad_field_does_not_take_the_others_with_it() {
    let (_folder, path) = scratch();
    let content = json!({
        "sampling": {"temperature": "hot", "topP": 0.5, "topK": -3, "stop": ["a", 7, "b"], "seed": "x"},
        "presets": [
            {"name": "Good", "sampling": SamplingSettings::default()},
            {"name": 5},
        ],
        "offload": "all of it",
        "appearance": {"theme": "pink", "textSize": 99, "language": "de"},
        "sidebarOpen": false,
        "lastModel": null,
    });
    fs::write(&path, content.to_string()).unwrap();
    let (_, loaded) = SettingsFile::open(&path);
    let settings = loaded.settings;
    assert_eq!(settings.sampling.temperature, 0.7);
    assert_eq!(settings.sampling.top_p, 0.5);
    assert_eq!(settings.sampling.top_k, 0);
    assert_eq!(settings.sampling.stop, ["a", "b"]);
    assert_eq!(settings.sampling.seed, None);
    assert_eq!(settings.presets.len(), 1);
    assert_eq!(settings.offload, Settings::default().offload);
    assert_eq!(settings.appearance.theme, Theme::System);
    assert_eq!(settings.appearance.text_size, 22);
    assert_eq!(settings.appearance.language.as_deref(), Some("de"));
    assert!(!settings.sidebar_open);
    let Some(SettingsNotice::Reset { fields }) = &loaded.notice else {
        panic!("{:?}", loaded.notice)
    };
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "appearance.textSize",
            "appearance.theme",
            "offload",
            "presets",
            "sampling.seed",
            "sampling.stop",
            "sampling.temperature",
            "sampling.topK",
        ]
    );
    assert!(path.exists());
}

#[test]
fn fields_of_newer_versions_stay() {
    let (_folder, path) = scratch();
    let content = json!({
        "version": 7,
        "sampling": {"temperature": 0.1, "mirostat": {"tau": 5}},
        "presets": [{"name": "Mine", "sampling": SamplingSettings::default(), "icon": "star"}],
        "plugins": ["one"],
        "appearance": {"a/b~c": 1},
    });
    fs::write(&path, content.to_string()).unwrap();
    let (file, loaded) = SettingsFile::open(&path);
    assert_eq!(loaded.notice, None);
    let mut settings = loaded.settings;
    assert_eq!(settings.version, 7);
    settings.sampling.temperature = 0.2;
    file.save(&settings).unwrap();
    file.save(&settings).unwrap();
    let saved: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(saved["version"], 7);
    assert_eq!(saved["sampling"]["temperature"], 0.2);
    assert_eq!(saved["sampling"]["mirostat"]["tau"], 5);
    assert_eq!(saved["presets"][0]["icon"], "star");
    assert_eq!(saved["plugins"][0], "one");
    assert_eq!(saved["appearance"]["a/b~c"], 1);
    settings.presets.clear();
    file.save(&settings).unwrap();
    let saved: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(saved["presets"], json!([]));
}

#[test]
fn a_file_left_between_writing_and_renaming_is_no_matter() {
    let (_folder, path) = scratch();
    let (file, loaded) = SettingsFile::open(&path);
    file.save(&loaded.settings).unwrap();
    let fresh = path.with_file_name(".octet-abc.tmp");
    let stale = path.with_file_name(".octet-def.tmp");
    for half in [&fresh, &stale] {
        fs::write(half, "{\"version\": 1, \"samp").unwrap();
    }
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 3600);
    fs::File::options()
        .write(true)
        .open(&stale)
        .unwrap()
        .set_modified(then)
        .unwrap();
    let (_, loaded) = SettingsFile::open(&path);
    assert_eq!(loaded.notice, None);
    assert_eq!(loaded.settings, Settings::default());
    assert!(fresh.exists(), "somebody may be writing it");
    assert!(!stale.exists());
}

#[test]
fn what_cannot_be_written_is_said_and_the_file_stays() {
    let (_folder, path) = scratch();
    let blocked = path.join("below a file").join("settings.json");
    let (file, loaded) = SettingsFile::open(&path);
    file.save(&loaded.settings).unwrap();
    let before = fs::read(&path).unwrap();
    let (file, _) = SettingsFile::open(&blocked);
    let error = file.save(&Settings::default()).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_with_a_byte_order_mark_is_read() {
    let (_folder, path) = scratch();
    fs::write(&path, "\u{feff}{\"sidebarOpen\": false}").unwrap();
    let (_, loaded) = SettingsFile::open(&path);
    assert_eq!(loaded.notice, None);
    assert!(!loaded.settings.sidebar_open);
}

#[cfg(unix)]
#[test]
fn a_link_to_the_settings_stays_a_link() {
    let (folder, path) = scratch();
    let real = folder.path().join("dotfiles.json");
    fs::write(&real, "{}").unwrap();
    std::os::unix::fs::symlink(&real, &path).unwrap();
    let (file, loaded) = SettingsFile::open(&path);
    file.save(&loaded.settings).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("sampling"));
}

#[test]
fn built_in_presets_are_in_range() {
    for preset in builtin_presets() {
        let mut settings = Settings {
            sampling: preset.sampling.clone(),
            ..Settings::default()
        };
        assert_eq!(settings.bring_into_range(), [""; 0], "{}", preset.name);
    }
    assert_eq!(builtin_presets()[0].sampling, SamplingSettings::default());
}

proptest! {
    #[test]
    fn any_file_gives_settings_that_can_be_saved(
        cut in 0_usize..2000,
        insert in "[{}\\[\\]\":,0-9a-z.e-]{0,12}",
        value in prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from), "\\PC{0,9}".prop_map(Value::from)],
        field in 0_usize..40,
    ) {
        let (_folder, path) = scratch();
        let (file, loaded) = SettingsFile::open(&path);
        file.save(&loaded.settings).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let cut = cut % text.len();
        let broken = format!("{}{insert}{}", &text[..cut], &text[cut..]);
        let mut document: Value = serde_json::from_str(&text).unwrap();
        let mut leaves = Vec::new();
        collect(&mut document, &mut leaves);
        let count = leaves.len();
        *leaves.swap_remove(field % count) = value;
        for content in [broken, document.to_string()] {
            fs::write(&path, &content).unwrap();
            let (file, loaded) = SettingsFile::open(&path);
            let mut again = loaded.settings.clone();
            prop_assert!(again.bring_into_range().is_empty());
            prop_assert_eq!(&file.save(&loaded.settings).unwrap(), &loaded.settings);
            let (_, reloaded) = SettingsFile::open(&path);
            prop_assert_eq!(reloaded.settings, loaded.settings);
        }
    }
}

fn collect<'a>(value: &'a mut Value, leaves: &mut Vec<&'a mut Value>) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|value| collect(value, leaves)),
        leaf => leaves.push(leaf),
    }
}
