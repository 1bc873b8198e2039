//! Work that blocks, away from the async runtime's own threads.

use crate::error::{ApiError, Result};

/// Runs `work` where it may block.
///
/// # Errors
/// What `work` gives, or that it panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            tracing::error!(%error, "a task ended early");
            Err(ApiError::internal("A task of Octet ended early."))
        })
}
