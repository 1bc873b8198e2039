//! Making a conversation fit the context: its oldest turns are dropped.
//!
//! Every try encodes what would be left, which for a long chat takes as long as reading it. So
//! turns are not dropped one by one: what is left gets shorter with every turn that goes, hence
//! the first place from which it fits is searched for. The search begins where the bytes say it
//! should lie, and is over after a handful of tries for a chat of any length.

use crate::prompt::{Message, Role};
use crate::tokenizer::TokenId;

/// Drops the oldest whole turns of `messages`, never the system text nor the last turn, until
/// `encode` gives at most `most` tokens; how many messages that were. `ids` are the tokens of all
/// messages, and then of those that are left: more than `most` where only the last turn is.
///
/// # Errors
/// What `encode` gives.
pub(crate) fn drop_oldest<E>(
    messages: &mut Vec<Message>,
    ids: &mut Vec<TokenId>,
    most: usize,
    mut encode: impl FnMut(&[Message]) -> Result<Vec<TokenId>, E>,
) -> Result<usize, E> {
    let is_system = |message: &Message| message.role == Role::System;
    let first = usize::from(messages.first().is_some_and(is_system));
    let later = messages.iter().enumerate().skip(first + 1);
    let starts: Vec<usize> = later
        .filter(|(_, message)| message.role == Role::User)
        .map(|(index, _)| index)
        .collect();
    if ids.len() <= most || starts.is_empty() {
        return Ok(0);
    }

    // Too long from every place before `low`; short enough from `high` on.
    let (mut low, mut high) = (0, starts.len());
    let mut place = estimate(messages, &starts, ids.len(), most);
    let mut step = 1;
    let mut left = Vec::new();
    while low < high {
        let kept: Vec<Message> = messages[..first]
            .iter()
            .chain(&messages[starts[place]..])
            .cloned()
            .collect();
        let encoded = encode(&kept)?;
        let fits = encoded.len() <= most;
        if fits || place + 1 == starts.len() {
            left = encoded;
        }
        // Outwards from the estimate in growing steps, and by halves once they are as large.
        if fits {
            high = place;
            place = high.saturating_sub(step).max(low + (high - low) / 2);
        } else {
            low = place + 1;
            place = (low + step - 1).min(low + (high - low) / 2);
        }
        step *= 2;
    }
    let start = starts[low.min(starts.len() - 1)];
    messages.drain(first..start);
    *ids = left;
    Ok(start - first)
}

