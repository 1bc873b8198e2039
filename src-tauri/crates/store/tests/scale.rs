//! Many chats. The timings are of `cargo test --release -p octet-store --test scale -- --ignored
//! --nocapture`.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write;
use std::time::{Duration, Instant};

use common::{Numbers, scratch};
use octet_store::{ChatFilter, Format, Store};

const WORDS: [&str; 24] = [
    "expert", "router", "layer", "token", "cache", "memory", "model", "answer", "question",
    "kernel", "matrix", "offload", "prefetch", "the", "a", "of", "and", "to", "is", "in", "with",
    "for", "that", "über",
];

/// Chats as a file: `chats` with `messages` each, of some 300 bytes. Every hundredth message has
/// a rare word, and some are Chinese.
fn file_of(chats: u64, messages: u64) -> String {
    let mut numbers = Numbers(1);
    let mut json = "{\"format\":\"octet-chats\",\"version\":1,\"chats\":[".to_owned();
    let id = |chat: u64, message: u64| format!("01940000-0000-7000-8000-{chat:06x}{message:06x}");
    for chat in 0..chats {
        let comma = if chat == 0 { "" } else { "," };
        let time = 1_700_000_000_000 + chat * 60_000;
        let _ = write!(
            json,
            "{comma}\n{{\"id\":\"{}\",\"title\":\"Chat {chat} about {}\",\"pinned\":{},\
             \"createdAt\":{time},\"updatedAt\":{time},\"activeLeaf\":\"{}\",\"messages\":[",
            id(chat, 0),
            WORDS[numbers.below(13) as usize],
            chat % 1000 == 0,
            id(chat, messages),
        );
        for message in 1..=messages {
            let comma = if message == 1 { "" } else { "," };
            let parent = match message {
                1 => "null".to_owned(),
                _ => format!("\"{}\"", id(chat, message - 1)),
            };
            let role = if message % 2 == 1 {
                "user"
            } else {
                "assistant"
            };
            let _ = write!(
                json,
                "{comma}{{\"id\":\"{}\",\"parentId\":{parent},\"role\":\"{role}\",\
                 \"createdAt\":{time},\"state\":\"complete\",\"text\":\"",
                id(chat, message)
            );
            for _ in 0..50 {
                // Some words are common, others rare, as in any language.
                let place = numbers.below(24).min(numbers.below(24));
                let _ = write!(json, "{} ", WORDS[23 - place as usize]);
            }
            if numbers.below(100) == 0 {
                let _ = write!(
                    json,
                    "rare{} 专家混合模型{}",
                    numbers.below(50),
                    numbers.below(50)
                );
            }
            json += "\"}";
        }
        json += "]}";
    }
    json + "]}"
}

/// The median of some runs.
fn timed<T>(what: &str, mut work: impl FnMut() -> T) -> T {
    let mut times = Vec::new();
    let mut result = None;
    for _ in 0..9 {
        let start = Instant::now();
        result = Some(work());
        times.push(start.elapsed());
    }
    times.sort();
    println!("{what:40} {:9.2} ms", times[4].as_secs_f64() * 1e3);
    result.unwrap()
}

fn fill(store: &Store, chats: u64, messages: u64) {
    let json = file_of(chats, messages);
    let start = Instant::now();
    let result = store.import_from(Format::Json, json.as_bytes()).unwrap();
    println!(
        "import of {} chats, {} messages, {} MB: {:?}",
        result.chats,
        result.messages,
        json.len() >> 20,
        start.elapsed()
    );
    assert_eq!(u64::from(result.messages), chats * messages);
}

fn exercise(store: &Store, messages: u32) {
    let filter = ChatFilter {
        limit: 50,
        ..ChatFilter::default()
    };
    let page = timed("first page", || store.list_chats(&filter).unwrap());
    assert_eq!(page.chats.len(), 50);
    assert!(page.chats.iter().take(10).all(|chat| chat.pinned));
    assert!(page.chats[10].title.starts_with("Chat 9999 "));
    assert!(page.chats.iter().all(|chat| chat.message_count == messages));
    let filter = ChatFilter {
        before: page.next,
        ..filter
    };
    let page = timed("second page", || store.list_chats(&filter).unwrap());
    assert_eq!(page.chats.len(), 50);
    let filter = ChatFilter {
        query: Some("kernel".to_owned()),
        limit: 50,
        before: None,
    };
    timed("page of titles with a word", || {
        store.list_chats(&filter).unwrap()
    });
    let id = page.chats[0].id;
    timed("a chat", || store.chat(id).unwrap());
    for query in [
        "rare7",
        "a",
        "ra",
        "the",
        "expert",
        "expert router",
        "\"the expert\"",
        "专家",
        "模型7",
        "not there",
        "专门",
        "专家 expert",
        "🚀",
        "über matr",
    ] {
        let hits = timed(&format!("search {query}"), || {
            store.search(query, 50).unwrap()
        });
        let is_there = !["not there", "专门", "🚀"].contains(&query);
        assert_eq!(!hits.is_empty(), is_there, "{query}: {} hits", hits.len());
    }
    timed("counts", || store.counts().unwrap());
}

#[test]
fn ten_thousand_chats_are_listed_and_searched() {
    let (_folder, store) = scratch();
    fill(&store, 10_000, 2);
    exercise(&store, 2);
}

#[test]
#[ignore = "measures: takes a minute, asserts nothing on time"]
fn ten_thousand_chats_of_twenty_messages_measured() {
    let (_folder, store) = scratch();
    fill(&store, 10_000, 20);
    println!("{} MB on disk", store.size_bytes() >> 20);
    exercise(&store, 20);

    let chat = store
        .create_chat(octet_store::NewChat::default())
        .unwrap()
        .id;
    let mut parent = None;
    for n in 0..2000 {
        parent = Some(
            store
                .add_user(chat, parent, &format!("message {n}"))
                .unwrap()
                .id,
        );
    }
    timed("a chat of 2,000 messages", || store.chat(chat).unwrap());
    timed("a message", || {
        store.add_user(chat, parent, "one more").unwrap()
    });
    let answer = store.begin_answer(chat, parent.unwrap(), None).unwrap().id;
    let text = "word ".repeat(1000);
    timed("an update of 5 kB", || {
        store.update_answer(answer, &text).unwrap()
    });

    let path = store.path().to_owned();
    drop(store);
    let store = timed("open", || Store::open(&path).unwrap());
    timed("backup", || store.back_up().unwrap());
    timed("check", || store.check().unwrap());
    let page = store
        .list_chats(&ChatFilter {
            limit: 1000,
            ..ChatFilter::default()
        })
        .unwrap();
    let start = Instant::now();
    for chat in &page.chats {
        store.delete_chat(chat.id).unwrap();
    }
    println!("deleting 1000 chats: {:?}", start.elapsed());
    let start = Instant::now();
    store.purge(Duration::ZERO).unwrap();
    println!("purging them: {:?}", start.elapsed());
    let start = Instant::now();
    store.compact().unwrap();
    println!("compacting: {:?}", start.elapsed());
}
