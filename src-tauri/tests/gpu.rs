//! A GPU that fails in the middle of an answer, by the driver that stands in for one.

mod support;

use octet_app::error::ApiError;
use octet_app::generation::GenerationEvent;
use octet_app::models::ModelState;
use octet_engine::EngineProblem;
use octet_engine::plan::{Placement, Warning};
use octet_store::MessageState;
use support::{Fixture, done};

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_gpu_ends_the_answer_keeps_what_there_is_and_the_cpu_goes_on() {
    let Some(gpu) = octet_test_cuda::session() else {
        return;
    };
    let fixture = Fixture::new();
    let ModelState::Ready { plan, .. } = fixture.load().await else {
        panic!("loads");
    };
    assert_ne!(plan.device, Placement::Cpu, "{:?}", plan.warnings);
    assert!(plan.gpu.is_some());

    gpu.set("FAIL", "launch:600");
    let (chat, events) = fixture.send(None, "Hello").await;
    let Some(GenerationEvent::Failed { error, message, .. }) = events.last() else {
        panic!("fails: {:?}", events.last());
    };
    let is_of_gpu = matches!(error, ApiError::Engine(EngineProblem::GpuFailed { .. }));
    assert!(is_of_gpu, "{error}");
    assert_eq!(message.state, MessageState::Error);
    let stored = fixture.chat(chat);
    assert_eq!(
        stored.messages.len(),
        2,
        "the question and what there is of the answer"
    );
    let ModelState::Ready { plan, .. } = fixture.app.models.state() else {
        panic!("the model stays loaded");
    };
    assert_eq!(plan.device, Placement::Cpu);
    assert!(plan.gpu.is_none() && plan.warnings.contains(&Warning::GpuLost));

    let (_, events) = fixture.send(Some(chat), "And now?").await;
    assert!(!done(&events).text.is_empty());
}
