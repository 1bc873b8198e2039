//! A page that comes in the middle of an answer: after it was loaded again, or lost its process.

mod support;

use std::sync::Arc;

use octet_app::generation::{GenerationEvent, QueueReason, Sink};
use octet_store::{ChatId, MessageState};
use support::{Fixture, next, within};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A page as far as it shows one answer: the text it starts with, and every piece that comes.
struct Page {
    events: UnboundedReceiver<GenerationEvent>,
    text: String,
}

impl Page {
    fn of(fixture: &Fixture, chat: ChatId) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, events) = unbounded_channel();
        let sink: Sink = Arc::new(move |event| {
            let _ = sender.send(event);
        });
        let generations = Arc::clone(&fixture.app.generations);
        let attached = tokio::spawn(async move { generations.attach(chat, sink).await });
        let text = String::new();
        (Self { events, text }, attached)
    }

    fn take(&mut self, event: &GenerationEvent) {
        match event {
            GenerationEvent::Started { answer, .. } => self.text.clone_from(&answer.text),
            GenerationEvent::Text { delta, .. } => self.text.push_str(delta),
            _ => {}
        }
    }

    /// Until `wanted` takes an event.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&GenerationEvent) -> Option<T>) -> T {
        loop {
            let event = within(self.events.recv()).await.expect("not the end");
            self.take(&event);
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }
}

fn has_text(event: &GenerationEvent) -> Option<()> {
    matches!(event, GenerationEvent::Text { delta, .. } if !delta.is_empty()).then_some(())
}

fn only_chat(fixture: &Fixture) -> ChatId {
    let running = fixture.app.generations.running();
    assert_eq!(running.len(), 1);
    running[0]
}

// A page that was loaded again did not know of the answer: it stood still, could not be stopped, and
// the model ran on to the end of the context.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_comes_later_gets_all_text_once_and_can_stop_it() {
    let fixture = Fixture::new();
    fixture.greedy(None);
    fixture.load().await;
    let (task, mut first) = fixture.begin(None, "Go on and on");
    for _ in 0..3 {
        next(&mut first, |event| has_text(&event)).await;
    }
    let chat = only_chat(&fixture);
    // Again and again, in the middle of whatever is on its way.
    for _ in 0..5 {
        let (mut page, attached) = Page::of(&fixture, chat);
        let begun = page.until(|event| Some(event.clone())).await;
        let GenerationEvent::Started { user_message, .. } = begun else {
            panic!("begins with the messages: {begun:?}");
        };
        assert_eq!(user_message.expect("it was new").text, "Go on and on");
        page.until(has_text).await;
        page.until(has_text).await;
        fixture.app.generations.detach_all();
        attached.abort();
    }
    let (mut page, attached) = Page::of(&fixture, chat);
    page.until(has_text).await;
    fixture.app.generations.stop(chat);
    let message = page
        .until(|event| match event {
            GenerationEvent::Done { message, .. } => Some(message.clone()),
            _ => None,
        })
        .await;
    assert_eq!(message.state, MessageState::Stopped);
    assert_eq!(page.text, message.text, "no piece twice, none missing");
    within(attached).await.expect("ends with the answer");
    within(task).await.expect("no panic").expect("a chat");
    assert_eq!(fixture.app.generations.running(), []);
    assert_eq!(fixture.chat(chat).messages[1].text, page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_page_is_told() {
    let fixture = Fixture::new();
    fixture.greedy(None);
    fixture.load().await;
    let (_task, mut first) = fixture.begin(None, "Go on");
    next(&mut first, |event| has_text(&event)).await;
    let chat = only_chat(&fixture);
    let (mut page, _attached) = Page::of(&fixture, chat);
    page.until(has_text).await;
    // The sender of the first is gone with its place.
    while within(first.recv()).await.is_some() {}
    fixture.app.generations.stop_all(support::LIMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_waits_is_attached_to_too() {
    let fixture = Fixture::new();
    fixture.greedy(None);
    fixture.load().await;
    let (_task, mut first) = fixture.begin(None, "The first");
    next(&mut first, |event| has_text(&event)).await;
    let ahead = only_chat(&fixture);
    let (_waiting, mut second) = fixture.begin(None, "The second");
    next(&mut second, |event| {
        matches!(event, GenerationEvent::Queued { .. }).then_some(())
    })
    .await;
    let running = fixture.app.generations.running();
    assert_eq!(running.len(), 2);
    let waits = running.into_iter().find(|chat| *chat != ahead);
    let (mut page, attached) = Page::of(&fixture, waits.expect("the second"));
    let queued = page
        .until(|event| match event {
            GenerationEvent::Queued { reason, position } => Some((*reason, *position)),
            _ => None,
        })
        .await;
    assert_eq!(queued, (QueueReason::Busy, 1));
    fixture.app.generations.stop(ahead);
    page.until(has_text).await;
    fixture.app.generations.stop_all(support::LIMIT).await;
    within(attached).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_made_there_is_nothing_to_attach_to() {
    let fixture = Fixture::new();
    fixture.load().await;
    let (chat, _) = fixture.send(None, "Hello").await;
    let (mut page, attached) = Page::of(&fixture, chat);
    within(attached).await.expect("returns at once");
    assert!(within(page.events.recv()).await.is_none(), "no event");
}
