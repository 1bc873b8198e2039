//! The Experts view.

use tauri::State;
use tauri::ipc::Channel;

use crate::app::App;
use crate::experts::ExpertsFrame;

/// Sends frames from now on.
#[tauri::command]
#[specta::specta]
pub async fn watch_experts(
    app: State<'_, App>,
    channel: Channel<ExpertsFrame>,
) -> crate::error::Result<()> {
    app.experts
        .watch(Box::new(move |frame| channel.send(frame).is_ok()));
    Ok(())
}

/// Ends them.
#[tauri::command]
#[specta::specta]
pub fn unwatch_experts(app: State<'_, App>) {
    app.experts.unwatch();
}
