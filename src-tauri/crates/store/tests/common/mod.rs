//! What several tests need.
#![allow(dead_code, reason = "each test uses a part")]

use octet_store::{
    AnswerStats, ChatId, Message, MessageId, NewChat, StatsScope, StopReason, Store,
};
use tempfile::TempDir;

/// A new store in a folder of its own.
pub fn scratch() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("chats.db")).unwrap();
    (folder, store)
}

pub fn new_chat(store: &Store) -> ChatId {
    store.create_chat(NewChat::default()).unwrap().id
}

pub fn stats() -> AnswerStats {
    AnswerStats {
        new_tokens: 42,
        tokens_per_sec: 12.345678901234567,
        time_to_first_token_ms: 310.5,
        hit_rate: Some(0.8125),
        stop_reason: StopReason::Eos,
        prompt_tokens: 77,
        reused_tokens: 12,
        seed: u64::MAX.to_string(),
        scope: StatsScope::Whole,
    }
}

/// A question and its finished answer.
pub fn exchange(
    store: &Store,
    chat: ChatId,
    parent: Option<MessageId>,
    question: &str,
    answer: &str,
) -> (Message, Message) {
    let question = store.add_user(chat, parent, question).unwrap();
    (
        question.clone(),
        answer_to(store, chat, question.id, answer),
    )
}

pub fn answer_to(store: &Store, chat: ChatId, question: MessageId, text: &str) -> Message {
    let begun = store.begin_answer(chat, question, Some("mixtral")).unwrap();
    store
        .finish_answer(begun.id, text, Some(stats()), StopReason::Eos)
        .unwrap()
}

/// Numbers that look random and are the same every time (splitmix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
