//! Chats: the list, one of them, its messages, files.

use std::path::PathBuf;

use octet_store::{
    Backup, Chat, ChatFilter, ChatId, ChatPage, ChatSummary, Deletion, DeletionId, Edit, Format,
    ImportResult, MessageId, NewChat, SearchHit, UndoToken,
};
use tauri::State;

use crate::app::{App, Notice};
use crate::desktop::{Desktop, FileKind};
use crate::drops::DroppedFiles;
use crate::error::Result;

/// Chats, page by page.
#[tauri::command]
#[specta::specta]
pub async fn list_chats(
    app: State<'_, App>,
    before: Option<String>,
    limit: u32,
) -> Result<ChatPage> {
    let filter = ChatFilter {
        query: None,
        limit,
        before,
    };
    app.with_store(move |store| store.list_chats(&filter)).await
}

/// A whole chat.
#[tauri::command]
#[specta::specta]
pub async fn get_chat(app: State<'_, App>, id: ChatId) -> Result<Chat> {
    app.with_store(move |store| store.chat(id)).await
}

/// An empty chat.
#[tauri::command]
#[specta::specta]
pub async fn create_chat(app: State<'_, App>) -> Result<ChatSummary> {
    let chat = app
        .with_store(|store| store.create_chat(NewChat::default()))
        .await?;
    app.chats_changed(Some(chat.id));
    Ok(chat)
}

/// Gives a chat another title.
#[tauri::command]
#[specta::specta]
pub async fn rename_chat(app: State<'_, App>, id: ChatId, title: String) -> Result<()> {
    app.change_chat(id, move |store| store.rename_chat(id, &title))
        .await
}

/// Keeps a chat on top, or no longer.
#[tauri::command]
#[specta::specta]
pub async fn pin_chat(app: State<'_, App>, id: ChatId, pinned: bool) -> Result<()> {
    app.change_chat(id, move |store| store.pin_chat(id, pinned))
        .await
}

/// Deletes a chat; it can be had back for a while.
#[tauri::command]
#[specta::specta]
pub async fn delete_chat(app: State<'_, App>, id: ChatId) -> Result<()> {
    app.generations.end(id);
    app.change_chat(id, move |store| store.delete_chat(id))
        .await
}

/// Shows the branch that a message is on, where it was left; the message that it ends with.
#[tauri::command]
#[specta::specta]
pub async fn show_branch(
    app: State<'_, App>,
    chat_id: ChatId,
    message_id: MessageId,
) -> Result<MessageId> {
    app.with_store(move |store| store.show_branch(chat_id, message_id))
        .await
}

/// Deletes a message and what follows it; gives what undoes that.
#[tauri::command]
#[specta::specta]
pub async fn delete_message(app: State<'_, App>, message_id: MessageId) -> Result<UndoToken> {
    let chat = app
        .with_store(move |store| store.chat_of(message_id))
        .await?;
    app.change_chat(chat, move |store| store.delete_message(message_id))
        .await
}

/// What was deleted and can still be restored, the newest first.
#[tauri::command]
#[specta::specta]
pub async fn list_deletions(app: State<'_, App>, limit: u32) -> Result<Vec<Deletion>> {
    app.with_store(move |store| store.deletions(limit)).await
}

/// Takes a deletion back; the chat that it is about.
#[tauri::command]
#[specta::specta]
pub async fn restore(app: State<'_, App>, deletion: DeletionId) -> Result<ChatId> {
    let chat = app.with_store(move |store| store.restore(deletion)).await?;
    app.chats_changed(Some(chat));
    Ok(chat)
}

/// Deletes for good what was deleted.
#[tauri::command]
#[specta::specta]
pub async fn delete_for_good(app: State<'_, App>, deletion: DeletionId) -> Result<()> {
    app.with_store(move |store| store.delete_for_good(deletion))
        .await
}

/// Deletes for good all that was deleted.
#[tauri::command]
#[specta::specta]
pub async fn empty_trash(app: State<'_, App>) -> Result<()> {
    app.with_store(octet_store::Store::empty_trash).await
}

/// What was being written in a chat, or in the new one.
#[tauri::command]
#[specta::specta]
pub async fn get_draft(app: State<'_, App>, chat_id: Option<ChatId>) -> Result<String> {
    app.with_store(move |store| store.draft(chat_id)).await
}

/// Keeps what is being written.
#[tauri::command]
#[specta::specta]
pub async fn set_draft(app: State<'_, App>, chat_id: Option<ChatId>, text: String) -> Result<()> {
    app.with_store(move |store| store.set_draft(chat_id, &text))
        .await
}

