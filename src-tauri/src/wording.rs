//! The engine's texts name options of the command line; a person at the window knows settings.

/// Option of the command line, and the setting's name in the window. Longer ones first where one
/// begins with another.
const NAMES: &[(&str, &str)] = &[
    ("use --device cpu", "choose the preset CPU only"),
    ("--device cpu", "the preset CPU only"),
    ("--device cuda", "a GPU"),
    ("--device auto", "the preset Automatic"),
    ("--experts-on-gpu", "the experts per layer on the GPU:"),
    (
        "lower the experts per layer on the GPU: to",
        "lower the experts per layer on the GPU to",
    ),
    ("--misses fetch", "fetching missing experts"),
    ("--misses", "the way missing experts are met"),
    ("--prefetch", "the prefetch"),
    ("--vram", "the VRAM budget"),
    ("give --ram", "set the RAM budget to"),
    ("--ram", "the RAM budget"),
    ("give --ctx", "set the context length to"),
    ("--ctx", "the context length"),
];

/// `text` with the names of settings in place of options.
pub fn settings_names(text: &str) -> String {
    NAMES.iter().fold(text.to_owned(), |text, (option, name)| {
        text.replace(option, name)
    })
}

/// `text` with a capital at its beginning and a full stop at its end.
pub fn sentence(text: &str) -> String {
    let text = text.trim();
    // A path or an identifier stays as it is.
    let first_word = text.split_whitespace().next().unwrap_or_default();
    let plain = first_word.chars().all(char::is_alphabetic);
    let mut characters = text.chars();
    let mut sentence = match characters.next() {
        Some(first) if plain => first.to_uppercase().chain(characters).collect(),
        _ => text.to_owned(),
    };
    if !sentence.is_empty() && !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_settings() {
        for (from, to) in [
            (
                "lower --experts-on-gpu to 3",
                "lower the experts per layer on the GPU to 3",
            ),
            (
                "give --ram 12GB to use it",
                "set the RAM budget to 12GB to use it",
            ),
            ("--ctx is 0", "the context length is 0"),
        ] {
            assert_eq!(settings_names(from), to);
        }
    }

    #[test]
    fn sentences_begin_and_end_like_sentences() {
        assert_eq!(sentence("cancelled"), "Cancelled.");
        assert_eq!(sentence("/models/x has no file"), "/models/x has no file.");
        assert_eq!(sentence("Done."), "Done.");
        assert_eq!(sentence(""), "");
    }
}