/// The place in `starts` from which about `most` tokens follow, if all bytes of the messages, which
/// make `tokens`, cost the same.
fn estimate(messages: &[Message], starts: &[usize], tokens: usize, most: usize) -> usize {
    let bytes = |message: &Message| message.content.len();
    let total: usize = messages.iter().map(bytes).sum();
    let wanted = total as f64 * most as f64 / tokens as f64;
    let (mut place, mut following) = (starts.len() - 1, 0.0);
    let mut end = messages.len();
    while place > 0 {
        let turn = &messages[starts[place]..end];
        following += turn.iter().map(bytes).sum::<usize>() as f64;
        if following > wanted {
            break;
        }
        end = starts[place];
        place -= 1;
    }
    place
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::prompt::PromptError;
    use crate::tokenizer::Tokenizer;

    /// As it was first done: one turn after the other.
    fn one_by_one(
        messages: &mut Vec<Message>,
        ids: &mut Vec<TokenId>,
        most: usize,
        encode: impl Fn(&[Message]) -> Result<Vec<TokenId>, PromptError>,
    ) -> Result<usize, PromptError> {
        let mut dropped = 0;
        while ids.len() > most {
            let first = usize::from(messages[0].role == Role::System);
            let turns = &messages[first..];
            let Some(next) = turns.iter().skip(1).position(|m| m.role == Role::User) else {
                break;
            };
            messages.drain(first..=first + next);
            dropped += next + 1;
            *ids = encode(messages)?;
        }
        Ok(dropped)
    }

    const TEMPLATES: [Option<&str>; 5] = [
        // The built-in format.
        None,
        Some(
            "{{ bos_token }}{% for m in messages %}{{ m.role.upper() + ': ' + m['content'].strip() }}\
             {% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}\
             {% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        ),
        // ChatML with a default system text.
        Some(
            "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}\
             {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
             {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ),
        // The system text goes before the last question.
        Some(
            "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}\
             {% for m in messages %}{% if m.role == 'user' %}[INST]{% if loop.last %}{{ system }}{% endif %}\
             {{ m.content }}[/INST]{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        ),
        // Earlier answers lose what they thought.
        Some(
            "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}\
             A: {{ m.content.split('.')[-1] }}{{ eos_token }}{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}",
        ),
    ];

    fn tokenizer(template: Option<&str>) -> Tokenizer {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fixtures/tokenizer");
        let folder = tempfile::tempdir().unwrap();
        let to = |name| folder.path().join(name);
        std::fs::copy(from.join("tokenizer.json"), to("tokenizer.json")).unwrap();
        if let Some(template) = template {
            std::fs::write(to("chat_template.jinja"), template).unwrap();
        }
        Tokenizer::open(folder.path()).unwrap()
    }

    fn chat() -> impl Strategy<Value = Vec<Message>> {
        let text = prop_oneof![
            "[a-z .]{0,40}",
            "\\PC{0,12}",
            Just(String::new()),
            "[a-z]{3}( [a-z]{4}){0,120}",
        ];
        let turns = proptest::collection::vec((text.clone(), text.clone()), 1..14);
        (proptest::option::of(text), turns, any::<bool>()).prop_map(|(system, turns, is_open)| {
            let mut messages = Vec::from_iter(system.map(|text| Message::new(Role::System, text)));
            for (question, answer) in turns {
                messages.push(Message::new(Role::User, question));
                messages.push(Message::new(Role::Assistant, answer));
            }
            if !is_open {
                messages.pop();
            }
            messages
        })
    }

    #[test]
    fn as_many_turns_go_as_if_they_went_one_by_one() {
        for template in TEMPLATES {
            let tokenizer = tokenizer(template);
            let encode = |messages: &[Message]| tokenizer.encode_chat(messages);
            let mut runner = proptest::test_runner::TestRunner::deterministic();
            runner
                .run(&(chat(), 0.0..1.2_f64), |(messages, share)| {
                    let Ok(ids) = encode(&messages) else {
                        return Ok(());
                    };
                    let most = (ids.len() as f64 * share) as usize;
                    let (mut expected, mut expected_ids) = (messages.clone(), ids.clone());
                    let dropped = one_by_one(&mut expected, &mut expected_ids, most, encode);
                    let (mut found, mut found_ids) = (messages, ids);
                    let found_dropped = drop_oldest(&mut found, &mut found_ids, most, encode);
                    prop_assert_eq!(found_dropped.unwrap(), dropped.unwrap());
                    prop_assert_eq!(found, expected);
                    prop_assert_eq!(found_ids, expected_ids);
                    Ok(())
                })
                .unwrap();
        }
    }

    /// A token a byte, and three for each message.
    fn bytes(messages: &[Message]) -> Vec<TokenId> {
        let tokens: usize = messages.iter().map(|m| m.content.len() + 3).sum();
        vec![TokenId(0); tokens]
    }

    // Once every dropped turn encoded all that was left: half a minute for a thousand turns.
    #[test]
    fn a_thousand_turns_take_a_handful_of_encodes() {
        let even = |_| 200;
        let uneven = |n: usize| if n.is_multiple_of(97) { 20_000 } else { n % 50 };
        let growing = |n: usize| n;
        let lengths: [&dyn Fn(usize) -> usize; 3] = [&even, &uneven, &growing];
        for length in lengths {
            let chat: Vec<Message> = (0..2001)
                .map(|n| {
                    let role = [Role::User, Role::Assistant][n % 2];
                    Message::new(role, "x".repeat(length(n)))
                })
                .collect();
            let all = bytes(&chat).len();
            for most in [1, 300, 4096, all / 3, all / 2, all - 10] {
                let (mut tries, mut encoded) = (0, 0);
                let (mut messages, mut ids) = (chat.clone(), bytes(&chat));
                let dropped = drop_oldest(&mut messages, &mut ids, most, |messages| {
                    let ids = bytes(messages);
                    tries += 1;
                    encoded += ids.len();
                    Ok::<_, PromptError>(ids)
                });
                let (mut expected, mut expected_ids) = (chat.clone(), bytes(&chat));
                let plain = |messages: &[Message]| Ok(bytes(messages));
                let plainly = one_by_one(&mut expected, &mut expected_ids, most, plain);
                assert_eq!(dropped.unwrap(), plainly.unwrap());
                assert_eq!((messages, ids), (expected, expected_ids));
                assert!(tries <= 21, "{tries} tries to have {most} of {all} left");
                assert!(
                    encoded <= 12 * all,
                    "{encoded} of {all} to have {most} left"
                );
            }
        }
    }

    #[test]
    fn the_last_turn_and_the_system_text_stay() {
        let mut chat = vec![
            Message::new(Role::System, "s"),
            Message::new(Role::User, "a"),
            Message::new(Role::Assistant, "b"),
            Message::new(Role::User, "c"),
            Message::new(Role::Assistant, "d"),
        ];
        let mut ids = bytes(&chat);
        let plain = |messages: &[Message]| Ok::<_, PromptError>(bytes(messages));
        assert_eq!(drop_oldest(&mut chat, &mut ids, 1, plain).unwrap(), 2);
        assert_eq!((chat.len(), ids.len()), (3, 12));
        assert_eq!(chat[1].content, "c");
        assert_eq!(drop_oldest(&mut chat, &mut ids, 1, plain).unwrap(), 0);
        assert_eq!((chat.len(), ids.len()), (3, 12));
    }
}
