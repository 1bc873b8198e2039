//! Asks the demo model questions it was not trained on and compares with what was written.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use octet_engine::experts::RoutingStats;
use octet_engine::generate::{Conversation, Generator};
use octet_engine::prompt::{Message, Role};
use octet_engine::sampling::SamplingParams;
use octet_engine::{Event, Input, LoadOptions, Loaded, Request};

/// A question and what answers it.
pub struct Question {
    pub id: String,
    pub text: String,
    /// The answer written for it.
    pub answer: String,
    /// Answers written for other questions that are as good here.
    pub as_good: Vec<String>,
}

/// One `= id` block: its questions, and its answer (in the corpus) or the ids of blocks whose
/// answers are as good (`~ id`, in held-out files).
struct Block {
    id: String,
    wordings: Vec<String>,
    answer: String,
    as_good: Vec<String>,
}

fn blocks(folder: &Path) -> Vec<Block> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let mut blocks: Vec<Block> = Vec::new();
    for file in files {
        for line in fs::read_to_string(&file).unwrap().lines() {
            if let Some(id) = line.strip_prefix("= ") {
                blocks.push(Block {
                    id: id.trim().to_owned(),
                    wordings: Vec::new(),
                    answer: String::new(),
                    as_good: Vec::new(),
                });
            } else if let Some(block) = blocks.last_mut() {
                if let Some(id) = line.strip_prefix("~ ") {
                    block.as_good.push(id.trim().to_owned());
                } else if let Some(wording) = line.strip_prefix("? ") {
                    block.wordings.push(wording.trim().to_owned());
                } else if let Some(text) = line.strip_prefix('!') {
                    if !block.answer.is_empty() {
                        block.answer.push('\n');
                    }
                    block.answer.push_str(text.trim());
                }
            }
        }
    }
    blocks
}

/// The questions in `heldout`, with the answers of `corpus`. Panics where one was trained on word
/// for word.
pub fn held_out() -> Vec<Question> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = blocks(&root.join("corpus"));
    let answers: HashMap<&str, &Block> = corpus.iter().map(|b| (b.id.as_str(), b)).collect();
    let trained: HashMap<String, &str> = corpus
        .iter()
        .flat_map(|b| {
            b.wordings
                .iter()
                .map(|w| (words(w).join(" "), b.id.as_str()))
        })
        .collect();
    let mut questions = Vec::new();
    let answer_of = |id: &str| -> String {
        let block = answers
            .get(id)
            .unwrap_or_else(|| panic!("heldout: no `= {id}` in the corpus"));
        block.answer.clone()
    };
    for block in blocks(&root.join("heldout")) {
        for text in block.wordings {
            let same = trained.get(&words(&text).join(" "));
            assert!(
                same.is_none(),
                "heldout: `{text}` is in the corpus, at {same:?}"
            );
            questions.push(Question {
                id: block.id.clone(),
                text,
                answer: answer_of(&block.id),
                as_good: block.as_good.iter().map(|id| answer_of(id)).collect(),
            });
        }
    }
    questions
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Whether `said` is the `written` answer: nine of ten words agree (F1 of the bags of words), so
/// a slip in the wording passes; another topic, a garbled or an endless answer does not.
pub fn is_right(said: &str, written: &str) -> bool {
    let (said, written) = (words(said), words(written));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &written {
        *left.entry(word).or_default() += 1;
    }
    let common = said
        .iter()
        .filter(|word| match left.get_mut(word.as_str()) {
            Some(n) if *n > 0 => {
                *n -= 1;
                true
            }
            _ => false,
        })
        .count();
    20 * common >= 9 * (said.len() + written.len()) && common > 0
}

/// A model that answers.
pub struct Demo {
    loaded: Loaded,
    conversation: Conversation,
}

impl Demo {
    pub fn open(dir: &Path) -> Self {
        let options = LoadOptions {
            threads: Some(1),
            ..LoadOptions::default()
        };
        let loaded = Loaded::open(dir, &options).unwrap_or_else(|e| panic!("{e}"));
        let conversation = Conversation::new(&loaded.model, loaded.plan.ctx);
        Self {
            loaded,
            conversation,
        }
    }

    /// The answer to `messages` (user and assistant in turn).
    pub fn answer(&mut self, messages: &[&str], temperature: f32, seed: u64) -> String {
        let roles = [Role::User, Role::Assistant].into_iter().cycle();
        let messages = roles.zip(messages).map(|(r, &m)| Message::new(r, m));
        let request = Request {
            input: Input::Messages(messages.collect()),
            sampling: SamplingParams {
                temperature,
                seed: Some(seed),
                ..SamplingParams::default()
            },
            max_new_tokens: Some(200),
            stop: Vec::new(),
            ignore_eos: false,
            began_at_ms: None,
        };
        let mut said = String::new();
        Generator {
            model: &self.loaded.model,
            tokenizer: self.loaded.tokenizer.as_ref(),
            cancelled: &|| false,
            emit: &mut |event| match event {
                Event::Token { text, .. } | Event::Done { text, .. } => said.push_str(&text),
                Event::Error(failure) => panic!("{failure}"),
                _ => {}
            },
        }
        .generate(&mut self.conversation, &request);
        said
    }

    /// How the decoded tokens so far were routed.
    pub fn routing(&self) -> &RoutingStats {
        &self.conversation.session().routing
    }
}

/// How a model did.
pub struct Outcome<'a> {
    /// Share of the questions answered with the answer written for them.
    pub exact: f64,
    /// The same or one that is as good.
    pub right: f64,
    /// All others, and what was said.
    pub wrong: Vec<(&'a Question, String)>,
}

/// Asks all `questions`, each in a conversation of its own.
pub fn ask<'a>(
    demo: &mut Demo,
    questions: &'a [Question],
    temperature: f32,
    seed: u64,
) -> Outcome<'a> {
    let (mut exact, mut wrong) = (0, Vec::new());
    for question in questions {
        let said = demo.answer(&[&question.text], temperature, seed);
        if is_right(&said, &question.answer) {
            exact += 1;
        } else if !question
            .as_good
            .iter()
            .any(|answer| is_right(&said, answer))
        {
            wrong.push((question, said));
        }
    }
    let share = |n: usize| n as f64 / questions.len().max(1) as f64;
    Outcome {
        exact: share(exact),
        right: share(questions.len() - wrong.len()),
        wrong,
    }
}
