//! `octet chat`: a conversation in the terminal.

use std::io::{self, IsTerminal, Write};

use octet_engine::Engine;
use octet_engine::generate::{DoneReason, Input};
use octet_engine::prompt::{Message, Role};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::ChatArgs;
use crate::generate::{follow, summary};
use crate::interrupt::Current;
use crate::load::{load, model_dir};
use crate::output::{dim, note, stdout};
use crate::{plan_report, plan_text};

const HELP: &str = "\
/help              this list
/new               start over
/undo              remove the last question and its answer
/retry             answer the last question again
/system [TEXT]     set the system text (and start over), or remove it
/stats             speed and token counts of the last answer
/plan              the memory plan
/quit              leave (also Ctrl-D)
//TEXT             send /TEXT as a question, not a command
Ctrl-C stops an answer. End a line with \\ to continue it on the next.";

pub fn run(args: ChatArgs) -> anyhow::Result<()> {
    let mut template = args.sampling.request(Input::Messages(Vec::new()), None)?;
    template.began_at_ms = Some(now_ms());
    let loaded = load(&args.engine)?;
    if loaded.tokenizer.is_none() {
        let dir = model_dir(&args.engine)?;
        anyhow::bail!(
            "{} has no tokenizer.json: add the model's, or give --tokenizer FILE",
            dir.display()
        );
    }
    let engine = Engine::start(loaded);
    for warning in &engine.plan().warnings {
        note(&plan_text::warning(warning));
    }
    if io::stdout().is_terminal() {
        greet(&args)?;
    }
    let mut chat = Chat {
        system: args.system,
        turns: Vec::new(),
        stats: None,
    };
    let mut editor = DefaultEditor::new()?;
    // After the editor, which takes the signal for itself when it is made.
    let current = Current::default();
    let interrupted = current.clone();
    ctrlc::set_handler(move || {
        // Between answers the line editor sees Ctrl-C itself, unless input is not a terminal.
        if !interrupted.cancel() {
            std::process::exit(130);
        }
    })?;

    while let Some(line) = read(&mut editor)? {
        let line = line.trim();
        let ask = match command(line).unwrap_or(("", line)) {
            ("", "") => false,
            ("/help", _) => say(HELP)?,
            ("/quit" | "/exit", _) => break,
            ("/new", _) => {
                chat.turns.clear();
                template.began_at_ms = Some(now_ms());
                say("A new conversation.")?
            }
            ("/system", text) => {
                let text = text.trim();
                chat.system = (!text.is_empty()).then(|| text.to_owned());
                chat.turns.clear();
                template.began_at_ms = Some(now_ms());
                say(if text.is_empty() {
                    "No system text."
                } else {
                    "System text set."
                })?
            }
            ("/undo", _) => match chat.take_back() {
                Some(_) => say("Removed.")?,
                None => say("There is nothing to undo.")?,
            },
            ("/retry", _) => match chat.take_back() {
                Some(question) => {
                    chat.turns.push(question);
                    true
                }
                None => say("There is nothing to retry.")?,
            },
            ("/stats", _) => say(chat.stats.as_deref().unwrap_or("No answer yet."))?,
            ("/plan", _) => say(&plan_report::table(engine.plan()))?,
            ("", question) => {
                chat.turns.push(Message::new(Role::User, question));
                true
            }
            (unknown, _) => say(&format!(
                "{unknown} is not a command; /help lists them. To send it as text: /{unknown} ..."
            ))?,
        };
        if !ask {
            continue;
        }
        let mut request = template.clone();
        request.input = Input::Messages(chat.messages());
        let generation = engine.generate(request);
        current.set(Some(generation.cancel_handle()));
        let answer = follow(generation, &mut |_, text| {
            let mut out = stdout();
            out.write_all(text.as_bytes())?;
            out.flush()
        });
        current.set(None);
        say("")?;
        match answer {
            Ok(answer) => {
                chat.stats = Some(summary(&answer.stats));
                let end = match answer.reason {
                    DoneReason::Length => Some("[cut at --max-new-tokens]"),
                    DoneReason::ContextFull => Some("[cut: the context is full; /new starts over]"),
                    DoneReason::Cancelled => Some("[stopped]"),
                    DoneReason::Eos | DoneReason::Stop => None,
                };
                if let Some(end) = end {
                    dim(end);
                }
                chat.turns.push(Message::new(Role::Assistant, answer.text));
            }
            // Neither would the next answer be seen.
            Err(error) if error.is::<io::Error>() => return Err(error),
            Err(error) => {
                chat.turns.pop();
                note(&error.to_string());
            }
        }
    }
    Ok(())
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Says who is there.
fn greet(args: &ChatArgs) -> anyhow::Result<()> {
    let mut out = stdout();
    if args.engine.is_demo() {
        writeln!(out, "{}, {}.", octet_demo::NAME, octet_demo::ABOUT)?;
        writeln!(
            out,
            "Ask, for example: {}",
            octet_demo::SUGGESTED.join("  ")
        )?;
        writeln!(
            out,
            "The real model: octet models pull, then octet chat --model NAME."
        )?;
    } else {
        writeln!(out, "{}", model_dir(&args.engine)?.display())?;
    }
    Ok(writeln!(out, "/help lists the commands, Ctrl-D leaves.")?)
}

/// The conversation so far.
struct Chat {
    system: Option<String>,
    turns: Vec<Message>,
    stats: Option<String>,
}

impl Chat {
    fn messages(&self) -> Vec<Message> {
        let system = self
            .system
            .iter()
            .map(|text| Message::new(Role::System, text));
        system.chain(self.turns.iter().cloned()).collect()
    }

    /// Removes the last question with its answer; the question.
    fn take_back(&mut self) -> Option<Message> {
        let last = self
            .turns
            .iter()
            .rposition(|turn| turn.role == Role::User)?;
        self.turns.drain(last..).next()
    }
}

/// Prints `text`; nothing is to be asked.
fn say(text: &str) -> io::Result<bool> {
    writeln!(stdout(), "{text}")?;
    Ok(false)
}

/// The command in a line, and what follows it; `None` where the line is a question. A question may
/// begin with a path, so that only a slash and letters make a command; of two slashes, one is left
/// out.
fn command(line: &str) -> Option<(&str, &str)> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let name = word.strip_prefix('/')?;
    let is_command = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic());
    match line.strip_prefix('/') {
        Some(question) if question.starts_with('/') => Some(("", question)),
        _ => is_command.then_some((word, rest)),
    }
}

/// One message, which may span lines; `None` at the end of input.
fn read(editor: &mut DefaultEditor) -> anyhow::Result<Option<String>> {
    let mut text = String::new();
    loop {
        let prompt = if text.is_empty() { "> " } else { ". " };
        match editor.readline(prompt) {
            Ok(line) => match line.strip_suffix('\\') {
                Some(part) => {
                    text += part;
                    text.push('\n');
                }
                None => {
                    text += &line;
                    if !text.trim().is_empty() {
                        editor.add_history_entry(text.as_str())?;
                    }
                    return Ok(Some(text));
                }
            },
            Err(ReadlineError::Interrupted) => {
                say("(Ctrl-D leaves)")?;
                text.clear();
            }
            // A last line that was to go on is sent as far as it goes.
            Err(ReadlineError::Eof) if !text.is_empty() => return Ok(Some(text)),
            Err(ReadlineError::Eof) => return Ok(None),
            // The bad bytes have been taken from the input: what follows may be good.
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                note("this line is not UTF-8 and was ignored: send it again as UTF-8");
                text.clear();
            }
            Err(error) => {
                let what = format!("standard input cannot be read: {error}");
                return Err(anyhow::Error::new(error).context(what));
            }
        }
    }
}
