//! Commands and events, collected once for the handler and for the page's types.

use octet_models::ModelsState;
use octet_store::ChatId;
use serde::Serialize;
use specta::Type;
use tauri::Runtime;
use tauri_specta::{Builder, ErrorHandlingMode, Event, collect_commands, collect_events};

use crate::commands::{chats, experts, general, generation, library, models};
use crate::drops::Dropped;
use crate::models::ModelState;

/// The model is in another state, or further along.
#[derive(Clone, Debug, Serialize, Type, Event)]
pub struct ModelStateChanged(pub ModelState);

/// Downloads or the library changed; at most five times a second.
#[derive(Clone, Debug, Serialize, Type, Event)]
pub struct ModelsChanged(pub ModelsState);

/// A chat changed: its title, its place in the list, its messages.
#[derive(Clone, Debug, Serialize, Type, Event)]
#[serde(rename_all = "camelCase")]
pub struct ChatsChanged {
    /// Which; `None` when it may be any.
    pub chat_id: Option<ChatId>,
}

/// Something was dropped on the window.
#[derive(Clone, Debug, Serialize, Type, Event)]
pub struct FilesDropped(pub Vec<Dropped>);

/// The window is about to close: what was typed has to be put down now.
#[derive(Clone, Debug, Serialize, Type, Event)]
pub struct Closing;

/// All of them.
pub fn builder<R: Runtime>() -> Builder<R> {
    Builder::new()
        .error_handling(ErrorHandlingMode::Throw)
        // No type is read otherwise than it is written.
        .disable_serde_phases()
        .commands(collect_commands![
            general::app_info,
            general::hardware,
            general::diagnostics,
            general::open_external,
            general::reveal_logs,
            general::frontend_ready,
            general::ready_to_close,
            general::load_settings,
            general::save_settings,
            general::default_settings,
            models::list_models,
            models::plan_model,
            models::load_model,
            models::cancel_load,
            models::unload_model,
            models::model_state,
            models::pick_folder,
            library::models_state,
            library::list_offers,
            library::look_up_model,
            library::download_model,
            library::pause_download,
            library::resume_download,
            library::cancel_download,
            library::verify_model,
            library::repair_model,
            library::delete_model,
            library::import_model,
            library::move_models,
            library::cancel_task,
            library::reveal_model,
            library::reveal_models,
            library::set_endpoint,
            library::set_token,
            library::check_token,
            chats::list_chats,
            chats::get_chat,
            chats::create_chat,
            chats::rename_chat,
            chats::pin_chat,
            chats::delete_chat,
            chats::show_branch,
            chats::delete_message,
            chats::list_deletions,
            chats::restore,
            chats::delete_for_good,
            chats::empty_trash,
            chats::get_draft,
            chats::set_draft,
            chats::get_edits,
            chats::set_edit,
            chats::search_chats,
            chats::export_chat,
            chats::import_chats,
            chats::import_dropped_chats,
            chats::list_backups,
            chats::restore_backup,
            chats::retry_chats,
            generation::send_message,
            generation::regenerate,
            generation::edit_message,
            generation::continue_answer,
            generation::running_answers,
            generation::attach_answer,
            generation::stop_generation,
            generation::context_usage,
            experts::watch_experts,
            experts::unwatch_experts,
        ])
        .events(collect_events![
            ModelStateChanged,
            ModelsChanged,
            ChatsChanged,
            FilesDropped,
            Closing
        ])
}
