//! What the engine is asked.

use std::collections::HashMap;

use octet_engine::generate::{Input, Request};
use octet_engine::prompt::{self, Message as Said};
use octet_engine::sampling::SamplingParams;
use octet_store::settings::SamplingSettings;
use octet_store::{Chat, Message, MessageId, Role};

/// What the model sees: the system text, then the branch that ends with `leaf`.
///
/// An empty leaf, the answer to be made, is left out. There may be messages of the same side in a
/// row, where the answer between them was deleted.
pub(super) fn conversation(chat: &Chat, leaf: MessageId, sampling: &SamplingSettings) -> Vec<Said> {
    let by_id: HashMap<MessageId, &Message> = chat.messages.iter().map(|m| (m.id, m)).collect();
    let mut branch: Vec<&Message> = std::iter::successors(by_id.get(&leaf).copied(), |message| {
        by_id.get(&message.parent_id?).copied()
    })
    .filter(|message| !message.text.is_empty() || message.id != leaf)
    .collect();
    branch.reverse();

    let system = chat
        .system_prompt
        .as_deref()
        .unwrap_or(&sampling.system_prompt);
    let mut said = Vec::new();
    if !system.trim().is_empty() && !branch.is_empty() {
        said.push(Said::new(prompt::Role::System, system));
    }
    for message in branch {
        let role = match message.role {
            Role::User => prompt::Role::User,
            Role::Assistant => prompt::Role::Assistant,
        };
        said.push(Said::new(role, &message.text));
    }
    said
}

/// The engine's request for the answer to `leaf`.
pub(super) fn request(chat: &Chat, leaf: MessageId, sampling: &SamplingSettings) -> Request {
    let messages = conversation(chat, leaf, sampling);
    Request {
        input: Input::Messages(messages),
        sampling: SamplingParams {
            temperature: sampling.temperature as f32,
            top_p: sampling.top_p as f32,
            top_k: sampling.top_k as usize,
            min_p: sampling.min_p as f32,
            repetition_penalty: sampling.repetition_penalty as f32,
            seed: sampling.seed.as_deref().and_then(|seed| seed.parse().ok()),
            ..SamplingParams::default()
        },
        max_new_tokens: sampling.max_tokens.map(|tokens| tokens as usize),
        stop: sampling.stop.clone(),
        ignore_eos: false,
        began_at_ms: Some(chat.created_at.ms()),
    }
}
