//! Asking for answers. Each of these returns when the answer has ended; the channel tells how it
//! goes.

use std::sync::Arc;

use octet_store::{ChatId, MessageId};
use tauri::State;
use tauri::ipc::Channel;

use crate::app::App;
use crate::error::Result;
use crate::generation::{Ask, ContextUsage, GenerationEvent, Sink};
use crate::task::blocking;

fn sink(channel: Channel<GenerationEvent>) -> Sink {
    Arc::new(move |event| {
        // A page that was reloaded no longer listens; the answer is stored all the same.
        let _ = channel.send(event);
    })
}

/// Sends a message, in a new chat if there is none; gives the chat.
#[tauri::command]
#[specta::specta]
pub async fn send_message(
    app: State<'_, App>,
    chat_id: Option<ChatId>,
    parent_id: Option<MessageId>,
    text: String,
    channel: Channel<GenerationEvent>,
) -> Result<ChatId> {
    let ask = Ask::Send {
        parent: parent_id,
        text,
    };
    app.generations.run(chat_id, ask, sink(channel)).await
}

/// Asks for another answer: `message_id` is the one there is, or what it is to answer.
#[tauri::command]
#[specta::specta]
pub async fn regenerate(
    app: State<'_, App>,
    chat_id: ChatId,
    message_id: MessageId,
    channel: Channel<GenerationEvent>,
) -> Result<()> {
    let ask = Ask::Regenerate {
        message: message_id,
    };
    app.generations
        .run(Some(chat_id), ask, sink(channel))
        .await?;
    Ok(())
}

/// Says a message otherwise, on a branch of its own.
#[tauri::command]
#[specta::specta]
pub async fn edit_message(
    app: State<'_, App>,
    chat_id: ChatId,
    message_id: MessageId,
    text: String,
    channel: Channel<GenerationEvent>,
) -> Result<()> {
    let ask = Ask::Edit {
        message: message_id,
        text,
    };
    app.generations
        .run(Some(chat_id), ask, sink(channel))
        .await?;
    Ok(())
}

/// Goes on with an answer.
#[tauri::command]
#[specta::specta]
pub async fn continue_answer(
    app: State<'_, App>,
    chat_id: ChatId,
    answer_id: MessageId,
    channel: Channel<GenerationEvent>,
) -> Result<()> {
    let ask = Ask::Continue { answer: answer_id };
    app.generations
        .run(Some(chat_id), ask, sink(channel))
        .await?;
    Ok(())
}

/// The chats that are being answered or wait for it.
#[tauri::command]
#[specta::specta]
pub fn running_answers(app: State<'_, App>) -> Vec<ChatId> {
    app.generations.running()
}

/// Goes on telling of the answer of a chat, after the page was loaded again: first where it stands.
#[tauri::command]
#[specta::specta]
pub async fn attach_answer(
    app: State<'_, App>,
    chat_id: ChatId,
    channel: Channel<GenerationEvent>,
) -> Result<()> {
    app.generations.attach(chat_id, sink(channel)).await;
    Ok(())
}

/// Stops the answer of a chat.
#[tauri::command]
#[specta::specta]
pub fn stop_generation(app: State<'_, App>, chat_id: ChatId) {
    app.generations.stop(chat_id);
}

/// How much of the context a chat takes.
#[tauri::command]
#[specta::specta]
pub async fn context_usage(app: State<'_, App>, chat_id: ChatId) -> Result<Option<ContextUsage>> {
    let generations = Arc::clone(&app.generations);
    blocking(move || generations.context_usage(chat_id)).await
}
