//! Text of models: from messages to tokens, and from tokens back to text as it streams.
//!
//! - [`tokenizer`]: text to tokens, from `tokenizer.json` or from a GGUF file;
//! - [`prompt`]: a conversation as the model was trained to see it, by its chat template;
//! - [`stream_text`]: text of one token after the other, and where it has to stop.
#![warn(missing_docs)]

pub mod prompt;
pub mod stream_text;
pub mod tokenizer;
