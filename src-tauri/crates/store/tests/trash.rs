//! What was deleted: seen nowhere but in the trash, and restored from there.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use octet_store::{
    ChatFilter, ChatId, Deletion, DeletionId, Format, KEEP_DELETED, NewChat, Store, StoreError,
    Timestamp,
};

use common::{exchange, scratch};

fn titled(store: &Store, title: &str) -> ChatId {
    let title = Some(title.to_owned());
    let new = NewChat {
        title,
        ..NewChat::default()
    };
    store.create_chat(new).unwrap().id
}

fn trash(store: &Store) -> Vec<Deletion> {
    store.deletions(100).unwrap()
}

fn export(store: &Store) -> String {
    let mut text = Vec::new();
    store.export_to(None, Format::Json, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_deleted_chat_is_in_the_trash_alone_and_comes_back() {
    let (folder, store) = scratch();
    let before = Timestamp::now();
    let chat = titled(&store, "Harbours");
    exchange(&store, chat, None, "Where do ships sleep?", "In harbours.");
    let whole = store.chat(chat).unwrap();
    assert_eq!(trash(&store), []);
    store.delete_chat(chat).unwrap();
    drop(store);

    let store = Store::open(&folder.path().join("chats.db")).unwrap();
    let found = trash(&store);
    let [deletion] = found.as_slice() else {
        panic!("one deletion: {found:?}");
    };
    let id = DeletionId::Chat { id: chat };
    assert_eq!((deletion.id, deletion.message_count), (id, 2));
    assert_eq!(deletion.title, "Harbours");
    assert_eq!(deletion.preview, "Where do ships sleep?");
    assert!(deletion.deleted_at >= before);
    let kept_ms = deletion.expires_at.ms() - deletion.deleted_at.ms();
    assert_eq!(kept_ms as u128, KEEP_DELETED.as_millis());
    assert!(store.search("harbours", 10).unwrap().is_empty());
    assert!(!export(&store).contains("arbours"));
    let listed = ChatFilter {
        limit: 10,
        ..ChatFilter::default()
    };
    assert_eq!(store.list_chats(&listed).unwrap().chats, []);

    assert_eq!(store.restore(id).unwrap(), chat);
    assert_eq!(trash(&store), []);
    assert_eq!(store.chat(chat).unwrap(), whole);
    assert_eq!(store.search("harbours", 10).unwrap().len(), 2);
    assert!(export(&store).contains("arbours"));
}

#[test]
fn deleted_messages_are_in_the_trash_unless_their_chat_is() {
    let (_folder, store) = scratch();
    let chat = titled(&store, "Clocks");
    let (first, answer) = exchange(&store, chat, None, "What time is it?", "Noon.");
    let (later, _) = exchange(&store, chat, Some(answer.id), "And now?", "Later.");
    let whole = store.chat(chat).unwrap();
    store.delete_message(later.id).unwrap();
    let found = trash(&store);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].title.as_str(), found[0].preview.as_str()),
        ("Clocks", "And now?")
    );
    assert_eq!(found[0].message_count, 2);

    store.delete_chat(chat).unwrap();
    assert_eq!(trash(&store).len(), 1, "what belongs to the chat");
    store.restore_chat(chat).unwrap();
    assert_eq!(store.restore(found[0].id).unwrap(), chat);
    assert_eq!(store.chat(chat).unwrap(), whole);
    assert_eq!(trash(&store), []);

    // What hangs below goes with it.
    store.delete_message(later.id).unwrap();
    let inner = trash(&store)[0].id;
    store.delete_message(first.id).unwrap();
    let outer = trash(&store).into_iter().find(|one| one.id != inner);
    store.delete_for_good(outer.unwrap().id).unwrap();
    assert_eq!(trash(&store), []);
    assert!(matches!(
        store.restore(inner),
        Err(StoreError::NotFound { .. })
    ));
    assert_eq!(store.chat(chat).unwrap().messages, []);
    assert_eq!(store.check().unwrap(), [""; 0]);
}

#[test]
fn deleting_for_good_takes_one_and_only_from_the_trash() {
    let (_folder, store) = scratch();
    let (kept, gone, other) = (
        titled(&store, "kept"),
        titled(&store, "gone"),
        titled(&store, "other"),
    );
    store.delete_chat(gone).unwrap();
    store.delete_chat(other).unwrap();
    let alive = store.delete_for_good(DeletionId::Chat { id: kept });
    assert!(matches!(alive, Err(StoreError::NotFound { .. })));
    store
        .delete_for_good(DeletionId::Chat { id: gone })
        .unwrap();
    let titles: Vec<String> = trash(&store).into_iter().map(|one| one.title).collect();
    assert_eq!(titles, ["other"]);
    let restored = store.restore(DeletionId::Chat { id: gone });
    assert!(matches!(restored, Err(StoreError::NotFound { .. })));

    store.empty_trash().unwrap();
    assert_eq!(trash(&store), []);
    assert_eq!(store.chat(kept).unwrap().title, "kept");
}

#[test]
fn the_newest_deletion_comes_first_and_the_oldest_expire() {
    let (folder, store) = scratch();
    let chats: Vec<ChatId> = (0..5)
        .map(|n| titled(&store, &format!("chat {n}")))
        .collect();
    let aged = rusqlite::Connection::open(store.path()).unwrap();
    for (n, chat) in chats.iter().enumerate() {
        store.delete_chat(*chat).unwrap();
        let days = [1, 31, 3, 29, 2][n];
        let age_ms = i64::try_from(Duration::from_secs(days * 86_400).as_millis()).unwrap();
        let id: uuid::Uuid = chat.to_string().parse().unwrap();
        aged.execute(
            "UPDATE chats SET deleted_at = deleted_at - ?2 WHERE id = ?1",
            (id.as_bytes().as_slice(), age_ms),
        )
        .unwrap();
    }
    let titles = |store: &Store, limit| -> Vec<String> {
        let found = store.deletions(limit).unwrap();
        found.into_iter().map(|one| one.title).collect()
    };
    assert_eq!(
        titles(&store, 100),
        ["chat 0", "chat 4", "chat 2", "chat 3"]
    );
    assert_eq!(titles(&store, 2), ["chat 0", "chat 4"]);
    drop((store, aged));
    let store = Store::open(&folder.path().join("chats.db")).unwrap();
    assert_eq!(
        titles(&store, 100),
        ["chat 0", "chat 4", "chat 2", "chat 3"]
    );
}
