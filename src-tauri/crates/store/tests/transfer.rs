//! Export and import.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::io::Read;

use common::{Numbers, answer_to, exchange, new_chat, scratch, stats};
use octet_store::{
    Chat, ChatFilter, ChatId, Format, ImportError, MAX_IMPORT_MESSAGES, Message, MessageState,
    NewChat, Role, Store, StoreError, Timestamp,
};
use proptest::prelude::*;

fn export(store: &Store, format: Format) -> String {
    let mut bytes = Vec::new();
    store.export_to(None, format, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn all(store: &Store) -> Vec<Chat> {
    let filter = ChatFilter {
        limit: 1000,
        ..ChatFilter::default()
    };
    let page = store.list_chats(&filter).unwrap();
    page.chats
        .iter()
        .map(|chat| store.chat(chat.id).unwrap())
        .collect()
}

/// A store with a chat that has two branches.
fn sample() -> (tempfile::TempDir, Store, ChatId) {
    let (folder, store) = scratch();
    let chat = store
        .create_chat(NewChat {
            title: Some("Sample --> *chat*".to_owned()),
            model: Some("mixtral".to_owned()),
            system_prompt: Some("Be <brief> -->\n".to_owned()),
        })
        .unwrap()
        .id;
    let (question, first) = exchange(&store, chat, None, "What?\n\n", "# First\n\n```\ncode\n```");
    answer_to(&store, chat, question.id, "second");
    store.show_branch(chat, first.id).unwrap();
    store.pin_chat(chat, true).unwrap();
    (folder, store, chat)
}

fn import_error(store: &Store, format: Format, text: &[u8]) -> ImportError {
    let before = store.counts().unwrap();
    let error = store.import_from(format, text).unwrap_err();
    assert_eq!(store.counts().unwrap(), before, "nothing of it is there");
    match error {
        StoreError::Import(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn json_holds_everything() {
    let (folder, store, chat) = sample();
    let path = folder.path().join("chats.json");
    assert_eq!(store.export(None, Format::Json, &path).unwrap(), 1);
    let (_folder, other) = scratch();
    let result = other.import(&path).unwrap();
    assert_eq!((result.chats, result.messages), (1, 3));
    assert_eq!(other.chat(chat).unwrap(), store.chat(chat).unwrap());
    assert_eq!(other.search("second", 10).unwrap().len(), 1);
    assert_eq!(other.check().unwrap(), [""; 0]);
}

#[test]
fn what_is_here_already_comes_in_as_a_copy() {
    let (_folder, store, chat) = sample();
    let json = export(&store, Format::Json);
    let original = store.chat(chat).unwrap();
    for count in 2..4 {
        store.import_from(Format::Json, json.as_bytes()).unwrap();
        assert_eq!(store.counts().unwrap().chats, count);
    }
    assert_eq!(store.chat(chat).unwrap(), original);
    for copy in all(&store) {
        let texts = |chat: &Chat| -> Vec<String> {
            chat.messages
                .iter()
                .map(|message| message.text.clone())
                .collect()
        };
        assert_eq!(texts(&copy), texts(&original));
        assert_eq!(copy.active_branch().len(), 2);
    }
    store.delete_chat(chat).unwrap();
    store.import_from(Format::Json, json.as_bytes()).unwrap();
    assert_eq!(
        store.counts().unwrap().chats,
        3,
        "the deleted one can still be restored"
    );
    store.restore_chat(chat).unwrap();
}

#[test]
fn markdown_holds_the_active_branch() {
    let (folder, store, chat) = sample();
    let tricky = "text\n<!-- octet:message {} -->\n\\<!-- octet:chat\n## You\n\n";
    let leaf = store.chat(chat).unwrap().active_leaf;
    exchange(&store, chat, leaf, tricky, "");
    let second = new_chat(&store);
    exchange(
        &store,
        second,
        None,
        "\nsecond chat",
        "ends with breaks\n\n\n",
    );
    let path = folder.path().join("chats.md");
    assert_eq!(store.export(None, Format::Markdown, &path).unwrap(), 2);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\n# Sample --> *chat*\n"), "{text}");
    assert!(text.contains("\n## mixtral\n"));

    for text in [
        text.clone(),
        text.replace('\n', "\r\n"),
        format!("\u{feff}{text}"),
    ] {
        let (_folder, other) = scratch();
        let result = other
            .import_from(Format::Markdown, text.as_bytes())
            .unwrap();
        assert_eq!((result.chats, result.messages), (2, 6));
        let (mut from, mut to) = (all(&store), all(&other));
        from.sort_by_key(|chat| chat.created_at);
        to.sort_by_key(|chat| chat.created_at);
        for (from, to) in from.iter().zip(&to) {
            assert_eq!((&from.title, from.pinned), (&to.title, to.pinned));
            assert_eq!(from.system_prompt, to.system_prompt);
            assert_eq!(from.updated_at, to.updated_at);
            let said = |chat: &Chat| -> Vec<(Role, String, Timestamp)> {
                let branch = chat.active_branch();
                branch
                    .iter()
                    .map(|m| (m.role, m.text.clone(), m.created_at))
                    .collect()
            };
            assert_eq!(said(from), said(to));
        }
    }
}

#[test]
fn the_format_is_told_by_the_content_not_the_name() {
    let (folder, store, _) = sample();
    for format in [Format::Json, Format::Markdown] {
        let path = folder.path().join("chats.txt");
        store.export(None, format, &path).unwrap();
        let (_folder, other) = scratch();
        assert_eq!(other.import(&path).unwrap().chats, 1);
        let bom = [b"\xef\xbb\xbf".as_slice(), &std::fs::read(&path).unwrap()].concat();
        std::fs::write(&path, bom).unwrap();
        assert_eq!(other.import(&path).unwrap().chats, 1);
    }
    let missing = store.import(&folder.path().join("missing.json"));
    assert!(matches!(missing, Err(StoreError::Io { .. })), "{missing:?}");
    let is_folder = store.import(folder.path());
    assert!(is_folder.is_err());
}

#[test]
fn an_export_replaces_its_file_as_a_whole_or_not_at_all() {
    let (folder, store, chat) = sample();
    let path = folder.path().join("export.json");
    std::fs::write(&path, "before").unwrap();
    store.delete_chat(chat).unwrap();
    let gone = store.export(Some(chat), Format::Json, &path);
    assert!(matches!(gone, Err(StoreError::NotFound { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
    let left = std::fs::read_dir(folder.path()).unwrap().filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .ends_with(".tmp")
    });
    assert_eq!(left.count(), 0);
    assert_eq!(store.export(None, Format::Json, &path).unwrap(), 0);
    assert_eq!(store.import(&path).unwrap().chats, 0);
}

#[test]
fn a_streaming_answer_is_interrupted_where_it_arrives() {
    let (_folder, store) = scratch();
    let chat = new_chat(&store);
    let question = store.add_user(chat, None, "q").unwrap();
    let answer = store.begin_answer(chat, question.id, None).unwrap().id;
    store.update_answer(answer, "so far").unwrap();
    let json = export(&store, Format::Json);
    let (_folder, other) = scratch();
    other.import_from(Format::Json, json.as_bytes()).unwrap();
    assert_eq!(
        other.message(answer).unwrap().state,
        MessageState::Interrupted
    );
    let copy = store.duplicate_chat(chat).unwrap().id;
    assert_eq!(
        store.chat(copy).unwrap().messages[1].state,
        MessageState::Interrupted
    );
}

fn chat_json(messages: &str, leaf: &str) -> String {
    format!(
        r#"{{"format":"octet-chats","version":1,"chats":[{{"id":"01940000-0000-7000-8000-00000000000a",
        "title":"T","pinned":false,"createdAt":1,"updatedAt":2,"activeLeaf":{leaf},"messages":[{messages}]}}]}}"#
    )
}

fn message_json(id: u8, parent: Option<u8>) -> String {
    let uuid = |n: u8| format!("\"01940000-0000-7000-8000-0000000000{n:02x}\"");
    format!(
        r#"{{"id":{},"parentId":{},"role":"user","text":"{id}","createdAt":{id},"state":"complete"}}"#,
        uuid(id),
        parent.map_or("null".to_owned(), uuid)
    )
}

#[test]
fn messages_in_any_order_are_sorted_into_a_tree() {
    let (_folder, store) = scratch();
    let messages = [(3, Some(2)), (2, Some(1)), (1, None), (4, Some(1))];
    let messages = messages
        .map(|(id, parent)| message_json(id, parent))
        .join(",");
    let leaf = "\"01940000-0000-7000-8000-000000000003\"";
    store
        .import_from(Format::Json, chat_json(&messages, leaf).as_bytes())
        .unwrap();
    let chat = all(&store).remove(0);
    let texts: Vec<&str> = chat
        .active_branch()
        .iter()
        .map(|m| m.text.as_str())
        .collect();
    assert_eq!(texts, ["1", "2", "3"]);
    assert_eq!(chat.messages.len(), 4);
}

#[test]
fn inconsistent_chats_are_refused() {
    let (_folder, store) = scratch();
    let one = message_json(1, None);
    for (messages, leaf, reason) in [
        (format!("{one},{one}"), "null", "two messages"),
        (message_json(1, Some(9)), "null", "missing one"),
        (message_json(1, Some(1)), "null", "circle"),
        (
            [message_json(1, Some(2)), message_json(2, Some(1))].join(","),
            "null",
            "circle",
        ),
        (
            one.clone(),
            "\"01940000-0000-7000-8000-000000000009\"",
            "active message",
        ),
    ] {
        let error = import_error(&store, Format::Json, chat_json(&messages, leaf).as_bytes());
        let message = error.to_string();
        assert!(
            matches!(error, ImportError::Chat { number: 1, .. }),
            "{message}"
        );
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn foreign_and_broken_files_are_refused_with_the_reason() {
    let (_folder, store, _) = sample();
    let json = export(&store, Format::Json);
    let refused = |text: &str| import_error(&store, Format::Json, text.as_bytes());
    for text in [
        "",
        "{",
        "[]",
        "null",
        "{\"format\":1}",
        "{\"format\":\"octet-chats\",\"version\":-1}",
    ] {
        assert!(
            matches!(refused(text), ImportError::Syntax { .. }),
            "{text}"
        );
    }
    for text in [
        "{}",
        "{\"format\":\"other\"}",
        "{\"chats\":[]}",
        "{\"format\":\"octet-chats\",\"version\":1}",
    ] {
        assert!(
            matches!(refused(text), ImportError::NotOurs { .. }),
            "{text}"
        );
    }
    let newer = refused(&json.replacen("\"version\":1", "\"version\":2", 1));
    assert!(
        matches!(newer, ImportError::Newer { found: 2, known: 1 }),
        "{newer}"
    );
    let cut = refused(&json[..json.len() - 5]);
    assert!(matches!(cut, ImportError::Syntax { line: 2, .. }), "{cut}");
    refused(&format!("{json} more"));
    refused(&json.replacen("\"user\"", "\"system\"", 1));
    refused(&json.replacen("\"createdAt\":", "\"createdAt\":1e99,\"x\":", 1));
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(refused(&deep), ImportError::NotOurs { .. }));
    let deep = deep.replace("\"x\"", "\"format\"");
    assert!(matches!(refused(&deep), ImportError::Syntax { .. }));

    let markdown = export(&store, Format::Markdown);
    let refused = |text: &[u8]| import_error(&store, Format::Markdown, text);
    for text in [
        b"# Notes\n\nhello".as_slice(),
        b"",
        b"\xff\xfe\x00",
        b"<!-- octet:message {} -->",
    ] {
        let error = refused(text);
        assert!(matches!(error, ImportError::NotOurs { .. }), "{error}");
    }
    let newer = refused(
        markdown
            .replacen("\"version\":1", "\"version\":9", 1)
            .as_bytes(),
    );
    assert!(matches!(newer, ImportError::Newer { found: 9, known: 1 }));
    let broken = refused(markdown.replacen("\"role\"", "\"rôle\"", 1).as_bytes());
    assert!(
        matches!(broken, ImportError::Syntax { line: 6, .. }),
        "{broken}"
    );
}

#[test]
fn files_of_other_programs_are_refused_by_their_name() {
    let (folder, store, _) = sample();
    let json = export(&store, Format::Json);
    let chatgpt = r#"[{"title":"x","create_time":1.5,"update_time":1.5,"mapping":{"root":{}}}]"#;
    let open_webui = r#"[{"id":"1","user_id":"u","title":"x","chat":{"history":{}}}]"#;
    let lm_studio = r#"{"name":"x","pinned":false,"messages":[{"versions":[{"role":"user"}]}]}"#;
    let openai = r#"[{"role":"user","content":"Hello"}]"#;
    let wide: Vec<u8> = json.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [b"\xff\xfe".as_slice(), &wide].concat();
    for (bytes, message) in [
        (chatgpt.as_bytes(), "the file is a ChatGPT export"),
        (open_webui.as_bytes(), "the file is an Open WebUI export"),
        (
            lm_studio.as_bytes(),
            "the file is an LM Studio conversation",
        ),
        (
            openai.as_bytes(),
            "the file is a list of messages as OpenAI’s API takes them",
        ),
        (b"", "the file is empty"),
        (b"\n", "the file is empty"),
        (&marked, "the file is text in UTF-16: save it as UTF-8"),
        (&wide, "the file is text in UTF-16: save it as UTF-8"),
        (
            b"PK\x03\x04\0\0\0\0",
            "the file is a zip archive: unpack it first",
        ),
        (
            b"# A chat\n\n**User**: hello\n",
            "the file was not exported by Octet: it contains no chats",
        ),
        (
            &json.as_bytes()[..json.len() - 5],
            "the file is damaged at line 2, column 0: it ends in the middle of a chat",
        ),
        (
            br#"{"format":"octet-chats","version":99,"chats":[]}"#,
            "the file was written by a newer Octet: it has format 99, this version reads formats \
             up to 1",
        ),
    ] {
        // Whatever it is called.
        let path = folder.path().join("chats.json");
        std::fs::write(&path, bytes).unwrap();
        let before = store.counts().unwrap();
        let error = store.import(&path).unwrap_err();
        let text = error.to_string();
        let same = match message.split_once(", column 0") {
            Some((start, end)) => text.starts_with(start) && text.ends_with(end),
            None => text == message,
        };
        assert!(same, "{text:?} is not {message:?}");
        assert!(matches!(error, StoreError::Import(_)), "{error}");
        assert_eq!(store.counts().unwrap(), before);
    }
}

#[test]
fn one_bad_chat_keeps_all_out() {
    let (_folder, store) = scratch();
    let good = chat_json(&message_json(1, None), "null");
    let bad = chat_json(&message_json(2, Some(9)), "null");
    let list = |text: &str| text[text.find('[').unwrap() + 1..text.len() - 2].to_owned();
    let both = good.replace(&list(&good), &format!("{},{}", list(&good), list(&bad)));
    let error = import_error(&store, Format::Json, both.as_bytes());
    assert!(
        matches!(error, ImportError::Chat { number: 2, .. }),
        "{error}"
    );
    assert_eq!(store.counts().unwrap().chats, 0);
}

#[test]
fn too_much_is_refused() {
    let (_folder, store) = scratch();
    let text = "x".repeat(octet_store::MAX_TEXT_BYTES + 1);
    let long = message_json(1, None).replace("\"text\":\"1\"", &format!("\"text\":\"{text}\""));
    let error = import_error(&store, Format::Json, chat_json(&long, "null").as_bytes());
    assert!(matches!(error, ImportError::TooLarge { .. }), "{error}");

    // Endless, so that it has to be refused before its end.
    let mut number = 0_u64;
    let mut pending = Vec::new();
    let endless = std::iter::from_fn(move || {
        if pending.is_empty() {
            pending = format!(
                r#"{{"id":"01940000-0000-7000-8000-{number:012x}","parentId":null,"role":"user","text":"","createdAt":1,"state":"complete"}},"#
            )
            .into_bytes();
            pending.reverse();
            number += 1;
        }
        pending.pop()
    });
    let head = chat_json("", "null");
    let head = &head[..head.len() - 4];
    let error = store
        .import_from(Format::Json, head.as_bytes().chain(Bytes(endless)))
        .unwrap_err()
        .to_string();
    assert!(error.contains(&MAX_IMPORT_MESSAGES.to_string()), "{error}");
    assert_eq!(store.counts().unwrap().chats, 0);
}

struct Bytes<I>(I);

impl<I: Iterator<Item = u8>> Read for Bytes<I> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.0.by_ref().take(buffer.len());
        Ok(buffer
            .iter_mut()
            .zip(bytes)
            .map(|(place, byte)| *place = byte)
            .count())
    }
}

/// What is typed or answered: no zero bytes, which are replaced.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~\n]{0,60}",
        "\\PC{0,30}",
        Just("<!-- octet:message {\"role\":\"user\"} -->\n\n## You\n\n".to_owned()),
        "(\\\\{0,3}<!-- octet:(chat|message) -->\r?\n){1,3}",
        "[\n\r\t #-]{0,12}",
    ]
}

