//! Messages cannot contain special tokens.
//!
//! Special-token strings inside a message are replaced, before a template sees it, by single
//! private-use characters that occur nowhere else, and turned back into ordinary text afterwards.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use super::{Message, PromptError};
use crate::tokenizer::{Span, SpecialTokens};

/// The private-use characters that stand-ins are taken from.
const STAND_INS: RangeInclusive<char> = '\u{100000}'..='\u{10FFFD}';

/// Stand-ins for the special-token strings that occur in messages.
pub(super) struct Shield {
    /// A character that occurs nowhere, for each special token by its place.
    stand_ins: Vec<char>,
    /// Another one, for characters of no meaning.
    neutral: char,
    /// Another one, for the end of the last message.
    end: char,
}

impl Shield {
    pub(super) fn new(
        source: &str,
        messages: &[Message],
        specials: &SpecialTokens,
    ) -> Result<Self, PromptError> {
        let private = STAND_INS;
        let contents = messages.iter().map(|message| message.content.as_str());
        let tokens = specials.tokens.iter().map(|token| token.content.as_str());
        let used: HashSet<char> = contents
            .chain(tokens)
            .chain([source])
            .flat_map(str::chars)
            .filter(|character| private.contains(character))
            .collect();
        let mut free = private
            .clone()
            .filter(|character| !used.contains(character));
        let stand_ins: Vec<char> = free.by_ref().take(specials.tokens.len()).collect();
        match (free.next(), free.next()) {
            (Some(neutral), Some(end)) => Ok(Self {
                stand_ins,
                neutral,
                end,
            }),
            _ => Err(PromptError::NoFreeCharacter {
                tried: private.count(),
            }),
        }
    }

    /// Messages in which every special-token string is its stand-in.
    pub(super) fn shielded(&self, messages: &[Message], specials: &SpecialTokens) -> Vec<Message> {
        let shield = |content: &str| {
            let spans = specials.spans(content);
            spans.iter().fold(String::new(), |mut shielded, span| {
                match span {
                    Span::Text(text) => shielded.push_str(text),
                    Span::Special(index) => shielded.push(self.stand_ins[*index]),
                }
                shielded
            })
        };
        map_contents(messages, shield)
    }

    /// Messages in which no character can be part of a special token.
    pub(super) fn neutral(&self, messages: &[Message], specials: &SpecialTokens) -> Vec<Message> {
        let tokens = specials.tokens.iter();
        let meaningful: HashSet<char> = tokens.flat_map(|token| token.content.chars()).collect();
        let neutralize = |character| {
            if meaningful.contains(&character) {
                self.neutral
            } else {
                character
            }
        };
        map_contents(messages, |content| {
            content.chars().map(neutralize).collect()
        })
    }

    /// Marks where a message's text ends; returns the white space that comes after the mark.
    pub(super) fn mark_end(&self, message: &mut Message) -> String {
        let trailing = message.content.split_off(message.content.trim_end().len());
        message.content.push(self.end);
        message.content.push_str(&trailing);
        trailing
    }

    /// The text up to the mark and the white space after it, if the template kept that.
    pub(super) fn cut_at_mark(&self, text: &str, trailing: &str) -> Option<String> {
        let (before, after) = text.rsplit_once(self.end)?;
        let kept = if after.starts_with(trailing) {
            trailing
        } else {
            ""
        };
        Some(before.replace(self.end, "") + kept)
    }

    /// Turns stand-ins back into the text they stand for.
    pub(super) fn open(&self, text: &str, specials: &SpecialTokens) -> String {
        let mut opened = String::with_capacity(text.len());
        let is_stand_in = |character| STAND_INS.contains(&character);
        for character in text.chars() {
            let place = is_stand_in(character)
                .then(|| self.stand_ins.iter().position(|&one| one == character));
            match place.flatten() {
                Some(index) => opened.push_str(&specials.tokens[index].content),
                None => opened.push(character),
            }
        }
        opened
    }
}

fn map_contents(messages: &[Message], map: impl Fn(&str) -> String) -> Vec<Message> {
    let mapped = |message: &Message| Message::new(message.role, map(&message.content));
    messages.iter().map(mapped).collect()
}
