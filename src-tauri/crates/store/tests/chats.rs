//! Chats and their trees of messages.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::{answer_to, exchange, new_chat, scratch, stats};
use octet_store::{
    AnswerStats, ChatFilter, ChatId, MessageState, NewChat, Role, StopReason, Store, StoreError,
};

fn titles(store: &Store) -> Vec<String> {
    let filter = ChatFilter {
        limit: 100,
        ..ChatFilter::default()
    };
    let page = store.list_chats(&filter).unwrap();
    page.chats.into_iter().map(|chat| chat.title).collect()
}

fn titled(store: &Store, title: &str) -> ChatId {
    let new = NewChat {
        title: Some(title.to_owned()),
        ..NewChat::default()
    };
    store.create_chat(new).unwrap().id
}

fn tick() {
    std::thread::sleep(Duration::from_millis(2));
}

fn is_not_found<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotFound { .. }))
}

#[test]
fn an_answer_grows_and_ends_with_its_figures() {
    let (_folder, store) = scratch();
    let chat = new_chat(&store);
    let question = store
        .add_user(chat, None, "What is an **expert**?\n")
        .unwrap();
    assert_eq!(question.state, MessageState::Complete);
    assert_eq!(question.text, "What is an **expert**?\n");
    let answer = store
        .begin_answer(chat, question.id, Some("mixtral"))
        .unwrap();
    assert_eq!(answer.state, MessageState::Streaming);
    assert_eq!(store.chat(chat).unwrap().active_leaf, Some(answer.id));
    store.update_answer(answer.id, "One of").unwrap();
    store.append_answer(answer.id, " eight").unwrap();
    assert_eq!(store.message(answer.id).unwrap().text, "One of eight");
    let done = store
        .finish_answer(
            answer.id,
            "One of eight.",
            Some(stats()),
            StopReason::Length,
        )
        .unwrap();
    assert_eq!(done, store.message(answer.id).unwrap());
    assert_eq!(done.state, MessageState::Complete);
    let expected = AnswerStats {
        stop_reason: StopReason::Length,
        ..stats()
    };
    assert_eq!(done.stats, Some(expected));
    assert_eq!(done.model.as_deref(), Some("mixtral"));
    assert_eq!(store.chat_of(answer.id).unwrap(), chat);

    let late = store.update_answer(answer.id, "more");
    assert!(
        matches!(late, Err(StoreError::NotStreaming { .. })),
        "{late:?}"
    );
    let summary = store.chat_summary(chat).unwrap();
    assert_eq!(summary.title, "What is an expert?");
    assert_eq!(summary.preview, "One of eight.");
    assert_eq!(summary.message_count, 2);
}

#[test]
fn stopped_failed_and_continued_answers_say_so() {
    let (_folder, store) = scratch();
    let chat = new_chat(&store);
    let question = store.add_user(chat, None, "Go").unwrap();
    let answer = store.begin_answer(chat, question.id, None).unwrap().id;
    let stopped = store
        .finish_answer(answer, "half", None, StopReason::Cancelled)
        .unwrap();
    assert_eq!(stopped.state, MessageState::Stopped);

    let resumed = store.resume_answer(answer).unwrap();
    assert_eq!(
        (resumed.state, resumed.text.as_str()),
        (MessageState::Streaming, "half")
    );
    store.update_answer(answer, "half and").unwrap();
    let failed = store
        .fail_answer(answer, "half and", "the GPU is gone")
        .unwrap();
    assert_eq!(failed.state, MessageState::Error);
    assert_eq!(failed.error.as_deref(), Some("the GPU is gone"));
    assert_eq!(failed, store.message(answer).unwrap());

    store.resume_answer(answer).unwrap();
    let mut figures = stats();
    figures.tokens_per_sec = f64::INFINITY;
    figures.hit_rate = Some(f64::NAN);
    let done = store
        .finish_answer(answer, "half and half", Some(figures), StopReason::Eos)
        .unwrap();
    assert_eq!(done.error, None);
    let figures = store.message(answer).unwrap().stats.unwrap();
    assert_eq!((figures.tokens_per_sec, figures.hit_rate), (0.0, Some(0.0)));

    let question = store.resume_answer(question.id);
    assert!(matches!(question, Err(StoreError::Invalid { .. })));
    let edited = store.edit_text(answer, "whole").unwrap();
    assert_eq!(edited.text, "whole");
    store.resume_answer(answer).unwrap();
    assert!(matches!(
        store.edit_text(answer, "x"),
        Err(StoreError::Invalid { .. })
    ));
}

