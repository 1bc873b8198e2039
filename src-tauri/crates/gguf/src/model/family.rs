//! What the families of models differ in.
//!
//! Sources: `llama-model.cpp` and `models/*.cpp` of llama.cpp, the models' own code at Hugging Face,
//! and OpenAI's of gpt-oss.

use octet_spec::{Activation, QkNorm, RopePairs};

/// Over which logits a router's softmax goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Softmax {
    /// Over those of all experts, before the choice.
    OverAll,
    /// Over those of the chosen: the same as that over all, renormalized.
    OverChosen,
}

/// One family: its name in `general.architecture`, and what follows from it.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    /// What people call it.
    pub(super) title: &'static str,
    pub(super) pairs: RopePairs,
    pub(super) qk_norm: QkNorm,
    /// Biases of projections, router and experts, and sinks.
    pub(super) biases_and_sinks: bool,
    /// Whether some layers see a window only.
    pub(super) windowed: bool,
    /// The norm in front of the experts.
    pub(super) ffn_norm: &'static str,
    pub(super) softmax: Softmax,
    pub(super) renormalize: bool,
    pub(super) activation: Activation,
    pub(super) yarn_rounds: bool,
}

const LLAMA: Family = Family {
    name: "llama",
    title: "Mixtral",
    pairs: RopePairs::Adjacent,
    qk_norm: QkNorm::None,
    biases_and_sinks: false,
    windowed: false,
    ffn_norm: "ffn_norm",
    softmax: Softmax::OverAll,
    renormalize: true,
    activation: Activation::SiluMul,
    yarn_rounds: true,
};

static ALL: [Family; 4] = [
    LLAMA,
    Family {
        name: "qwen3moe",
        title: "Qwen3 MoE",
        pairs: RopePairs::Halves,
        qk_norm: QkNorm::Head,
        ..LLAMA
    },
    Family {
        name: "gpt-oss",
        title: "gpt-oss",
        pairs: RopePairs::Halves,
        biases_and_sinks: true,
        windowed: true,
        ffn_norm: "post_attention_norm",
        softmax: Softmax::OverChosen,
        renormalize: false,
        activation: Activation::ClampedSwiglu {
            alpha: 1.702,
            limit: 7.0,
        },
        yarn_rounds: false,
        ..LLAMA
    },
    Family {
        name: "olmoe",
        title: "OLMoE",
        pairs: RopePairs::Halves,
        qk_norm: QkNorm::Full,
        renormalize: false,
        ..LLAMA
    },
];

impl Family {
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|family| family.name == name)
    }

    /// The names of all, for a message.
    pub(super) fn names() -> String {
        let names: Vec<&str> = ALL.iter().map(|family| family.name).collect();
        names.join(", ")
    }

    /// Whether the weights of the chosen experts add up to 1.
    pub(super) fn sums_to_one(&self) -> bool {
        self.renormalize || self.softmax == Softmax::OverChosen
    }
}