/// The edits in progress in a chat.
#[tauri::command]
#[specta::specta]
pub async fn get_edits(app: State<'_, App>, chat_id: ChatId) -> Result<Vec<Edit>> {
    app.with_store(move |store| store.edits(chat_id)).await
}

/// Keeps what a message may become; none: it is not edited any more.
#[tauri::command]
#[specta::specta]
pub async fn set_edit(
    app: State<'_, App>,
    message_id: MessageId,
    text: Option<String>,
) -> Result<()> {
    app.with_store(move |store| store.set_edit(message_id, text.as_deref()))
        .await
}

/// Searches titles and messages.
#[tauri::command]
#[specta::specta]
pub async fn search_chats(
    app: State<'_, App>,
    query: String,
    limit: u32,
) -> Result<Vec<SearchHit>> {
    app.with_store(move |store| store.search(&query, limit))
        .await
}

/// Writes a chat, or all of them, where the person says; gives the path, or none.
#[tauri::command]
#[specta::specta]
pub async fn export_chat(
    app: State<'_, App>,
    desktop: State<'_, Box<dyn Desktop>>,
    chat_id: Option<ChatId>,
    format: Format,
) -> Result<Option<String>> {
    let title = match chat_id {
        Some(id) => {
            app.with_store(move |store| store.chat_summary(id))
                .await?
                .title
        }
        None => "Octet chats".to_owned(),
    };
    let name = format!("{}.{}", file_name(&title), format.extension());
    let Some(path) = desktop.pick_save_file(&name, kind(format)).await else {
        return Ok(None);
    };
    let shown = path.display().to_string();
    app.with_store(move |store| store.export(chat_id, format, &path))
        .await?;
    Ok(Some(shown))
}

/// Reads chats from a file that the person chooses; how many, or none.
#[tauri::command]
#[specta::specta]
pub async fn import_chats(
    app: State<'_, App>,
    desktop: State<'_, Box<dyn Desktop>>,
) -> Result<Option<ImportResult>> {
    let Some(path) = desktop.pick_open_file(EXPORTS).await else {
        return Ok(None);
    };
    let imported = app.with_store(move |store| store.import(&path)).await?;
    app.chats_changed(None);
    Ok(Some(imported))
}

/// Reads chats from a file that was dropped on the window.
#[tauri::command]
#[specta::specta]
pub async fn import_dropped_chats(
    app: State<'_, App>,
    dropped: State<'_, DroppedFiles>,
    path: String,
) -> Result<ImportResult> {
    let path = dropped.require(path)?;
    let imported = app.with_store(move |store| store.import(&path)).await?;
    app.chats_changed(None);
    Ok(imported)
}

/// What can be imported.
const EXPORTS: FileKind = FileKind {
    name: "Octet chats",
    extensions: &["json", "md"],
};

fn kind(format: Format) -> FileKind {
    match format {
        Format::Json => FileKind {
            name: "JSON",
            extensions: &["json"],
        },
        Format::Markdown => FileKind {
            name: "Markdown",
            extensions: &["md"],
        },
    }
}

/// A title as a file name that every system takes.
fn file_name(title: &str) -> String {
    let allowed = |c: char| {
        if c.is_alphanumeric() || matches!(c, '-' | '_' | ' ') {
            c
        } else {
            ' '
        }
    };
    let name: String = title.chars().map(allowed).take(60).collect();
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() {
        "Chat".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_become_file_names() {
        assert_eq!(file_name("Why: is/it \"so\"?"), "Why is it so");
        assert_eq!(file_name("../../etc"), "etc");
        assert_eq!(file_name("Über 10 %"), "Über 10");
        assert_eq!(file_name("..."), "Chat");
    }
}

/// The backups of all chats, the newest first.
#[tauri::command]
#[specta::specta]
pub async fn list_backups(app: State<'_, App>) -> Result<Vec<Backup>> {
    app.backups().await
}

/// Has a backup take the place of all chats; where these are kept.
#[tauri::command]
#[specta::specta]
pub async fn restore_backup(app: State<'_, App>, path: PathBuf) -> Result<PathBuf> {
    app.restore_backup(path).await
}

/// Opens the chats where that failed before; what there is to know about it.
#[tauri::command]
#[specta::specta]
pub async fn retry_chats(app: State<'_, App>) -> Result<Vec<Notice>> {
    app.retry_chats().await
}
