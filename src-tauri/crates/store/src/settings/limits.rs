//! Brings every setting into its range, without touching those that are.

use super::{
    Appearance, OffloadSettings, Preset, SETTINGS_VERSION, SamplingSettings, Settings,
    builtin_presets,
};

const MAX_PRESETS: usize = 100;
const MAX_NAME_CHARS: usize = 60;
const MAX_STOPS: usize = 16;
const MAX_STOP_CHARS: usize = 200;
const MAX_SYSTEM_PROMPT_CHARS: usize = 100_000;
/// More than any machine has, and exact as a float: 1 PiB.
const MAX_BUDGET_BYTES: f64 = (1_u64 << 50) as f64;

impl Settings {
    /// The same with every field in its range. Names (as in the file) of those that were not.
    pub fn bring_into_range(&mut self) -> Vec<String> {
        let mut changed = Vec::new();
        let before = self.clone();
        let mut fix = |name: &str, is_changed: bool| {
            if is_changed {
                changed.push(name.to_owned());
            }
        };
        self.version = self.version.max(SETTINGS_VERSION);
        limit_sampling(&mut self.sampling, "sampling.", &mut fix);
        limit_presets(&mut self.presets, &mut fix);
        limit_offload(&mut self.offload, &mut fix);
        limit_appearance(&mut self.appearance, &mut fix);
        let exists = |name: &String| {
            let mut names = builtin_presets().into_iter().chain(self.presets.clone());
            names.any(|preset| preset.name == *name)
        };
        self.active_preset = self.active_preset.take().filter(exists);
        fix("activePreset", self.active_preset != before.active_preset);
        changed
    }
}

type Fix<'a> = dyn FnMut(&str, bool) + 'a;

/// Not a number is the default; anything else goes to the nearest end of the range.
fn clamp(value: &mut f64, least: f64, most: f64, default: f64) -> bool {
    let limited = if value.is_nan() {
        default
    } else {
        value.clamp(least, most)
    };
    std::mem::replace(value, limited) != limited
}

fn clamp_option<T: Ord + Copy>(value: &mut Option<T>, least: T, most: T) -> bool {
    let limited = value.map(|value| value.clamp(least, most));
    std::mem::replace(value, limited) != limited
}

fn truncate_chars(text: &mut String, most: usize) -> bool {
    let end = text.char_indices().nth(most).map(|(at, _)| at);
    if let Some(end) = end {
        text.truncate(end);
    }
    end.is_some()
}

fn limit_sampling(sampling: &mut SamplingSettings, path: &str, fix: &mut Fix<'_>) {
    let default = SamplingSettings::default();
    let mut fix = |name: &str, is_changed| fix(&format!("{path}{name}"), is_changed);
    fix(
        "temperature",
        clamp(&mut sampling.temperature, 0.0, 2.0, default.temperature),
    );
    fix("topP", clamp(&mut sampling.top_p, 0.0, 1.0, default.top_p));
    fix("minP", clamp(&mut sampling.min_p, 0.0, 1.0, default.min_p));
    let penalty = &mut sampling.repetition_penalty;
    fix(
        "repetitionPenalty",
        clamp(penalty, 0.5, 2.0, default.repetition_penalty),
    );
    let top_k = sampling.top_k.min(1000);
    fix(
        "topK",
        std::mem::replace(&mut sampling.top_k, top_k) != top_k,
    );
    fix(
        "maxTokens",
        clamp_option(&mut sampling.max_tokens, 1, 1 << 20),
    );
    let seed = sampling.seed.take();
    sampling.seed = seed
        .as_ref()
        .and_then(|seed| seed.trim().parse::<u64>().ok())
        .map(|seed| seed.to_string());
    fix("seed", sampling.seed != seed);
    let mut stops = Vec::new();
    for mut stop in sampling.stop.drain(..).filter(|stop| !stop.is_empty()) {
        truncate_chars(&mut stop, MAX_STOP_CHARS);
        if !stops.contains(&stop) && stops.len() < MAX_STOPS {
            stops.push(stop);
        }
    }
    sampling.stop = stops;
    fix(
        "systemPrompt",
        truncate_chars(&mut sampling.system_prompt, MAX_SYSTEM_PROMPT_CHARS),
    );
}

/// Names become unique, by a number where need be.
fn limit_presets(presets: &mut Vec<Preset>, fix: &mut Fix<'_>) {
    let mut names: Vec<String> = builtin_presets()
        .into_iter()
        .map(|preset| preset.name)
        .collect();
    let count = presets.len();
    presets.truncate(MAX_PRESETS);
    presets.retain(|preset| !preset.name.trim().is_empty());
    fix("presets", presets.len() != count);
    for (index, preset) in presets.iter_mut().enumerate() {
        let mut base = preset.name.trim().to_owned();
        truncate_chars(&mut base, MAX_NAME_CHARS);
        let mut name = base.clone();
        for number in 2.. {
            if !names.contains(&name) {
                break;
            }
            name = format!("{base} {number}");
        }
        fix(&format!("presets.{index}.name"), name != preset.name);
        names.push(name.clone());
        preset.name = name;
        limit_sampling(
            &mut preset.sampling,
            &format!("presets.{index}.sampling."),
            fix,
        );
    }
}

