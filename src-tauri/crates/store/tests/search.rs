//! Finding things.
#![allow(clippy::unwrap_used)]

mod common;

use common::{exchange, new_chat, scratch};
use octet_store::{ChatFilter, ChatId, NewChat, Role, SearchHit, StopReason, Store};
use proptest::prelude::*;

/// A store with one chat, of these messages.
fn store_with(texts: &[&str]) -> (tempfile::TempDir, Store, ChatId) {
    let (folder, store) = scratch();
    let new = NewChat {
        title: Some("Untold".to_owned()),
        ..NewChat::default()
    };
    let chat = store.create_chat(new).unwrap().id;
    for text in texts {
        store.add_user(chat, None, text).unwrap();
    }
    (folder, store, chat)
}

fn found(store: &Store, query: &str) -> Vec<String> {
    let mut texts: Vec<String> = store
        .search(query, 50)
        .unwrap()
        .into_iter()
        .map(|hit| hit.snippet.text)
        .collect();
    texts.sort();
    texts
}

/// What is marked, cut out as JavaScript would.
fn marked(hit: &SearchHit) -> Vec<String> {
    let units: Vec<u16> = hit.snippet.text.encode_utf16().collect();
    let cut = |&[start, end]: &[u32; 2]| String::from_utf16(&units[start as usize..end as usize]);
    hit.snippet
        .matches
        .iter()
        .map(|range| cut(range).unwrap())
        .collect()
}

#[test]
fn words_phrases_and_beginnings() {
    let (_folder, store, _) = store_with(&[
        "The router picks two experts",
        "Two routers, no expert",
        "Café au lait",
        "naïve Übermut",
    ]);
    assert_eq!(found(&store, "router").len(), 2, "the last word may go on");
    assert_eq!(found(&store, "router "), ["The router picks two experts"]);
    assert_eq!(
        found(&store, "EXPERTS two"),
        ["The router picks two experts"]
    );
    assert_eq!(
        found(&store, "\"two experts\""),
        ["The router picks two experts"]
    );
    assert_eq!(found(&store, "\"two routers\""), ["Two routers, no expert"]);
    assert_eq!(
        found(&store, "\"two route"),
        ["Two routers, no expert"],
        "still typing"
    );
    assert_eq!(
        found(&store, "“two experts”"),
        ["The router picks two experts"]
    );
    assert_eq!(found(&store, "cafe"), ["Café au lait"]);
    assert_eq!(found(&store, "NAIVE ubermut"), ["naïve Übermut"]);
    assert_eq!(
        found(&store, "exp rou"),
        [""; 0],
        "only the last word may go on"
    );
    assert_eq!(found(&store, ""), [""; 0]);
    assert_eq!(found(&store, "  \t"), [""; 0]);
}

#[test]
fn matches_are_marked_in_utf16_units() {
    let (_folder, store, chat) = store_with(&["🦀🦀 crabs like Ünder waves, crabs!"]);
    let hits = store.search("crabs under", 10).unwrap();
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].chat_id, chat);
    assert_eq!(hits[0].role, Some(Role::User));
    assert_eq!(hits[0].title, "Untold");
    assert_eq!(marked(&hits[0]), ["crabs", "Ünder", "crabs"]);
    assert_eq!(hits[0].snippet.matches[0], [5, 10]);
}

#[test]
fn a_long_message_gives_a_short_snippet() {
    let long = format!("{} needle {}", "hay ".repeat(5000), "stack ".repeat(5000));
    let cjk = format!("{}针{}", "干草".repeat(5000), "堆".repeat(5000));
    let (_folder, store, _) = store_with(&[&long, &cjk]);
    for query in ["needle", "针"] {
        let hits = store.search(query, 10).unwrap();
        assert_eq!(marked(&hits[0]), [query]);
        assert!(hits[0].snippet.text.chars().count() < 250);
        assert!(hits[0].snippet.text.starts_with('…') && hits[0].snippet.text.ends_with('…'));
    }
}

