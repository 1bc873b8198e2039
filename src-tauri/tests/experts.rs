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

    let (task, mut events) = fixture.begin(None, "Count");
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
    assert!(
        idle.used.is_empty() && idle.missed.is_empty(),
        "none is at work"
    );
    assert!(
        idle.tokens_per_sec.is_some_and(|speed| speed > 0.0),
        "the last speed stays"
    );
    fixture.load().await;
    let anew = within(async {
        loop {
            let frame = frames.recv().await.expect("frames go on");
            if frame.n_layers > 0 && frame.tokens == 0 {
                return frame;
            }
        }
    })
    .await;
    assert_eq!(anew.tokens_per_sec, None, "it was another load's");
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
    let (_, events) = fixture.send(None, "Hello").await;
    let kept = support::done(&events)
        .stats
        .clone()
        .expect("figures")
        .hit_rate;
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
    let totals = frame.totals;
    assert!(totals.misses > 0 && totals.bytes_moved > 0);
    assert!(
        totals.prefetch_hits > 0 && totals.prefetch_hits <= totals.hits,
        "{totals:?}"
    );
    // An expert that was read ahead was no more in memory than one that was missed.
    let all = (totals.hits + totals.misses) as f64;
    let met = totals.hits as f64 / all;
    assert!(
        kept.is_some_and(|kept| kept < met),
        "{kept:?} of {totals:?}"
    );
}