fn limit_offload(offload: &mut OffloadSettings, fix: &mut Fix<'_>) {
    let experts = &mut offload.experts_per_layer_on_gpu;
    fix("offload.expertsPerLayerOnGpu", clamp_option(experts, 0, 64));
    fix(
        "offload.prefetch",
        clamp_option(&mut offload.prefetch, 0, 2),
    );
    for (name, budget) in [
        ("offload.vramBudgetBytes", &mut offload.vram_budget_bytes),
        ("offload.ramBudgetBytes", &mut offload.ram_budget_bytes),
    ] {
        let is_changed = match budget {
            Some(bytes) if bytes.is_nan() => budget.take().is_some(),
            Some(bytes) => clamp(bytes, 0.0, MAX_BUDGET_BYTES, 0.0),
            None => false,
        };
        fix(name, is_changed);
    }
    let context = &mut offload.context_length;
    fix("offload.contextLength", clamp_option(context, 16, 1 << 20));
    fix(
        "offload.threads",
        clamp_option(&mut offload.threads, 1, 1024),
    );
}

fn limit_appearance(appearance: &mut Appearance, fix: &mut Fix<'_>) {
    let size = appearance.text_size.clamp(12, 22);
    let is_changed = std::mem::replace(&mut appearance.text_size, size) != size;
    fix("appearance.textSize", is_changed);
    let zoom = appearance.zoom.clamp(50, 300);
    let is_changed = std::mem::replace(&mut appearance.zoom, zoom) != zoom;
    fix("appearance.zoom", is_changed);
    let is_tag = |tag: &String| {
        (2..=35).contains(&tag.len()) && tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let language = appearance.language.take();
    appearance.language = language.clone().filter(is_tag);
    fix("appearance.language", appearance.language != language);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_range_stays() {
        let mut settings = Settings {
            presets: vec![Preset {
                name: "Mine".to_owned(),
                sampling: SamplingSettings {
                    temperature: 2.0,
                    top_k: 1000,
                    seed: Some(u64::MAX.to_string()),
                    stop: vec!["\n\n".to_owned()],
                    ..SamplingSettings::default()
                },
            }],
            active_preset: Some("Mine".to_owned()),
            ..Settings::default()
        };
        settings.offload.vram_budget_bytes = Some(12e9);
        settings.appearance.language = Some("pt-BR".to_owned());
        let before = settings.clone();
        assert_eq!(settings.bring_into_range(), [""; 0]);
        assert_eq!(settings, before);
    }

    #[test]
    fn what_is_out_of_range_goes_to_its_nearest_end_or_default() {
        let mut settings = Settings::default();
        let sampling = &mut settings.sampling;
        sampling.temperature = f64::INFINITY;
        sampling.top_p = f64::NAN;
        sampling.min_p = -1.0;
        sampling.repetition_penalty = 0.0;
        sampling.top_k = 5000;
        sampling.max_tokens = Some(0);
        sampling.seed = Some("-1".to_owned());
        sampling.stop = vec![String::new(), "a".to_owned(), "a".to_owned()];
        settings.offload.prefetch = Some(200);
        settings.offload.ram_budget_bytes = Some(f64::NAN);
        settings.offload.vram_budget_bytes = Some(-5.0);
        settings.offload.context_length = Some(u32::MAX);
        settings.offload.threads = Some(0);
        settings.appearance.text_size = 3;
        settings.appearance.zoom = 5000;
        settings.appearance.language = Some("../../etc".to_owned());
        settings.active_preset = Some("gone".to_owned());
        let changed = settings.bring_into_range();
        let sampling = &settings.sampling;
        assert_eq!(sampling.temperature, 2.0);
        assert_eq!(sampling.top_p, 0.95);
        assert_eq!(sampling.min_p, 0.0);
        assert_eq!(sampling.repetition_penalty, 0.5);
        assert_eq!(sampling.top_k, 1000);
        assert_eq!(sampling.max_tokens, Some(1));
        assert_eq!(sampling.seed, None);
        assert_eq!(sampling.stop, ["a"]);
        assert_eq!(settings.offload.prefetch, Some(2));
        assert_eq!(settings.offload.ram_budget_bytes, None);
        assert_eq!(settings.offload.vram_budget_bytes, Some(0.0));
        assert_eq!(settings.offload.context_length, Some(1 << 20));
        assert_eq!(settings.offload.threads, Some(1));
        assert_eq!(settings.appearance.text_size, 12);
        assert_eq!(settings.appearance.zoom, 300);
        assert_eq!(settings.appearance.language, None);
        assert_eq!(settings.active_preset, None);
        for name in [
            "sampling.temperature",
            "sampling.seed",
            "offload.threads",
            "activePreset",
        ] {
            assert!(changed.iter().any(|changed| changed == name), "{changed:?}");
        }
        assert_eq!(
            settings.bring_into_range(),
            [""; 0],
            "a second time changes nothing"
        );
    }

    #[test]
    fn names_of_presets_are_unique_and_never_a_built_in_one() {
        let named = |name: &str| Preset {
            name: name.to_owned(),
            sampling: SamplingSettings::default(),
        };
        let names = ["Precise", "Mine", " Mine ", "", "Mine 2"];
        let mut settings = Settings {
            presets: names.map(named).to_vec(),
            ..Settings::default()
        };
        settings.bring_into_range();
        let names: Vec<&str> = settings.presets.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["Precise 2", "Mine", "Mine 2", "Mine 2 2"]);
    }
}
