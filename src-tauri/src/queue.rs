//! One generation at a time, in the order they were asked for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The queue.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    /// Counts changes of the order.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    tickets: VecDeque<u64>,
}

/// A place in the queue, given back on drop.
pub struct Ticket {
    queue: Queue,
    number: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self(Arc::new(Shared {
            waiting: Mutex::default(),
            changed: watch::Sender::new(0),
        }))
    }
}

impl Queue {
    /// Takes the last place.
    pub fn enter(&self) -> Ticket {
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.tickets.push_back(number);
        Ticket {
            queue: self.clone(),
            number,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// How many are ahead.
    pub fn position(&self) -> usize {
        let waiting = self.queue.waiting();
        let place = waiting.tickets.iter().position(|t| *t == self.number);
        place.unwrap_or_default()
    }

    /// Waits for its turn, telling `queued` how many are ahead whenever that changes.
    pub async fn turn(&self, mut queued: impl FnMut(usize)) {
        let mut changes = self.queue.0.changed.subscribe();
        let mut told = 0;
        loop {
            changes.mark_unchanged();
            let ahead = self.position();
            if ahead == 0 {
                return;
            }
            if ahead != told {
                told = ahead;
                queued(ahead);
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let number = self.number;
        self.queue.waiting().tickets.retain(|t| *t != number);
        self.queue.0.changed.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_come_in_order_and_a_leaver_makes_room() {
        let queue = Queue::default();
        let (first, second, third) = (queue.enter(), queue.enter(), queue.enter());
        first.turn(|_| panic!("nobody is ahead")).await;
        drop(second);
        let waiting = tokio::spawn(async move {
            let mut positions = Vec::new();
            third.turn(|ahead| positions.push(ahead)).await;
            positions
        });
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(waiting.await.unwrap(), [1]);
    }
}
