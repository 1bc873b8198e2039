//! Who is told how an answer goes.
//!
//! A page can be loaded again in the middle of an answer, or lose its process. The new one
//! attaches: it is told where the answer stands, then everything that follows, each piece once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use octet_store::Message;
use tokio::sync::watch;

use super::{GenerationEvent, Sink};

/// An answer's events on their way to the page that listens now.
pub(super) struct Feed {
    state: Mutex<State>,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    sink: Option<Sink>,
    /// Both messages, the answer with all text that was sent.
    started: Option<(Option<Message>, Message)>,
    /// The newest of what else there is to know about the answer.
    queued: Option<GenerationEvent>,
    shifted: Option<GenerationEvent>,
    prefill: Option<GenerationEvent>,
    progress: Option<GenerationEvent>,
}

impl Feed {
    pub fn new(sink: Sink) -> Self {
        Self {
            state: Mutex::new(State {
                sink: Some(sink),
                ..State::default()
            }),
            ended: watch::Sender::new(false),
        }
    }

    /// Passes `event` on.
    pub fn send(&self, event: GenerationEvent) {
        let mut state = self.state();
        let is_last = matches!(
            event,
            GenerationEvent::Done { .. }
                | GenerationEvent::TakenBack
                | GenerationEvent::Failed { .. }
        );
        state.note(&event);
        if let Some(sink) = &state.sink {
            sink(event);
        }
        drop(state);
        if is_last {
            self.close();
        }
    }

    /// Tells `sink` where the answer stands, and what follows in place of the one before. Not if
    /// it has ended: then the store has all of it.
    pub fn attach(&self, sink: Sink) {
        // No event passes meanwhile.
        let mut state = self.state();
        if self.has_ended() {
            return;
        }
        state.replay(&sink);
        state.sink = Some(sink);
    }

    /// Whoever listened is gone.
    pub fn detach(&self) {
        self.state().sink = None;
    }

    /// Nothing more comes.
    pub fn close(&self) {
        self.ended.send_replace(true);
    }

    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits for the end.
    pub async fn end(&self) {
        let mut ended = self.ended.subscribe();
        // The sender is here, so that there is no error.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, event: &GenerationEvent) {
        match event {
            GenerationEvent::Started {
                user_message,
                answer,
            } => self.started = Some((user_message.clone(), answer.clone())),
            GenerationEvent::Queued { .. } => self.queued = Some(event.clone()),
            GenerationEvent::ContextShift { .. } => self.shifted = Some(event.clone()),
            GenerationEvent::Prefill { .. } => {
                self.queued = None;
                self.prefill = Some(event.clone());
            }
            GenerationEvent::Text { delta, .. } => {
                if let Some((_, answer)) = &mut self.started {
                    answer.text.push_str(delta);
                }
                self.queued = None;
                let mut progress = event.clone();
                if let GenerationEvent::Text { delta, .. } = &mut progress {
                    delta.clear();
                }
                self.progress = Some(progress);
            }
            GenerationEvent::Done { .. }
            | GenerationEvent::TakenBack
            | GenerationEvent::Failed { .. } => {}
        }
    }

    fn replay(&self, sink: &Sink) {
        if let Some((user_message, answer)) = &self.started {
            sink(GenerationEvent::Started {
                user_message: user_message.clone(),
                answer: answer.clone(),
            });
        }
        let rest = [&self.queued, &self.shifted, &self.prefill, &self.progress];
        for event in rest.into_iter().flatten() {
            sink(event.clone());
        }
    }
}