#[test]
fn branches_share_their_beginning_and_the_chosen_one_is_remembered() {
    let (folder, store) = scratch();
    let chat = new_chat(&store);
    let (first, first_answer) = exchange(&store, chat, None, "first", "answer 1");
    let second_answer = answer_to(&store, chat, first.id, "answer 2");
    let (follow_up, last) = exchange(&store, chat, Some(second_answer.id), "and?", "so");
    let texts = |chat: ChatId, store: &Store| -> Vec<String> {
        let chat = store.chat(chat).unwrap();
        let branch = chat.active_branch();
        branch.iter().map(|message| message.text.clone()).collect()
    };
    assert_eq!(texts(chat, &store), ["first", "answer 2", "and?", "so"]);
    store.show_branch(chat, first_answer.id).unwrap();
    drop(store);
    let store = Store::open(&folder.path().join("chats.db")).unwrap();
    assert_eq!(texts(chat, &store), ["first", "answer 1"]);
    assert_eq!(store.chat(chat).unwrap().messages.len(), 5);

    let other = new_chat(&store);
    assert!(is_not_found(store.show_branch(other, last.id)));
    assert!(is_not_found(store.add_user(
        other,
        Some(last.id),
        "elsewhere"
    )));
    assert!(is_not_found(store.begin_answer(other, follow_up.id, None)));
    assert_eq!(store.chat(other).unwrap().messages, []);
}

#[test]
fn a_deleted_message_takes_what_follows_and_comes_back_with_it() {
    let (_folder, store) = scratch();
    let chat = new_chat(&store);
    let (first, left) = exchange(&store, chat, None, "first", "left");
    let (_, left_end) = exchange(&store, chat, Some(left.id), "more", "left end");
    let right = answer_to(&store, chat, first.id, "right");
    let (_, right_end) = exchange(&store, chat, Some(right.id), "more", "right end");
    let before = store.chat(chat).unwrap();

    let undo_right = store.delete_message(right.id).unwrap();
    let after = store.chat(chat).unwrap();
    assert_eq!(after.active_leaf, Some(left_end.id), "the branch beside it");
    assert_eq!(after.messages.len(), 4);
    assert!(is_not_found(store.delete_message(right_end.id)));
    assert!(store.search("right", 10).unwrap().is_empty());
    assert_eq!(store.chat_summary(chat).unwrap().message_count, 4);
    assert!(is_not_found(store.add_user(
        chat,
        Some(right_end.id),
        "lost"
    )));

    let undo_first = store.delete_message(first.id).unwrap();
    assert_eq!(store.chat(chat).unwrap().active_leaf, None);
    assert_eq!(store.chat(chat).unwrap().messages, []);

    assert_eq!(store.undo_delete(undo_right).unwrap(), chat);
    let ids: HashSet<_> = store
        .chat(chat)
        .unwrap()
        .messages
        .iter()
        .map(|m| m.id)
        .collect();
    assert!(
        ids.contains(&first.id),
        "it would hang in the air without its parent"
    );
    assert!(!ids.contains(&left.id), "that was not asked for");
    store.undo_delete(undo_first).unwrap();
    store.show_branch(chat, right_end.id).unwrap();
    let restored = store.chat(chat).unwrap();
    assert_eq!(restored.messages, before.messages);
    assert_eq!(store.search("right", 10).unwrap().len(), 2);
    assert!(is_not_found(store.undo_delete(undo_first)));
}

#[test]
fn without_a_branch_beside_it_the_message_before_is_active() {
    let (_folder, store) = scratch();
    let chat = new_chat(&store);
    let (question, answer) = exchange(&store, chat, None, "q", "a");
    let token = store.delete_message(answer.id).unwrap();
    assert_eq!(store.chat(chat).unwrap().active_leaf, Some(question.id));
    store.undo_delete(token).unwrap();
    assert_eq!(store.chat(chat).unwrap().active_leaf, Some(answer.id));
}

#[test]
fn an_answer_deleted_while_it_streams_is_whole_when_it_comes_back() {
    let (_folder, store) = scratch();
    let chat = new_chat(&store);
    let question = store.add_user(chat, None, "q").unwrap();
    let answer = store.begin_answer(chat, question.id, None).unwrap().id;
    let token = store.delete_message(answer).unwrap();
    store.update_answer(answer, "goes").unwrap();
    store
        .finish_answer(answer, "goes on", None, StopReason::Eos)
        .unwrap();
    assert!(store.search("goes", 10).unwrap().is_empty());
    store.undo_delete(token).unwrap();
    assert_eq!(store.message(answer).unwrap().text, "goes on");
    assert_eq!(store.search("goes", 10).unwrap().len(), 1);
}

