//! Branches: no message may end up on none that can be shown.
#![allow(clippy::unwrap_used)]

mod common;

use octet_store::{ChatId, Format, MessageState, StopReason, Store};

use common::{answer_to, exchange, new_chat, scratch};

fn active(store: &Store, chat: ChatId) -> Vec<String> {
    let chat = store.chat(chat).unwrap();
    let branch = chat.active_branch();
    branch.iter().map(|message| message.text.clone()).collect()
}

// Continued in place, an earlier answer became the active leaf, and all that followed it was on no
// branch that the window could show.
#[test]
fn continuing_an_earlier_answer_leaves_what_follows_it_in_sight() {
    let (folder, store) = scratch();
    let chat = new_chat(&store);
    let question = store.add_user(chat, None, "first").unwrap();
    let begun = store.begin_answer(chat, question.id, Some("m")).unwrap();
    let stopped = store
        .finish_answer(begun.id, "half", None, StopReason::Cancelled)
        .unwrap();
    let (_, last) = exchange(&store, chat, Some(stopped.id), "second", "end");

    let resumed = store.resume_answer(stopped.id).unwrap();
    assert_ne!(resumed.id, stopped.id, "a version of its own");
    assert_eq!(
        (resumed.parent_id, resumed.text.as_str(), resumed.state),
        (Some(question.id), "half", MessageState::Streaming)
    );
    assert_eq!(resumed.model.as_deref(), Some("m"));
    store
        .finish_answer(resumed.id, "half and half", None, StopReason::Eos)
        .unwrap();
    drop(store);
    let store = Store::open(&folder.path().join("chats.db")).unwrap();
    assert_eq!(active(&store, chat), ["first", "half and half"]);
    assert_eq!(store.message(stopped.id).unwrap(), stopped);
    assert_eq!(store.show_branch(chat, stopped.id).unwrap(), last.id);
    assert_eq!(active(&store, chat), ["first", "half", "second", "end"]);

    let again = store.resume_answer(last.id).unwrap();
    assert_eq!(again.id, last.id, "nothing follows it");
}

#[test]
fn an_answer_whose_follow_up_was_deleted_continues_in_place() {
    let (_folder, store) = scratch();
    let chat = new_chat(&store);
    let (_, answer) = exchange(&store, chat, None, "first", "half");
    let (follow_up, _) = exchange(&store, chat, Some(answer.id), "second", "end");
    store.delete_message(follow_up.id).unwrap();
    assert_eq!(store.resume_answer(answer.id).unwrap().id, answer.id);
}

#[test]
fn a_version_is_shown_where_it_was_left() {
    let (folder, store) = scratch();
    let chat = new_chat(&store);
    let (question, left) = exchange(&store, chat, None, "q", "left");
    let (said, old_end) = exchange(&store, chat, Some(left.id), "more", "old end");
    answer_to(&store, chat, said.id, "new end");
    store.show_branch(chat, old_end.id).unwrap();
    let right = answer_to(&store, chat, question.id, "right");

    let shown = store.show_branch(chat, left.id).unwrap();
    assert_eq!(shown, old_end.id, "not the newest leaf");
    assert_eq!(store.show_branch(chat, right.id).unwrap(), right.id);
    drop(store);
    let store = Store::open(&folder.path().join("chats.db")).unwrap();
    assert_eq!(store.show_branch(chat, left.id).unwrap(), old_end.id);
    store.show_branch(chat, right.id).unwrap();
    store.delete_message(right.id).unwrap();
    assert_eq!(
        store.chat(chat).unwrap().active_leaf,
        Some(old_end.id),
        "also where the other version was deleted"
    );
}

#[test]
fn what_follows_the_active_message_of_a_file_is_shown() {
    let id = |n: u8| format!("01940000-0000-7000-8000-0000000000{n:02}");
    let message = |n: u8, parent: &str, text: &str| {
        let role = ["assistant", "user"][usize::from(n % 2)];
        format!(
            r#"{{"id":"{}","parentId":{parent},"role":"{role}","text":"{text}","createdAt":{n},"state":"complete","stats":null,"model":null,"error":null}}"#,
            id(n)
        )
    };
    let quoted = |n: u8| format!("\"{}\"", id(n));
    let messages = [
        message(1, "null", "one"),
        message(2, &quoted(1), "two"),
        message(3, &quoted(2), "three"),
        message(4, &quoted(3), "four"),
    ];
    for leaf in [quoted(1), quoted(2), quoted(4), "null".to_owned()] {
        let (_folder, store) = scratch();
        let file = format!(
            r#"{{"format":"octet-chats","version":1,"exportedAt":0,"chats":[{{"id":"{}","title":"t","model":null,"systemPrompt":null,"pinned":false,"createdAt":1,"updatedAt":1,"activeLeaf":{leaf},"messages":[{}]}}]}}"#,
            id(9),
            messages.join(",")
        );
        store.import_from(Format::Json, file.as_bytes()).unwrap();
        let chat = id(9).parse().unwrap();
        let all = ["one", "two", "three", "four"];
        assert_eq!(active(&store, chat), all, "active leaf {leaf}");
        let mut read = Vec::new();
        store.export_to(None, Format::Markdown, &mut read).unwrap();
        let read = String::from_utf8(read).unwrap();
        assert!(all.iter().all(|text| read.contains(text)), "{read}");
    }
}