#[test]
fn scripts_without_spaces_are_searched_by_substring() {
    let (_folder, store, _) = store_with(&[
        "専門家の混合モデルです",
        "เราเลือกผู้เชี่ยวชาญสองคน",
        "전문가혼합모델을 씁니다",
        "Mixtral 是专家混合模型",
    ]);
    assert_eq!(found(&store, "混合モデル"), ["専門家の混合モデルです"]);
    assert_eq!(found(&store, "เชี่ยวชาญ").len(), 1);
    assert_eq!(found(&store, "혼합모델").len(), 1);
    assert_eq!(found(&store, "mixtral 模型"), ["Mixtral 是专家混合模型"]);
    assert_eq!(found(&store, "混合").len(), 2);
    assert_eq!(found(&store, "混合 gpt"), [""; 0]);
    let hits = store.search("MIXTRAL 专家", 10).unwrap();
    assert_eq!(marked(&hits[0]), ["Mixtral", "专家"]);
}

// The index takes a line of Chinese with a name in it for one word.
#[test]
fn words_inside_a_line_of_another_script_are_found() {
    let (_folder, store, chat) = store_with(&[
        "重跑gen-itgc后",
        "好的，我会重跑gen-itgc后再看结果。",
        "在去Café吧喝",
        "oxygen氧",
        "ผู้ใช้Windowsและ",
        "서버를 Docker로 옮김",
        "plain gen text",
    ]);
    assert_eq!(found(&store, "gen").len(), 3);
    assert_eq!(found(&store, "gen-itgc").len(), 2);
    assert_eq!(found(&store, "GEN-it").len(), 2, "the last word may go on");
    assert_eq!(found(&store, "itgc ").len(), 2);
    assert_eq!(found(&store, "cafe"), ["在去Café吧喝"]);
    assert_eq!(found(&store, "windows"), ["ผู้ใช้Windowsและ"]);
    assert_eq!(found(&store, "docker"), ["서버를 Docker로 옮김"]);
    assert_eq!(found(&store, "oxygen"), ["oxygen氧"]);
    assert_eq!(found(&store, "xygen"), [""; 0], "no part of a word");
    assert_eq!(marked(&store.search("gen", 1).unwrap()[0]), ["gen"]);
    for title in ["重跑gen-itgc后", "再gen"] {
        store.rename_chat(chat, title).unwrap();
        let hits = store.search("gen", 10).unwrap();
        assert_eq!(
            (hits[0].message_id, marked(&hits[0])),
            (None, vec!["gen".to_owned()])
        );
        let filter = ChatFilter {
            query: Some("gen".to_owned()),
            ..ChatFilter::default()
        };
        assert_eq!(store.list_chats(&filter).unwrap().chats.len(), 1);
    }
    assert_eq!(store.search("gen", 2).unwrap().len(), 2);
}