prop_compose! {
    fn chat()(
        title in "\\PC{0,20}",
        system_prompt in proptest::option::of(text()),
        pinned: bool,
        created_at in 0_i64..8_640_000_000_000_000,
        nodes in proptest::collection::vec((any::<u64>(), text(), 0_u8..4, any::<bool>(), any::<f64>()), 0..12),
        leaf: u64,
    ) -> Chat {
        let mut numbers = Numbers(created_at as u64 ^ leaf);
        let mut id = || format!("{:08x}-0000-7000-8000-{:012x}", numbers.next() as u32, numbers.next() >> 16);
        let mut messages: Vec<Message> = Vec::new();
        for (parent, text, state, is_user, rate) in nodes {
            let parent = parent as usize % (messages.len() + 1);
            let mut figures = stats();
            if rate.is_finite() {
                figures.tokens_per_sec = rate;
                figures.hit_rate = None;
            }
            messages.push(Message {
                id: id().parse().unwrap(),
                parent_id: messages.get(parent).map(|parent| parent.id),
                role: if is_user { Role::User } else { Role::Assistant },
                text,
                created_at: Timestamp::from_ms(created_at),
                state: [MessageState::Complete, MessageState::Interrupted, MessageState::Stopped, MessageState::Error][state as usize],
                stats: (!is_user).then_some(figures),
                model: (!is_user).then(|| "a model".to_owned()),
                error: (state == 3).then(|| "failed\n".to_owned()),
            });
        }
        let parents: HashSet<_> = messages.iter().filter_map(|message| message.parent_id).collect();
        let leaves: Vec<_> = messages.iter().filter(|message| !parents.contains(&message.id)).collect();
        let active_leaf = leaves.get(leaf as usize % leaves.len().max(1)).map(|leaf| leaf.id);
        Chat {
            id: id().parse().unwrap(),
            title: title.split_whitespace().collect::<Vec<_>>().join(" "),
            model: None,
            system_prompt,
            pinned,
            created_at: Timestamp::from_ms(created_at),
            updated_at: Timestamp::from_ms(created_at / 2),
            active_leaf,
            messages,
        }
    }
}

