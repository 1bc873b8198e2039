//! The program is killed at any moment.
//!
//! The tests run themselves again as the program that is killed: an ignored test that does
//! something endless when the variable [`VICTIM`] names a file, and prints what is done.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Numbers, new_chat, scratch};
use octet_store::settings::{Settings, SettingsFile};
use octet_store::{ChatId, MessageId, MessageState, NewChat, StopReason, Store};

const VICTIM: &str = "OCTET_STORE_VICTIM";
const KILLS: usize = 36;

/// This program again, running only the named test.
fn victim(test: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(VICTIM, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets it print `lines` lines, then a moment more, kills it, and gives all that it printed.
fn kill_after(mut child: Child, lines: usize, more: Duration) -> Vec<String> {
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut printed = Vec::new();
    let mut left = lines;
    for line in out.lines().map_while(Result::ok) {
        let Some((_, said)) = line.split_once("done ") else {
            continue;
        };
        printed.push(said.to_owned());
        left = left.saturating_sub(1);
        if left == 0 && printed.len() == lines {
            thread::sleep(more);
            child.kill().unwrap();
        }
    }
    let _ = child.kill();
    child.wait().unwrap();
    assert!(printed.len() >= lines, "it ended by itself: {printed:?}");
    printed
}

/// In one write, so that a line is printed as a whole or not at all.
fn say(line: &str) {
    std::io::stdout()
        .write_all(format!("done {line}\n").as_bytes())
        .unwrap();
}

fn word(n: usize) -> String {
    format!("word{n} ")
}

#[test]
#[ignore = "is killed by killed_in_the_middle_of_an_answer"]
fn writes_answers_without_end() {
    let Some(path) = std::env::var_os(VICTIM) else {
        println!("skipped: nobody is there to kill it");
        return;
    };
    let store = Store::open(Path::new(&path)).unwrap();
    let chat = new_chat(&store);
    let mut parent = None;
    for round in 0.. {
        let question = store
            .add_user(chat, parent, &format!("question {round}"))
            .unwrap();
        say(&format!("asked {} {chat} {round}", question.id));
        let answer = store.begin_answer(chat, question.id, None).unwrap().id;
        let mut text = String::new();
        for n in 0..40 {
            text += &word(n);
            store.update_answer(answer, &text).unwrap();
            say(&format!("wrote {answer} {}", n + 1));
        }
        store
            .finish_answer(answer, &text, None, StopReason::Eos)
            .unwrap();
        say(&format!("finished {answer} 40"));
        parent = Some(answer);
    }
}

#[test]
fn killed_in_the_middle_of_an_answer() {
    let (folder, store) = scratch();
    let path = store.path().to_owned();
    drop(store);
    let mut numbers = Numbers(7);
    let mut interrupted = 0;
    for _ in 0..KILLS {
        let lines = 1 + numbers.below(60) as usize;
        let more = Duration::from_micros(numbers.below(5000));
        let printed = kill_after(victim("writes_answers_without_end", &path), lines, more);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.check().unwrap(), [""; 0]);
        interrupted += store.interrupted_at_open();
        check_against(&store, &printed);
    }
    assert!(
        interrupted >= KILLS / 2,
        "{interrupted} of {KILLS} were hit within an answer"
    );
    drop(folder);
}

/// All that was reported done is there, and at most one step more.
fn check_against(store: &Store, printed: &[String]) {
    let mut answers: HashMap<MessageId, (usize, bool)> = HashMap::new();
    let mut chat = None;
    for line in printed {
        let parts: Vec<&str> = line.split(' ').collect();
        let id: MessageId = parts[1].parse().unwrap();
        match parts[0] {
            "asked" => {
                assert_eq!(
                    store.message(id).unwrap().text,
                    format!("question {}", parts[3])
                );
                chat = Some(parts[2].parse::<ChatId>().unwrap());
            }
            kind => {
                answers.insert(id, (parts[2].parse().unwrap(), kind == "finished"));
            }
        }
    }
    let full: String = (0..40).map(word).collect();
    for (id, (words, is_finished)) in answers {
        let message = store.message(id).unwrap();
        let there = message.text.split_whitespace().count();
        assert!(full.starts_with(&message.text));
        assert!(
            there == words || there == words + 1,
            "{words} reported, {there} there"
        );
        if is_finished {
            assert_eq!(message.state, MessageState::Complete);
        }
    }
    let messages = store.chat(chat.unwrap()).unwrap().messages;
    assert!(
        messages
            .iter()
            .all(|message| message.state != MessageState::Streaming)
    );
    let cut = |state| {
        messages
            .iter()
            .filter(|message| message.state == state)
            .count()
    };
    assert!(cut(MessageState::Interrupted) <= 1);
    let found = store.search("question", 500).unwrap();
    assert!(found.iter().any(|hit| Some(hit.chat_id) == chat));
}

#[test]
#[ignore = "is killed by another_program_may_be_writing"]
fn writes_one_answer_slowly() {
    let Some(path) = std::env::var_os(VICTIM) else {
        println!("skipped: nobody is there to kill it");
        return;
    };
    let store = Store::open(Path::new(&path)).unwrap();
    let chat = new_chat(&store);
    let question = store.add_user(chat, None, "slowly").unwrap();
    let answer = store.begin_answer(chat, question.id, None).unwrap().id;
    say(&answer.to_string());
    for n in 0.. {
        store.update_answer(answer, &word(n)).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn another_program_may_be_writing() {
    let (_folder, store) = scratch();
    let path = store.path().to_owned();
    drop(store);
    let mut child = victim("writes_one_answer_slowly", &path);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let answer: MessageId = loop {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "it ended by itself");
        if let Some((_, id)) = line.split_once("done ") {
            break id.trim().parse().unwrap();
        }
    };
    let store = Store::open(&path).unwrap();
    assert_eq!(
        store.interrupted_at_open(),
        0,
        "somebody is still writing it"
    );
    for _ in 0..20 {
        store.create_chat(NewChat::default()).unwrap();
        assert_eq!(
            store.message(answer).unwrap().state,
            MessageState::Streaming
        );
    }
    drop(store);
    child.kill().unwrap();
    child.wait().unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.interrupted_at_open(), 1);
    assert_eq!(
        store.message(answer).unwrap().state,
        MessageState::Interrupted
    );
    assert_eq!(store.counts().unwrap().chats, 21);
}

#[test]
#[ignore = "is killed by settings_are_never_half_written"]
fn saves_settings_without_end() {
    let Some(path) = std::env::var_os(VICTIM) else {
        println!("skipped: nobody is there to kill it");
        return;
    };
    let (file, loaded) = SettingsFile::open(Path::new(&path));
    let mut settings = loaded.settings;
    for n in 0_u64.. {
        settings.sampling.seed = Some(n.to_string());
        settings.sampling.system_prompt = n.to_string().repeat(2000);
        file.save(&settings).unwrap();
        say(&n.to_string());
    }
}

#[test]
fn settings_are_never_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.json");
    SettingsFile::open(&path)
        .0
        .save(&Settings::default())
        .unwrap();
    let mut numbers = Numbers(11);
    for _ in 0..KILLS / 2 {
        let lines = 1 + numbers.below(20) as usize;
        let more = Duration::from_micros(numbers.below(3000));
        let printed = kill_after(victim("saves_settings_without_end", &path), lines, more);
        let last: u64 = printed.last().unwrap().parse().unwrap();
        let (_, loaded) = SettingsFile::open(&path);
        assert_eq!(loaded.notice, None);
        let seed: u64 = loaded.settings.sampling.seed.unwrap().parse().unwrap();
        assert!(
            seed == last || seed == last + 1,
            "{last} reported, {seed} there"
        );
        assert_eq!(
            loaded.settings.sampling.system_prompt,
            seed.to_string().repeat(2000)
        );
    }
}
