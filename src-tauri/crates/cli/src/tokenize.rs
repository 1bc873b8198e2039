//! `octet tokenize`: token ids of a text or a conversation.

use std::io::Write;

use octet_engine::prompt::ChatOptions;
use octet_engine::tokenizer::Tokenizer;
use serde_json::json;

use crate::UsageError;
use crate::args::TokenizeArgs;
use crate::messages::read_messages;
use crate::output::{note, stdout};

pub fn run(args: &TokenizeArgs) -> anyhow::Result<()> {
    let tokenizer = Tokenizer::open(&args.tokenizer)?;
    let options = ChatOptions {
        began_at_ms: args.date,
        ..ChatOptions::default()
    };
    let ids = match (&args.input.messages, &args.input.text) {
        (Some(path), _) => tokenizer.encode_chat_with(&read_messages(path)?, &options)?,
        (_, Some(text)) => tokenizer.encode_markup(text)?,
        _ => return Err(UsageError("give --messages or --text".into()).into()),
    };
    if let Some(text) = tokenizer.note() {
        note(text);
    }
    let mut out = stdout();
    if args.json {
        writeln!(out, "{}", json!({ "ids": ids }))?;
    } else {
        let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
        writeln!(out, "{}", ids.join(","))?;
    }
    Ok(())
}