// The signs fell away, and what was left of "C++" began "café".
#[test]
fn signs_are_part_of_the_words_they_are_in() {
    let texts = [
        "C++ is one",
        "C# is another",
        "plain C here",
        "café",
        ".NET and ASP.NET",
        "the net",
        "foo_bar",
        "foo-bar",
        "foo bar",
        "user@example.org",
        "v1.2.3",
        "v1 2 3",
        "$HOME",
        "home",
        "100% sure",
        "AT&T",
        "at t",
        "a*b*c",
    ];
    let (_folder, store, chat) = store_with(&texts);
    assert_eq!(found(&store, "C++"), ["C++ is one"]);
    assert_eq!(found(&store, "c+"), ["C++ is one"]);
    assert_eq!(found(&store, "C#"), ["C# is another"]);
    assert_eq!(
        found(&store, "C"),
        ["C# is another", "C++ is one", "a*b*c", "plain C here"]
    );
    assert_eq!(found(&store, ".NET"), [".NET and ASP.NET"]);
    assert_eq!(found(&store, "asp.n"), [".NET and ASP.NET"], "still typing");
    assert_eq!(found(&store, "foo_bar"), ["foo_bar"]);
    assert_eq!(found(&store, "foo_b"), ["foo_bar"], "still typing");
    assert_eq!(found(&store, "foo-bar"), ["foo-bar"]);
    assert_eq!(found(&store, "example.org"), ["user@example.org"]);
    assert_eq!(found(&store, "v1.2.3"), ["v1.2.3"]);
    assert_eq!(found(&store, "$HOME"), ["$HOME"]);
    assert_eq!(found(&store, "100% sure"), ["100% sure"]);
    assert_eq!(found(&store, "AT&T"), ["AT&T"]);
    assert_eq!(found(&store, "a*b"), ["a*b*c"]);
    assert_eq!(found(&store, "\"C++ is\""), ["C++ is one"]);
    assert_eq!(
        found(&store, "another."),
        ["C# is another"],
        "a sentence ends"
    );
    assert_eq!(found(&store, "plain C, here?"), ["plain C here"]);
    assert_eq!(marked(&store.search("c++", 1).unwrap()[0]), ["C++"]);
    store.rename_chat(chat, "About C++").unwrap();
    assert_eq!(store.search("C++", 10).unwrap().len(), 2);
    store.rename_chat(chat, "About cats").unwrap();
    assert_eq!(store.search("C++", 10).unwrap().len(), 1);
}

// What the index finds is cut at the newest thousand: what the signs rule out must not count.
#[test]
fn many_words_without_the_sign_hide_none_with_it() {
    let (_folder, store, chat) = store_with(&["C++ once"]);
    for _ in 0..1100 {
        store.add_user(chat, None, "vitamin C").unwrap();
    }
    assert_eq!(found(&store, "C++"), ["C++ once"]);
}

#[test]
fn emoji_and_marks_alone_are_searched_by_substring() {
    let (_folder, store, _) = store_with(&["ship it 🚀", "100% sure", "a -> b", "5 € → 6 $"]);
    assert_eq!(found(&store, "🚀"), ["ship it 🚀"]);
    assert_eq!(found(&store, "→ €"), ["5 € → 6 $"]);
    assert_eq!(found(&store, "€ $"), ["5 € → 6 $"]);
    assert_eq!(found(&store, "%"), ["100% sure"]);
    assert_eq!(found(&store, "->"), ["a -> b"]);
    assert_eq!(found(&store, "_"), [""; 0], "no wildcard");
}

#[test]
fn titles_come_first() {
    let (_folder, store) = scratch();
    let new = NewChat {
        title: Some("Expert caches".to_owned()),
        ..NewChat::default()
    };
    let titled = store.create_chat(new).unwrap().id;
    let chat = new_chat(&store);
    exchange(&store, chat, None, "hello", "an expert speaks");
    let hits = store.search("expert", 10).unwrap();
    assert_eq!(hits.len(), 2);
    assert_eq!((hits[0].chat_id, hits[0].message_id), (titled, None));
    assert_eq!(marked(&hits[0]), ["Expert"]);
    assert_eq!(hits[1].role, Some(Role::Assistant));
    store.rename_chat(titled, "Other").unwrap();
    assert_eq!(store.search("expert", 10).unwrap().len(), 1);
    store.delete_chat(chat).unwrap();
    assert_eq!(store.search("expert", 10).unwrap(), []);
    store.restore_chat(chat).unwrap();
    assert_eq!(store.search("expert", 10).unwrap().len(), 1);
}

