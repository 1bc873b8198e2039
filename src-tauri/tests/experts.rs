//! The feed of the Experts view.

mod support;

use octet_app::experts::ExpertsFrame;
use octet_app::generation::GenerationEvent;
use support::{Fixture, next, within};
use tokio::sync::mpsc::unbounded_channel;

#[tokio::test(flavor = "multi_thread")]
async fn frames_follow_the_model_and_the_answer() {
    let fixture = Fixture::new();
    fixture.greedy(None);
    let (sender, mut frames) = unbounded_channel::<ExpertsFrame>();
    fixture
        .app
        .experts
        .watch(Box::new(move |frame| sender.send(frame).is_ok()));
    let first = within(frames.recv()).await.expect("one at the start");
    assert_eq!((first.n_layers, first.generating), (0, false));

    fixture.load().await;
    let loaded = within(async {
        loop {
            let frame = frames.recv().await.expect("frames go on");
            if frame.n_layers > 0 {
                return frame;
            }
        }
    })
    .await;
    let total = loaded.n_layers * loaded.n_experts;
    assert_eq!(
        loaded.places,
        "r".repeat(total),
        "all of a tiny model is read on loading"
    );
    assert_eq!((loaded.counts.iter().sum::<u64>(), loaded.tokens), (0, 0));

    let (task, mut events) = fixture.begin(None, "Long");
    next(&mut events, |event| {
        matches!(event, GenerationEvent::Text { .. }).then_some(())
    })
    .await;
    let busy = within(async {
        loop {
            let frame = frames.recv().await.expect("frames go on");
            if frame.generating && frame.tokens > 1 {
                return frame;
            }
        }
    })
    .await;
    assert_eq!(busy.used.len(), busy.n_layers * busy.top_k);
    assert!(busy.used.iter().all(|expert| *expert < total));
    assert_eq!(
        busy.counts.iter().sum::<u64>(),
        busy.tokens * (busy.n_layers * busy.top_k) as u64
    );
    assert!(
        busy.kept_from_previous
            .is_some_and(|share| (0.0..=1.0).contains(&share))
    );
    within(fixture.app.generations.stop_all(support::LIMIT)).await;
    within(task).await.expect("no panic").expect("a chat");
    let idle = within(async {
        loop {
            let frame = frames.recv().await.expect("frames go on");
            if !frame.generating {
                return frame;
            }
        }
    })
    .await;
    assert!(idle.tokens >= busy.tokens);
    fixture.app.experts.unwatch();
    assert!(within(frames.recv()).await.is_none(), "unwatched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_budget_shows_what_is_on_disk_and_what_was_missed() {
    let fixture = Fixture::new();
    fixture
        .app
        .settings
        .change(|settings| {
            settings.offload.ram_budget_bytes = Some(4e6);
            settings.offload.context_length = Some(512);
        })
        .expect("written");
    let state = fixture.load().await;
    let octet_app::models::ModelState::Ready { plan, .. } = &state else {
        panic!("{state:?}");
    };
    assert!(plan.experts_in_ram < plan.total_experts, "{plan:?}");
    fixture.send(None, "Hello").await;
    let (sender, mut frames) = unbounded_channel::<ExpertsFrame>();
    fixture
        .app
        .experts
        .watch(Box::new(move |frame| sender.send(frame).is_ok()));
    let frame = within(frames.recv()).await.expect("a frame");
    assert_eq!(frame.places.matches('r').count(), plan.experts_in_ram);
    assert_eq!(
        frame.places.matches('d').count(),
        plan.total_experts - plan.experts_in_ram
    );
    assert!(
        frame
            .missed
            .iter()
            .all(|missed| frame.used.contains(missed))
    );
    assert!(frame.totals.misses > 0 && frame.totals.bytes_moved > 0);
}