#[test]
fn the_list_has_pinned_chats_first_then_the_newest() {
    let (_folder, store) = scratch();
    let ids: Vec<ChatId> = ["a", "b", "c", "d"]
        .iter()
        .map(|title| {
            tick();
            titled(&store, title)
        })
        .collect();
    assert_eq!(titles(&store), ["d", "c", "b", "a"]);
    tick();
    store.add_user(ids[1], None, "hello").unwrap();
    store.pin_chat(ids[0], true).unwrap();
    assert_eq!(titles(&store), ["a", "b", "d", "c"]);
    store.rename_chat(ids[2], "  see\n\tdata \0 ").unwrap();
    assert_eq!(titles(&store), ["a", "b", "d", "see data \u{fffd}"]);
    store.delete_chat(ids[3]).unwrap();
    assert_eq!(titles(&store), ["a", "b", "see data \u{fffd}"]);
    assert_eq!(store.restore_chat(ids[3]).unwrap().title, "d");
    assert_eq!(titles(&store), ["a", "b", "d", "see data \u{fffd}"]);
    let unknown: ChatId = "01940000-0000-7000-8000-000000000001".parse().unwrap();
    assert!(is_not_found(store.rename_chat(unknown, "x")));
    assert!(is_not_found(store.pin_chat(unknown, true)));
    assert!(is_not_found(store.delete_chat(unknown)));
    assert!(is_not_found(store.restore_chat(unknown)));
    assert!(is_not_found(store.chat(unknown)));
}

#[test]
fn pages_give_every_chat_once() {
    let (_folder, store) = scratch();
    let ids: Vec<ChatId> = (0..57)
        .map(|n| titled(&store, &format!("chat {n}")))
        .collect();
    for id in ids.iter().step_by(9) {
        store.pin_chat(*id, true).unwrap();
    }
    for query in [None, Some("chat".to_owned())] {
        let mut filter = ChatFilter {
            query,
            limit: 10,
            before: None,
        };
        let mut seen = Vec::new();
        loop {
            let page = store.list_chats(&filter).unwrap();
            assert!(page.chats.len() <= 10);
            seen.extend(page.chats);
            filter.before = page.next;
            if filter.before.is_none() {
                break;
            }
            // Others come and go meanwhile.
            store
                .add_user(new_chat(&store), None, "between pages")
                .unwrap();
        }
        let unique: HashSet<ChatId> = seen.iter().map(|chat| chat.id).collect();
        assert_eq!(unique.len(), seen.len());
        assert_eq!(unique, ids.iter().copied().collect());
        assert!(seen.is_sorted_by_key(|chat| std::cmp::Reverse((
            chat.pinned,
            chat.updated_at,
            chat.id
        ))));
    }
    for bad in [
        "",
        "x",
        "1/2",
        "2/3/4",
        "1/x/01940000-0000-7000-8000-000000000001",
        "//",
    ] {
        let filter = ChatFilter {
            before: Some(bad.to_owned()),
            ..ChatFilter::default()
        };
        let page = store.list_chats(&filter);
        assert!(matches!(page, Err(StoreError::Invalid { .. })), "{bad:?}");
    }
}

#[test]
fn the_list_can_be_narrowed_by_title() {
    let (_folder, store) = scratch();
    for title in ["Über Experten", "Expert caches", "量子力学の本", "Tea"] {
        titled(&store, title);
    }
    let find = |query: &str| {
        let filter = ChatFilter {
            query: Some(query.to_owned()),
            limit: 10,
            before: None,
        };
        let mut titles: Vec<String> = store
            .list_chats(&filter)
            .unwrap()
            .chats
            .into_iter()
            .map(|c| c.title)
            .collect();
        titles.sort();
        titles
    };
    assert_eq!(find("expert"), ["Expert caches", "Über Experten"]);
    assert_eq!(find("uber exp"), ["Über Experten"]);
    assert_eq!(find("力学"), ["量子力学の本"]);
    assert_eq!(find("").len(), 4);
    assert_eq!(find("nothing such"), [""; 0]);
    assert_eq!(find("\"").len(), 4);
}

#[test]
fn purging_deletes_for_good_however_long_a_chat_is() {
    let (_folder, store) = scratch();
    let chat = new_chat(&store);
    let mut parent = None;
    // Deeper than SQLite lets triggers recurse.
    for n in 0..1500 {
        parent = Some(
            store
                .add_user(chat, parent, &format!("message {n}"))
                .unwrap()
                .id,
        );
    }
    let kept = new_chat(&store);
    let (question, answer) = exchange(&store, kept, None, "kept", "dropped");
    store.delete_message(answer.id).unwrap();
    store.delete_chat(chat).unwrap();
    assert_eq!(store.counts().unwrap().deleted_chats, 1);
    let purged = store.purge(Duration::from_secs(3600)).unwrap();
    assert_eq!((purged.chats, purged.messages), (0, 0), "too young");
    let purged = store.purge(Duration::ZERO).unwrap();
    assert_eq!((purged.chats, purged.messages), (1, 1));
    assert!(is_not_found(store.restore_chat(chat)));
    assert_eq!(store.chat(kept).unwrap().messages, [question]);
    let counts = store.counts().unwrap();
    assert_eq!(
        (counts.chats, counts.messages, counts.deleted_chats),
        (1, 1, 0)
    );
    let before = store.size_bytes();
    store.compact().unwrap();
    assert!(store.size_bytes() < before);
    let bytes = std::fs::read(store.path()).unwrap();
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert_eq!(
        (has(b"kept"), has(b"message 7"), has(b"dropped")),
        (true, false, false)
    );
    assert_eq!(store.check().unwrap(), [""; 0]);
    assert_eq!(
        store.search("kept", 10).unwrap().len(),
        2,
        "title and message"
    );
}