fn file_of(chats: &[Chat]) -> String {
    let chats = serde_json::to_string(chats).unwrap();
    format!("{{\"format\":\"octet-chats\",\"version\":1,\"exportedAt\":0,\"chats\":{chats}}}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_chats_survive_the_round_trip(chats in proptest::collection::vec(chat(), 1..4)) {
        let (_folder, store) = scratch();
        store.import_from(Format::Json, file_of(&chats).as_bytes()).unwrap();
        for chat in &chats {
            prop_assert_eq!(&store.chat(chat.id).unwrap(), chat);
        }
        let exported = export(&store, Format::Json);
        let (_folder, other) = scratch();
        other.import_from(Format::Json, exported.as_bytes()).unwrap();
        for chat in &chats {
            prop_assert_eq!(&other.chat(chat.id).unwrap(), chat);
        }

        let exported = export(&store, Format::Markdown);
        let (_folder, other) = scratch();
        other.import_from(Format::Markdown, exported.as_bytes()).unwrap();
        let said = |chat: &Chat| -> Vec<(Role, String, Option<String>)> {
            chat.active_branch().iter().map(|m| (m.role, m.text.clone(), m.error.clone())).collect()
        };
        let mut from: Vec<_> = chats.iter().map(|chat| (said(chat), chat.title.clone())).collect();
        let mut to: Vec<_> = all(&other).iter().map(|chat| (said(chat), chat.title.clone())).collect();
        from.sort_by_key(|chat| format!("{chat:?}"));
        to.sort_by_key(|chat| format!("{chat:?}"));
        prop_assert_eq!(from, to);
    }

    #[test]
    fn a_mutated_file_is_imported_or_refused_and_nothing_between(
        chats in proptest::collection::vec(chat(), 1..3),
        seed: u64,
        markdown: bool,
    ) {
        let (_folder, store) = scratch();
        store.import_from(Format::Json, file_of(&chats).as_bytes()).unwrap();
        let format = if markdown { Format::Markdown } else { Format::Json };
        let original = export(&store, format).into_bytes();
        let mut numbers = Numbers(seed);
        for _ in 0..20 {
            let mut bytes = original.clone();
            for _ in 0..=numbers.below(3) {
                let at = numbers.below(bytes.len() as u64) as usize;
                let to = (at + numbers.below(30) as usize).min(bytes.len());
                match numbers.below(4) {
                    0 => bytes[at] = numbers.next() as u8,
                    1 => { bytes.drain(at..to); }
                    2 => { let piece = bytes[at..to].to_vec(); bytes.splice(at..at, piece); }
                    _ => bytes[at] = b"{}[]\":,0-"[numbers.below(9) as usize],
                }
                if bytes.is_empty() {
                    bytes.push(b' ');
                }
            }
            let before = store.counts().unwrap();
            match store.import_from(format, bytes.as_slice()) {
                Ok(result) => {
                    let after = store.counts().unwrap();
                    prop_assert_eq!(after.chats, before.chats + result.chats);
                    prop_assert_eq!(after.messages, before.messages + result.messages);
                }
                Err(error) => {
                    prop_assert!(matches!(error, StoreError::Import(_)), "{}", error);
                    prop_assert_eq!(store.counts().unwrap(), before);
                }
            }
        }
        prop_assert_eq!(store.check().unwrap(), Vec::<String>::new());
    }
}
