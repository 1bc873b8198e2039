//! What the program knows of the page in its window.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Writing down what was typed takes a few milliseconds; a page that hangs must not keep the
/// window open for long.
const PUT_DOWN_LIMIT: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Default)]
pub struct Page {
    listens: AtomicBool,
    is_closing: AtomicBool,
    is_ready: Notify,
}

impl Page {
    /// It is drawn and hears events.
    pub fn listens(&self) {
        self.listens.store(true, Ordering::Relaxed);
    }

    /// It is being loaded, or its process is gone.
    pub fn is_gone(&self) {
        self.listens.store(false, Ordering::Relaxed);
    }

    /// It has put down what was typed.
    pub fn is_ready_to_close(&self) {
        self.is_ready.notify_one();
    }

    /// Whether closing begins with this call, and not with one before.
    pub fn begins_to_close(&self) -> bool {
        !self.is_closing.swap(true, Ordering::Relaxed)
    }

    /// Has the page put down what was typed: `tell` tells it to. Waits for a moment at most.
    pub async fn put_down(&self, tell: impl FnOnce()) {
        if !self.listens.load(Ordering::Relaxed) {
            return;
        }
        tell();
        let ready = self.is_ready.notified();
        if tokio::time::timeout(PUT_DOWN_LIMIT, ready).await.is_err() {
            tracing::warn!("the page did not say that what was typed is put down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_page_is_waited_for_if_it_is_there() {
        let page = Page::default();
        page.put_down(|| panic!("nobody listens")).await;
        page.listens();
        // Its answer may be there before anybody waits.
        page.put_down(|| page.is_ready_to_close()).await;
        page.is_gone();
        page.put_down(|| panic!("nobody listens any more")).await;
        assert!(page.begins_to_close());
        assert!(!page.begins_to_close());
    }

    #[tokio::test]
    async fn a_page_that_hangs_does_not_keep_the_window_open() {
        let page = Page::default();
        page.listens();
        page.put_down(|| ()).await;
    }
}
