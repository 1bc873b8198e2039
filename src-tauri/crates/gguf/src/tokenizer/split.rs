//! How byte-level tokenizers split text before they merge: by a regular expression each.
//!
//! The expressions are those of the models' own `tokenizer.json`, and so is whether characters are
//! composed (of Qwen3.5, `tokenization_qwen3_5.py` of transformers); the names are llama.cpp's.

/// What a value of `tokenizer.ggml.pre` means.
pub(super) struct Split {
    /// What matches it is a stretch of text that is merged by itself.
    pub(super) regex: &'static str,
    /// Whether the model's own tokenizer composes characters (Unicode's form NFC).
    pub(super) composes: bool,
    /// Whether a stretch that is a token needs no merges to become it.
    pub(super) ignores_merges: bool,
    /// Whether a text begins with BOS in files that do not say so.
    pub(super) adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const fn split(regex: &'static str) -> Split {
    Split {
        regex,
        composes: false,
        ignores_merges: false,
        adds_bos: false,
    }
}

const fn composing(regex: &'static str) -> Split {
    Split {
        composes: true,
        ..split(regex)
    }
}

const LLAMA_3: Split = Split {
    ignores_merges: true,
    adds_bos: true,
    ..split(LLAMA3)
};
const GLM_4: Split = Split {
    ignores_merges: true,
    ..split(LLAMA3)
};

static KNOWN: [(&str, Split); 10] = [
    ("default", split(GPT2)),
    ("gpt-2", split(GPT2)),
    ("olmo", composing(GPT2)),
    ("qwen2", composing(QWEN2)),
    ("qwen35", composing(QWEN35)),
    ("gpt-4o", split(GPT4O)),
    ("llama-bpe", LLAMA_3),
    ("llama3", LLAMA_3),
    ("llama-v3", LLAMA_3),
    ("glm4", GLM_4),
];

impl Split {
    /// `None` for a name that is not known.
    pub(super) fn of(pre: &str) -> Option<&'static Self> {
        let known = KNOWN.iter().find(|(name, _)| *name == pre);
        known.map(|(_, split)| split)
    }

    /// The known names, for a message.
    pub(super) fn names() -> String {
        let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }
}
