//! Ctrl-C.

use octet_engine::Cancel;

/// Calls `first` on the first Ctrl-C; a second one ends the program.
pub fn on_interrupt(first: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let mut seen = false;
    ctrlc::set_handler(move || {
        if std::mem::replace(&mut seen, true) {
            std::process::exit(130);
        }
        first();
    })?;
    Ok(())
}

/// A place for the generation that Ctrl-C is to end, for programs that make several.
#[derive(Clone, Default)]
pub struct Current(std::sync::Arc<std::sync::Mutex<Option<Cancel>>>);

impl Current {
    pub fn set(&self, cancel: Option<Cancel>) {
        *self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = cancel;
    }

    /// Cancels it; whether there was one.
    pub fn cancel(&self) -> bool {
        let current = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        current.as_ref().inspect(|cancel| cancel.cancel()).is_some()
    }
}