#[test]
fn a_copy_of_a_chat_has_the_same_tree_and_a_life_of_its_own() {
    let (_folder, store) = scratch();
    let chat = titled(&store, "Original");
    let (question, answer) = exchange(&store, chat, None, "q", "a");
    answer_to(&store, chat, question.id, "b");
    store.show_branch(chat, answer.id).unwrap();
    store.pin_chat(chat, true).unwrap();
    let copy = store.duplicate_chat(chat).unwrap();
    assert_eq!((copy.title.as_str(), copy.pinned), ("Original (2)", false));
    let copy = store.chat(copy.id).unwrap();
    let original = store.chat(chat).unwrap();
    let texts = |chat: &octet_store::Chat| -> Vec<(Role, String)> {
        chat.messages
            .iter()
            .map(|m| (m.role, m.text.clone()))
            .collect()
    };
    assert_eq!(texts(&copy), texts(&original));
    let branch: Vec<&str> = copy
        .active_branch()
        .iter()
        .map(|m| m.text.as_str())
        .collect();
    assert_eq!(branch, ["q", "a"]);
    store.delete_chat(chat).unwrap();
    store.purge(Duration::ZERO).unwrap();
    assert_eq!(store.chat(copy.id).unwrap(), copy);
}

#[test]
fn only_the_first_message_of_an_untitled_chat_titles_it() {
    let (_folder, store) = scratch();
    let named = titled(&store, "Mine");
    store.add_user(named, None, "Something else").unwrap();
    assert_eq!(store.chat(named).unwrap().title, "Mine");
    let unnamed = new_chat(&store);
    let wordless = store.add_user(unnamed, None, "\n\n").unwrap();
    assert_eq!(store.chat(unnamed).unwrap().title, "");
    store
        .add_user(unnamed, Some(wordless.id), "Second")
        .unwrap();
    assert_eq!(store.chat(unnamed).unwrap().title, "");
}

#[test]
fn any_text_is_kept_but_zero_bytes() {
    let (_folder, store) = scratch();
    let chat = new_chat(&store);
    for text in [
        "",
        "\u{1}\u{7f}",
        "'; DROP TABLE chats; --",
        "\u{202e}abc",
        "🦀\r\n",
        "%_\\",
    ] {
        let message = store.add_user(chat, None, text).unwrap();
        assert_eq!(store.message(message.id).unwrap().text, text);
    }
    let message = store.add_user(chat, None, "a\0b").unwrap();
    assert_eq!(message.text, "a\u{fffd}b");
    let long = "long ".repeat(1 << 20);
    let message = store.add_user(chat, None, &long).unwrap();
    assert_eq!(store.message(message.id).unwrap().text, long);
}

#[test]
fn a_chat_can_have_its_own_system_prompt() {
    let (_folder, store) = scratch();
    let new = NewChat {
        title: None,
        model: Some("mixtral".to_owned()),
        system_prompt: Some("Be brief.".to_owned()),
    };
    let chat = store.create_chat(new).unwrap().id;
    let stored = store.chat(chat).unwrap();
    assert_eq!(stored.model.as_deref(), Some("mixtral"));
    assert_eq!(stored.system_prompt.as_deref(), Some("Be brief."));
    store.set_system_prompt(chat, None).unwrap();
    assert_eq!(store.chat(chat).unwrap().system_prompt, None);
}

#[test]
fn many_threads_may_use_a_store() {
    let (_folder, store) = scratch();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                let chat = titled(store, &format!("thread {thread}"));
                let mut parent = None;
                for n in 0..10 {
                    let (_, answer) = exchange(store, chat, parent, &format!("q{n}"), "word");
                    parent = Some(answer.id);
                    assert!(!store.search("word", 100).unwrap().is_empty());
                }
            });
        }
    });
    assert_eq!(store.counts().unwrap().messages, 80);
    assert_eq!(store.search("word", 100).unwrap().len(), 40);
    assert_eq!(store.check().unwrap(), [""; 0]);
}