#[test]
fn an_answer_is_found_when_it_has_ended_and_as_it_is_now() {
    let (_folder, store) = scratch();
    let chat = new_chat(&store);
    let question = store.add_user(chat, None, "?").unwrap();
    let answer = store.begin_answer(chat, question.id, None).unwrap().id;
    store.update_answer(answer, "apples").unwrap();
    assert_eq!(found(&store, "apples"), [""; 0]);
    store
        .finish_answer(answer, "apples and pears", None, StopReason::Eos)
        .unwrap();
    assert_eq!(found(&store, "pears"), ["apples and pears"]);
    store.edit_text(answer, "plums").unwrap();
    assert_eq!(found(&store, "apples"), [""; 0]);
    assert_eq!(found(&store, "plums"), ["plums"]);
    store.resume_answer(answer).unwrap();
    assert_eq!(found(&store, "plums"), [""; 0]);
    store
        .fail_answer(answer, "plums, cherries", "gone")
        .unwrap();
    assert_eq!(found(&store, "cherries"), ["plums, cherries"]);
}

#[test]
fn the_better_match_comes_first() {
    let (_folder, store, _) = store_with(&[
        "kernel kernel kernel",
        "a kernel among so many other words that it hardly counts for anything at all here",
    ]);
    let hits = store.search("kernel", 10).unwrap();
    assert_eq!(hits[0].snippet.text, "kernel kernel kernel");
    assert_eq!(store.search("kernel", 1).unwrap().len(), 1);
    assert_eq!(store.search("kernel", 0).unwrap().len(), 1, "at least one");
}

#[test]
fn no_query_is_wrong() {
    let (_folder, store, _) = store_with(&["some text AND other NEAR words OR not"]);
    for query in [
        "\"",
        "\"\"",
        "\"\"\"",
        "'",
        "AND",
        "OR",
        "NOT",
        "NEAR",
        "NEAR(a b)",
        "a AND",
        "* *",
        "text*",
        "^some",
        "text:some",
        "-text",
        "some + text",
        "(",
        ")",
        "{a b}:c",
        "\\",
        ";",
        "'; DROP TABLE messages; --",
        "a\0b",
        "\0",
        "\u{feff}",
        "\u{301}",
        "\u{1f468}\u{200d}",
        "\u{e000}",
        "²",
        "٣",
        "ǅ",
        "\u{ad}",
        "%%%",
        "_",
        "[a-z]",
        "*?[",
    ] {
        store
            .search(query, 10)
            .unwrap_or_else(|error| panic!("{query:?}: {error}"));
    }
    let long = "word ".repeat(100_000);
    store.search(&long, 10).unwrap();
    store.search(&"专".repeat(100_000), 10).unwrap();
    store.search(&"\"".repeat(100_000), 10).unwrap();
    assert_eq!(found(&store, "NEAR").len(), 1, "words like any other");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_was_said_is_found_and_marks_lie_inside(
        texts in proptest::collection::vec("[a-zàéöA-Z0-9 \"'*()的模型ก🦀._-]{0,40}", 1..4),
        query in "[a-zàéö \"'*():^的模型ก🦀._-]{0,20}|\\PC{0,12}",
    ) {
        thread_local! {
            static STORE: (tempfile::TempDir, Store) = scratch();
        }
        STORE.with(|(_, store)| {
            let chat = new_chat(store);
            for text in &texts {
                store.add_user(chat, None, text).unwrap();
            }
            for hit in store.search(&query, 50).unwrap() {
                let length = hit.snippet.text.encode_utf16().count() as u32;
                let mut end = 0;
                for [from, to] in &hit.snippet.matches {
                    prop_assert!(end <= *from && from < to && *to <= length);
                    end = *to;
                }
            }
            let words: Vec<&str> = texts[0].split(|c: char| !c.is_ascii_alphanumeric())
                .filter(|word| word.len() > 3).collect();
            if let Some(word) = words.first() && !texts[0].contains(|c: char| !c.is_ascii()) {
                let hits = store.search(word, 500).unwrap();
                prop_assert!(hits.iter().any(|hit| hit.chat_id == chat), "{word:?}");
            }
            store.delete_chat(chat).unwrap();
            Ok(())
        })?;
    }
}
