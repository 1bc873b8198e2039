//! Settings: one JSON file, small enough to be written as a whole.
//!
//! The file is replaced atomically. What cannot be understood in it falls back to its default
//! one field at a time; a file that is no JSON at all is kept aside. Fields that a newer version
//! wrote stay in the file when this one saves.

mod file;
mod limits;

use octet_engine::plan::{Misses, OffloadPreset};
use serde::{Deserialize, Serialize};

pub use file::{Loaded, SettingsFile, SettingsNotice};

/// Of the file. Rises only when a field changes its meaning.
pub const SETTINGS_VERSION: u32 = 1;

/// All settings. Every field is always there; what is not in the file has its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// [`SETTINGS_VERSION`] of whoever wrote them last, or of a newer version before.
    pub version: u32,
    /// How tokens are drawn, and what the model is told first.
    pub sampling: SamplingSettings,
    /// The person's own presets. See [`builtin_presets`] for the others.
    pub presets: Vec<Preset>,
    /// Name of the preset that was chosen last, if it still exists.
    pub active_preset: Option<String>,
    /// What goes where in memory.
    pub offload: OffloadSettings,
    /// How things look.
    pub appearance: Appearance,
    /// Id of the model that was loaded last.
    pub last_model: Option<String>,
    /// Load it when the app starts.
    pub load_last_model_on_start: bool,
    /// The list of chats is shown.
    pub sidebar_open: bool,
    /// The settings pane is shown.
    pub pane_open: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: SETTINGS_VERSION,
            sampling: SamplingSettings::default(),
            presets: Vec::new(),
            active_preset: None,
            offload: OffloadSettings::default(),
            appearance: Appearance::default(),
            last_model: None,
            load_last_model_on_start: true,
            sidebar_open: true,
            pane_open: true,
        }
    }
}

/// How tokens are drawn. Fields, order of application and defaults are those of the engine's
/// sampling parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct SamplingSettings {
    /// 0 to 2. 0 takes the likeliest token always.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub temperature: f64,
    /// 0 to 1. 1 keeps all.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub top_p: f64,
    /// 0 to 1000. 0 keeps all.
    pub top_k: u32,
    /// 0 to 1. 0 keeps all.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub min_p: f64,
    /// 0.5 to 2. 1 changes nothing.
    #[cfg_attr(feature = "specta", specta(type = u32))]
    pub repetition_penalty: f64,
    /// Tokens of an answer at most, 1 to 1048576. None: as many as the context holds.
    pub max_tokens: Option<u32>,
    /// A 64-bit number, as text because JavaScript's numbers are shorter. None: another one for
    /// each answer.
    pub seed: Option<String>,
    /// Answers end before any of these; at most 16, none empty.
    pub stop: Vec<String>,
    /// What the model is told before every chat. Empty: nothing.
    pub system_prompt: String,
}

impl Default for SamplingSettings {
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_p: 0.95,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_tokens: None,
            seed: None,
            stop: Vec::new(),
            system_prompt: String::new(),
        }
    }
}

/// Sampling settings with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Preset {
    /// Unique, among the built-in ones too.
    pub name: String,
    /// The settings.
    pub sampling: SamplingSettings,
}

/// The presets that every installation has, by their English names. They are not stored.
pub fn builtin_presets() -> Vec<Preset> {
    let preset = |name: &str, sampling| Preset {
        name: name.to_owned(),
        sampling,
    };
    let default = SamplingSettings::default;
    vec![
        preset("Balanced", default()),
        preset(
            "Precise",
            SamplingSettings {
                temperature: 0.2,
                top_p: 0.9,
                ..default()
            },
        ),
        preset(
            "Creative",
            SamplingSettings {
                temperature: 1.0,
                top_p: 0.98,
                min_p: 0.02,
                ..default()
            },
        ),
    ]
}

/// What goes where in memory. None leaves it to the plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct OffloadSettings {
    /// Where the other fields start from.
    pub preset: OffloadPreset,
    /// 0 to 64; the plan takes no more than the model has.
    pub experts_per_layer_on_gpu: Option<u8>,
    /// What to do with an expert that is not in VRAM.
    pub misses: Misses,
    /// Experts of the next layer to fetch ahead, 0 to 2.
    pub prefetch: Option<u8>,
    /// VRAM that the program may take in all, in bytes.
    #[cfg_attr(feature = "specta", specta(type = Option<u32>))]
    pub vram_budget_bytes: Option<f64>,
    /// RAM that expert slots and KV cache may take, in bytes.
    #[cfg_attr(feature = "specta", specta(type = Option<u32>))]
    pub ram_budget_bytes: Option<f64>,
    /// Tokens, 16 to 1048576.
    pub context_length: Option<u32>,
    /// Worker threads of the CPU kernels, 1 to 1024.
    pub threads: Option<u32>,
}

/// Colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "lowercase")]
pub enum Theme {
    /// As the system's.
    #[default]
    System,
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

/// Less movement on the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "lowercase")]
pub enum ReduceMotion {
    /// As the system's.
    #[default]
    System,
    /// Nothing moves.
    On,
    /// Things may move.
    Off,
}

/// How things look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
#[serde(rename_all = "camelCase")]
pub struct Appearance {
    /// Colours.
    pub theme: Theme,
    /// Of the text of messages, 12 to 22 px.
    pub text_size: u8,
    /// Of the whole window, 50 to 300 percent.
    pub zoom: u16,
    /// A BCP 47 tag such as `de`. None: the system's.
    pub language: Option<String>,
    /// Less movement.
    pub reduce_motion: ReduceMotion,
}

impl Default for Appearance {
    fn default() -> Self {
        Self {
            theme: Theme::default(),
            text_size: 15,
            zoom: 100,
            language: None,
            reduce_motion: ReduceMotion::default(),
        }
    }
}
