//! Reading experts into RAM before anyone asks for them, while a first prompt is typed.
//!
//! Without it a program that opens a model and does not wait for [`Experts::fill`] reads each
//! expert when the first token needs it, one after the other, and the drive rests in between. Here
//! readers go through the files in order, and give way to a token that is being decoded: what it
//! needs is known, what it will need is not. A prompt of many tokens needs everything anyway.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Experts;
use crate::checkpoint::ExpertId;

/// Reads under way at a time. Drives gave 0.8 to 1.4 GB/s to two, no more to four.
const READERS: usize = 2;
/// How long the readers rest after an expert was asked for by a single token.
const GIVE_WAY: Duration = Duration::from_millis(50);

impl Experts {
    /// Starts reading experts into what RAM has room for, and returns at once. Nothing is evicted
    /// for it. Ends by itself, at the latest when the experts are dropped.
    pub fn read_ahead(self: &Arc<Self>) {
        let order: Arc<[ExpertId]> = self.order_of_reading().into();
        let next = Arc::new(AtomicUsize::new(0));
        for _ in 0..READERS {
            let (experts, order) = (Arc::downgrade(self), Arc::clone(&order));
            let next = Arc::clone(&next);
            std::thread::spawn(move || {
                read(&experts, || {
                    order.get(next.fetch_add(1, Ordering::Relaxed)).copied()
                });
            });
        }
    }
}

fn read(experts: &Weak<Experts>, mut next: impl FnMut() -> Option<ExpertId>) {
    while let Some(id) = next() {
        let mut progress = 0;
        loop {
            // Held for a piece at a time, so that a model can be unloaded meanwhile.
            let Some(experts) = experts.upgrade() else {
                return;
            };
            let rest = experts
                .idle_time()
                .map_or(Duration::ZERO, |idle| GIVE_WAY.saturating_sub(idle));
            if !rest.is_zero() {
                drop(experts);
                std::thread::sleep(rest);
                continue;
            }
            match experts.ram().read_piece(id, progress) {
                Some(more) => progress = more,
                None => break,
            }
        }
    }
}
