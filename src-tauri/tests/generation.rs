//! From a message to a stored answer, on a tiny model.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use octet_app::error::{ApiError, AppProblem};
use octet_app::generation::{Ask, GenerationEvent, QueueReason};
use octet_app::model_list::DEMO;
use octet_app::models::ModelState;
use octet_engine::EngineProblem;
use octet_store::{MessageState, Role, StatsScope, StopReason, StoreProblem};
use support::{Fixture, done, next, streamed, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_becomes_a_stored_answer() {
    let mut fixture = Fixture::new();
    assert!(matches!(fixture.load().await, ModelState::Ready { .. }));
    let (chat, events) = fixture.send(None, "Hello there, model").await;

    let Some(GenerationEvent::Started {
        user_message: Some(said),
        answer,
    }) = events.first()
    else {
        panic!("begins with what was stored: {:?}", events.first());
    };
    assert_eq!(
        (said.text.as_str(), said.role),
        ("Hello there, model", Role::User)
    );
    assert_eq!(
        (answer.parent_id, answer.state),
        (Some(said.id), MessageState::Streaming)
    );
    let answer = done(&events);
    assert_eq!(answer.text, streamed(&events));
    assert!(!answer.text.is_empty());
    let stats = answer.stats.as_ref().expect("figures");
    assert_eq!(
        (stats.new_tokens, stats.stop_reason),
        (24, StopReason::Length)
    );
    assert!(stats.tokens_per_sec > 0.0 && stats.hit_rate.is_some());
    let Some(GenerationEvent::Done {
        context_used,
        context_length,
        ..
    }) = events.last()
    else {
        panic!("done");
    };
    assert_eq!(*context_used, stats.prompt_tokens as usize + 24);
    assert!(context_length > context_used);

    let stored = fixture.chat(chat);
    assert_eq!(stored.title, "Hello there, model");
    assert_eq!(stored.active_leaf, Some(answer.id));
    assert_eq!(stored.messages.last(), Some(answer));
    let usage = fixture
        .app
        .generations
        .context_usage(chat)
        .expect("a chat")
        .expect("a model");
    assert!(usage.used > 24 && usage.length == *context_length);
    assert_eq!(fixture.changes.recv().await, Some(Some(chat)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_turn_reads_only_what_is_new_and_sees_the_system_prompt() {
    let fixture = Fixture::new();
    fixture
        .app
        .settings
        .change(|settings| settings.sampling.system_prompt = "Be brief.".into())
        .expect("written");
    fixture.load().await;
    let (chat, events) = fixture.send(None, "One").await;
    let first = done(&events).stats.clone().expect("figures");
    let (_, events) = fixture.send(Some(chat), "Two").await;
    let second = done(&events).stats.clone().expect("figures");
    // Noise that is no UTF-8 is read as other tokens than it was written with.
    assert!(
        second.reused_tokens >= first.prompt_tokens,
        "{first:?} {second:?}"
    );
    // BOS, "[INST]" and its spaces, the system text, the message: a token a byte.
    assert!(first.prompt_tokens as usize > "Be brief.\n\nOne".len());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_keeps_what_was_said() {
    let fixture = Fixture::new();
    fixture.greedy(None);
    fixture.load().await;
    let (task, mut events) = fixture.begin(None, "Tell me a long story");
    let mut said = String::new();
    let mut frames = 0;
    next(&mut events, |event| {
        if let GenerationEvent::Text {
            delta,
            last_experts,
            ..
        } = event
        {
            said += &delta;
            frames += 1;
            // The first token is the prompt's: none was decoded before it.
            assert!(last_experts.len() == 2 || (frames == 1 && last_experts.is_empty()));
        }
        (frames >= 3).then_some(())
    })
    .await;
    assert!(fixture.app.generations.is_busy());
    let chats = fixture.app.store().expect("a store");
    let page = chats
        .list_chats(&octet_store::ChatFilter {
            limit: 10,
            ..Default::default()
        })
        .expect("chats");
    fixture.app.generations.stop(page.chats[0].id);
    let message = next(&mut events, |event| match event {
        GenerationEvent::Text { delta, .. } => {
            said += &delta;
            None
        }
        GenerationEvent::Done { message, .. } => Some(message),
        _ => None,
    })
    .await;
    assert_eq!(message.state, MessageState::Stopped);
    assert_eq!(message.text, said);
    let chat = within(task).await.expect("no panic").expect("a chat");
    assert_eq!(fixture.chat(chat).messages[1], message);
    assert!(!fixture.app.generations.is_busy());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_on_disk_while_it_grows() {
    let fixture = Fixture::new();
    fixture.greedy(None);
    fixture.load().await;
    let (_task, mut events) = fixture.begin(None, "Go on and on");
    let id = next(&mut events, |event| match event {
        GenerationEvent::Started { answer, .. } => Some(answer.id),
        _ => None,
    })
    .await;
    let store = fixture.app.store().expect("a store");
    within(async {
        loop {
            let message = store.message(id).expect("a message");
            if !message.text.is_empty() {
                assert_eq!(message.state, MessageState::Streaming);
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    fixture.app.generations.stop_all(support::LIMIT).await;
    assert_eq!(
        store.message(id).expect("a message").state,
        MessageState::Stopped
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_whose_answer_was_deleted_is_answered_again() {
    let fixture = Fixture::new();
    fixture.load().await;
    let (chat, events) = fixture.send(None, "Question").await;
    let first = done(&events).clone();
    let question = first.parent_id.expect("a question");
    let store = fixture.app.store().expect("open");
    store.delete_message(first.id).expect("it is there");
    let again = Ask::Regenerate { message: question };
    let (_, events) = fixture.ask(Some(chat), again).await.expect("accepted");
    let second = done(&events);
    assert_eq!(second.parent_id, Some(question));
    assert_eq!(second.text, first.text, "greedy twice");
    assert_eq!(fixture.chat(chat).messages.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn regenerating_and_editing_make_branches() {
    let fixture = Fixture::new();
    fixture.load().await;
    let (chat, events) = fixture.send(None, "Question").await;
    let first = done(&events).clone();
    let again = Ask::Regenerate { message: first.id };
    let (_, events) = fixture.ask(Some(chat), again).await.expect("accepted");
    assert!(matches!(
        events[0],
        GenerationEvent::Started {
            user_message: None,
            ..
        }
    ));
    let second = done(&events).clone();
    assert_eq!(second.parent_id, first.parent_id);
    assert_eq!(second.text, first.text, "greedy twice");

    let edit = Ask::Edit {
        message: first.parent_id.expect("a question"),
        text: "Another question".into(),
    };
    let (_, events) = fixture.ask(Some(chat), edit).await.expect("accepted");
    let third = done(&events);
    let stored = fixture.chat(chat);
    assert_eq!(stored.messages.len(), 5);
    assert_eq!(stored.active_leaf, Some(third.id));
    let branch: Vec<&str> = stored
        .active_branch()
        .iter()
        .map(|m| m.text.as_str())
        .collect();
    assert_eq!(branch, ["Another question", third.text.as_str()]);

    let wrong = Ask::Edit {
        message: third.id,
        text: "x".into(),
    };
    let error = fixture
        .ask(Some(chat), wrong)
        .await
        .expect_err("an answer is not edited");
    assert_eq!(error, AppProblem::WrongMessage.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn continuing_goes_on_in_the_same_message_as_if_it_had_not_stopped() {
    let fixture = Fixture::new();
    fixture.greedy(Some(40));
    fixture.load().await;
    let (_, events) = fixture.send(None, "Count").await;
    let whole = done(&events).text.clone();

    fixture.greedy(Some(20));
    let (chat, events) = fixture.send(None, "Count").await;
    let half = done(&events).clone();
    assert!(whole.starts_with(&half.text));
    let (_, events) = fixture
        .ask(Some(chat), Ask::Continue { answer: half.id })
        .await
        .expect("accepted");
    let Some(GenerationEvent::Started {
        user_message: None,
        answer,
    }) = events.first()
    else {
        panic!("the same answer goes on");
    };
    assert_eq!((answer.id, &answer.text), (half.id, &half.text));
    let longer = done(&events);
    assert_eq!(longer.id, half.id);
    assert_eq!(longer.text, format!("{}{}", half.text, streamed(&events)));
    assert!(longer.text.len() > half.text.len());
    assert_eq!(fixture.chat(chat).messages.len(), 2);
    let reused = events.iter().find_map(|event| match event {
        GenerationEvent::Prefill { reused, .. } => Some(*reused),
        _ => None,
    });
    assert!(
        reused.is_none_or(|reused| reused > 0),
        "the beginning is still cached"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continued_answer_has_figures_of_all_of_it() {
    let fixture = Fixture::new();
    fixture.greedy(Some(20));
    fixture.load().await;
    let (chat, events) = fixture.send(None, "Count").await;
    let half = done(&events).clone();
    let first = half.stats.clone().expect("figures");
    assert_eq!((first.new_tokens, first.scope), (20, StatsScope::Whole));
    let on = Ask::Continue { answer: half.id };
    let (_, events) = fixture.ask(Some(chat), on.clone()).await.expect("accepted");
    let whole = done(&events).stats.clone().expect("figures");
    assert_eq!((whole.new_tokens, whole.scope), (40, StatsScope::Continued));
    assert_eq!(
        (whole.prompt_tokens, whole.time_to_first_token_ms),
        (first.prompt_tokens, first.time_to_first_token_ms),
        "what was before the answer, not before its second half"
    );

    // An answer that broke off has no figures to go on from.
    let store = fixture.app.store().expect("open");
    store.resume_answer(half.id).expect("it is there");
    store
        .fail_answer(half.id, "half", "broken")
        .expect("it streams");
    let (_, events) = fixture.ask(Some(chat), on).await.expect("accepted");
    let part = done(&events).stats.clone().expect("figures");
    assert_eq!((part.new_tokens, part.scope), (20, StatsScope::LastPart));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_stopped_while_it_waits_is_taken_back() {
    let fixture = Fixture::new();
    fixture.greedy(Some(8));
    fixture.load().await;
    let (chat, events) = fixture.send(None, "Question").await;
    let answer = done(&events).clone();
    let before = fixture.chat(chat);

    // Another chat is answered, and everything in this one waits.
    fixture.greedy(None);
    let door = Arc::new(Door::default());
    let (busy, mut busy_events) = fixture.begin_at(None, "Long", {
        let door = Arc::clone(&door);
        move |event| {
            if matches!(event, GenerationEvent::Text { .. }) {
                door.pass();
            }
        }
    });
    let other = next(&mut busy_events, |event| match event {
        GenerationEvent::Started { answer, .. } => Some(answer.id),
        _ => None,
    })
    .await;
    next(&mut busy_events, |event| {
        matches!(event, GenerationEvent::Text { .. }).then_some(())
    })
    .await;

    let asks = [
        Ask::Send {
            parent: Some(answer.id),
            text: "Waits".into(),
        },
        Ask::Edit {
            message: answer.parent_id.expect("a question"),
            text: "Waits".into(),
        },
        Ask::Regenerate { message: answer.id },
        Ask::Continue { answer: answer.id },
    ];
    for ask in asks {
        let generations = Arc::clone(&fixture.app.generations);
        let (sink, events) = support::recorder();
        let stopping = Arc::clone(&generations);
        let sink: octet_app::generation::Sink = Arc::new(move |event| {
            if matches!(event, GenerationEvent::Queued { .. }) {
                stopping.stop(chat);
            }
            sink(event);
        });
        within(generations.run(Some(chat), ask.clone(), sink))
            .await
            .expect("accepted");
        let last = events.lock().expect("no panic").last().cloned();
        assert_eq!(last, Some(GenerationEvent::TakenBack), "{ask:?}");
        let after = fixture.chat(chat);
        assert_eq!(after.messages, before.messages, "{ask:?}");
        assert_eq!(after.active_leaf, before.active_leaf, "{ask:?}");
    }

    // Closing the window and deleting the chat stop it too, and must not lose what was asked.
    let generations = Arc::clone(&fixture.app.generations);
    let ending = Arc::clone(&generations);
    let sink: octet_app::generation::Sink = Arc::new(move |event| {
        if matches!(event, GenerationEvent::Queued { .. }) {
            ending.end(chat);
        }
    });
    let ask = Ask::Send {
        parent: Some(answer.id),
        text: "Stays".into(),
    };
    within(generations.run(Some(chat), ask, sink))
        .await
        .expect("accepted");
    let texts = |chat| -> Vec<String> {
        let messages = fixture.chat(chat).messages;
        messages.into_iter().map(|message| message.text).collect()
    };
    assert_eq!(texts(chat)[2], "Stays");

    let store = fixture.app.store().expect("a store");
    let other = store.chat_of(other).expect("its chat");
    fixture.app.generations.stop(other);
    door.open();
    within(busy).await.expect("no panic").expect("a chat");
    assert_eq!(texts(other)[0], "Long", "what has begun is not taken back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_answer_at_a_time_and_the_next_one_is_told_that_it_waits() {
    let fixture = Fixture::new();
    fixture.greedy(None);
    fixture.load().await;
    // The first answer stops at its first text, until the door is open.
    let door = Arc::new(Door::default());
    let (first, mut first_events) = fixture.begin_at(None, "First", {
        let door = Arc::clone(&door);
        move |event| {
            if matches!(event, GenerationEvent::Text { .. }) {
                door.pass();
            }
        }
    });
    let chat = next(&mut first_events, |event| match event {
        GenerationEvent::Started { answer, .. } => Some(answer.id),
        _ => None,
    })
    .await;
    let chat = fixture
        .app
        .store()
        .expect("a store")
        .chat_of(chat)
        .expect("its chat");
    next(&mut first_events, |event| {
        matches!(event, GenerationEvent::Text { .. }).then_some(())
    })
    .await;
    let again = Ask::Send {
        parent: None,
        text: "again".into(),
    };
    let error = fixture
        .ask(Some(chat), again)
        .await
        .expect_err("one at a time a chat");
    assert_eq!(error, AppProblem::ChatBusy.into());

    fixture.greedy(Some(8));
    let (second, mut second_events) = fixture.begin(None, "Second");
    let queued = next(&mut second_events, |event| match event {
        GenerationEvent::Queued { reason, position } => Some((reason, position)),
        _ => None,
    })
    .await;
    assert_eq!(queued, (QueueReason::Busy, 1));
    fixture.app.generations.stop(chat);
    door.open();
    next(&mut second_events, |event| {
        matches!(event, GenerationEvent::Done { .. }).then_some(())
    })
    .await;
    within(first).await.expect("no panic").expect("a chat");
    within(second).await.expect("no panic").expect("a chat");
}

/// A door that holds a load until it is opened.
#[derive(Default)]
struct Door {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Door {
    fn pass(&self) {
        let mut open = self.open.lock().expect("no panic");
        while !*open {
            open = self.opened.wait(open).expect("no panic");
        }
    }

    fn open(&self) {
        *self.open.lock().expect("no panic") = true;
        self.opened.notify_all();
    }
}

/// An app whose demo is looked at freely, and loaded once the door is open.
fn behind_a_door() -> (Fixture, Arc<Door>) {
    let door = Arc::new(Door::default());
    let model = Arc::new(support::endless_model());
    let (path, held) = (model.path().to_owned(), Arc::clone(&door));
    let asked = AtomicUsize::new(0);
    let demo = move || {
        if asked.fetch_add(1, Ordering::Relaxed) > 0 {
            held.pass();
        }
        Ok(path.clone())
    };
    (Fixture::with_demo(model, Box::new(demo)), door)
}

async fn loading(fixture: &Fixture) -> tokio::task::JoinHandle<ModelState> {
    let app = Arc::clone(&fixture.app);
    let load = tokio::spawn(async move { app.load_model(DEMO, false).await.expect("a demo") });
    let mut states = fixture.app.models.subscribe();
    let is_loading = |state: &ModelState| matches!(state, ModelState::Loading { .. });
    within(states.wait_for(is_loading))
        .await
        .expect("states go on");
    load
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_while_the_model_loads_is_answered_once_it_has() {
    let (fixture, door) = behind_a_door();
    let load = loading(&fixture).await;
    let (task, mut events) = fixture.begin(None, "Early");
    let queued = next(&mut events, |event| match event {
        GenerationEvent::Queued { reason, position } => Some((reason, position)),
        _ => None,
    })
    .await;
    assert_eq!(queued, (QueueReason::ModelLoading, 0));
    door.open();
    assert!(matches!(
        within(load).await.expect("no panic"),
        ModelState::Ready { .. }
    ));
    let message = next(&mut events, |event| match event {
        GenerationEvent::Done { message, .. } => Some(message),
        _ => None,
    })
    .await;
    assert!(!message.text.is_empty());
    within(task).await.expect("no panic").expect("a chat");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_load_leaves_none_and_fails_those_who_wait() {
    let (fixture, door) = behind_a_door();
    let load = loading(&fixture).await;
    let (task, mut events) = fixture.begin(None, "Early");
    next(&mut events, |event| {
        matches!(event, GenerationEvent::Queued { .. }).then_some(())
    })
    .await;
    fixture.app.models.cancel_load();
    door.open();
    assert_eq!(within(load).await.expect("no panic"), ModelState::None);
    let (message, error) = next(&mut events, |event| match event {
        GenerationEvent::Failed { message, error } => Some((message, error)),
        _ => None,
    })
    .await;
    assert_eq!(error, AppProblem::NotLoaded.into());
    assert_eq!(message.state, MessageState::Error);
    within(task)
        .await
        .expect("no panic")
        .expect("the question is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_message_can_be_stopped() {
    let (fixture, door) = behind_a_door();
    let load = loading(&fixture).await;
    let (task, mut events) = fixture.begin(None, "Never mind");
    next(&mut events, |event| {
        matches!(event, GenerationEvent::Queued { .. }).then_some(())
    })
    .await;
    within(fixture.app.generations.stop_all(support::LIMIT)).await;
    let message = next(&mut events, |event| match event {
        GenerationEvent::Done { message, .. } => Some(message),
        _ => None,
    })
    .await;
    assert_eq!(
        (message.state, message.text.as_str()),
        (MessageState::Stopped, "")
    );
    door.open();
    within(load).await.expect("no panic");
    within(task).await.expect("no panic").expect("a chat");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_model_nothing_is_stored() {
    let fixture = Fixture::new();
    let ask = Ask::Send {
        parent: None,
        text: "Hello".into(),
    };
    let error = fixture.ask(None, ask).await.expect_err("no model");
    assert_eq!(error, AppProblem::NotLoaded.into());
    let counts = fixture
        .app
        .store()
        .expect("a store")
        .counts()
        .expect("counts");
    assert_eq!(counts.chats, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_message_is_refused() {
    let fixture = Fixture::new();
    fixture.load().await;
    let ask = Ask::Send {
        parent: None,
        text: " \n".into(),
    };
    assert_eq!(
        fixture.ask(None, ask).await.expect_err("empty"),
        AppProblem::EmptyMessage.into()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_longer_than_the_context_fails_with_the_numbers_and_is_kept() {
    let fixture = Fixture::new();
    fixture
        .app
        .settings
        .change(|settings| settings.offload.context_length = Some(512))
        .expect("written");
    fixture.load().await;
    let (chat, events) = fixture.send(None, &"word ".repeat(400)).await;
    let Some(GenerationEvent::Failed { message, error }) = events.last() else {
        panic!("2000 tokens do not fit 512: {:?}", events.last());
    };
    let ApiError::Engine(EngineProblem::ContextFull { limit, needed, .. }) = error else {
        panic!("{error}");
    };
    assert!(*limit == 512 && *needed > 512, "{error}");
    assert_eq!(message.state, MessageState::Error);
    // The page words it again whenever the chat is opened.
    let kept = message
        .error
        .as_deref()
        .expect("it is kept with the answer");
    let kept: serde_json::Value = serde_json::from_str(kept).expect("as data");
    assert_eq!(kept, serde_json::to_value(error).expect("JSON"));
    assert_eq!(fixture.chat(chat).messages.len(), 2);
    let (_, events) = fixture.send(None, "Short").await;
    assert_eq!(
        done(&events).state,
        MessageState::Complete,
        "the engine goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unloading_ends_an_answer_with_what_it_has_and_reloading_goes_on() {
    let fixture = Fixture::new();
    fixture.greedy(None);
    fixture.load().await;
    let (task, mut events) = fixture.begin(None, "Long");
    next(&mut events, |event| {
        matches!(event, GenerationEvent::Text { .. }).then_some(())
    })
    .await;
    within(fixture.app.models.unload()).await;
    let message = next(&mut events, |event| match event {
        GenerationEvent::Done { message, .. } => Some(message),
        _ => None,
    })
    .await;
    assert_eq!(message.state, MessageState::Stopped);
    assert!(!message.text.is_empty());
    let chat = within(task).await.expect("no panic").expect("a chat");
    assert_eq!(fixture.app.models.state(), ModelState::None);
    fixture.greedy(Some(5));
    assert!(matches!(fixture.load().await, ModelState::Ready { .. }));
    let (_, events) = fixture.send(Some(chat), "And now?").await;
    assert_eq!(done(&events).state, MessageState::Complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_ends_the_answer_but_loses_no_text() {
    let fixture = Fixture::new();
    fixture.greedy(None);
    fixture.load().await;
    let (task, mut events) = fixture.begin(None, "Long");
    let mut said = String::new();
    next(&mut events, |event| match event {
        GenerationEvent::Text { delta, .. } => {
            said += &delta;
            Some(())
        }
        _ => None,
    })
    .await;
    let other = rusqlite::Connection::open(fixture.database()).expect("the database");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let (message, error) = next(&mut events, |event| match event {
        GenerationEvent::Text { delta, .. } => {
            said += &delta;
            None
        }
        GenerationEvent::Failed { message, error } => Some((message, error)),
        _ => None,
    })
    .await;
    let is_locked = matches!(error, ApiError::Store(StoreProblem::StoreLocked { .. }));
    assert!(is_locked, "{error}");
    assert_eq!(message.state, MessageState::Error);
    assert_eq!(message.text, said);
    other
        .execute_batch("ROLLBACK")
        .expect("the lock is given back");
    within(task).await.expect("no panic").expect("a chat");
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_and_the_last_model_are_there_after_a_restart() {
    let fixture = Fixture::new();
    fixture
        .app
        .settings
        .change(|settings| settings.load_last_model_on_start = true)
        .expect("written");
    fixture.load().await;
    let (chat, events) = fixture.send(None, "Remember this").await;
    let answer = done(&events).clone();
    let fixture = fixture.restarted();
    assert_eq!(fixture.chat(chat).messages[1], answer);
    assert_eq!(fixture.app.settings.get().last_model.as_deref(), Some(DEMO));
    within(fixture.app.load_last_model()).await;
    assert!(matches!(
        fixture.app.models.state(),
        ModelState::Ready { .. }
    ));
}
