//! Refusals: their numbers, and ways out that work.

use super::*;

#[test]
fn refusals_name_what_would_help() {
    let gpu = |free_gib, change: Change<PlanRequest>| {
        let mut request = request();
        change(&mut request);
        refusal(&mixtral(), &with_vram(free_gib * GIB), &request)
    };
    let cpu = |available_bytes, change: Change<PlanRequest>| {
        let mut request = request();
        change(&mut request);
        refusal(&mixtral(), &without_gpu(available_bytes), &request)
    };
    let cases = [
        (
            gpu(8, |r| r.preset = Preset::Vram16),
            "lower --experts-on-gpu to 3",
        ),
        (
            gpu(16, |r| {
                r.preset = Preset::Vram16;
                r.vram_budget = Some(8 * GB);
            }),
            "raise --vram to",
        ),
        (
            gpu(4, |r| {
                r.device = Device::Cuda;
                r.ctx = Some(32_768);
            }),
            "lower --ctx to",
        ),
        (
            gpu(8, |r| r.experts_on_gpu = Some(8)),
            "lower --experts-on-gpu to",
        ),
        (gpu(1, |r| r.device = Device::Cuda), "use --device cpu"),
        (cpu(GB, |_| ()), "close other programs to free"),
        (cpu(2_900_000_000, |_| ()), "give --ram"),
        (cpu(5 * GB, |r| r.ctx = Some(32_768)), "lower --ctx to"),
        (
            cpu(20 * GB, |r| r.ram_budget = Some(GB / 10)),
            "raise --ram to",
        ),
    ];
    for (message, words) in cases {
        assert!(message.contains(words), "{words}: {message}");
        assert!(message.contains("more than the limit of"), "{message}");
        assert!(message.matches(", or ").count() < 2, "{message}");
    }
}

#[test]
fn a_context_in_vram_is_no_remedy_for_lack_of_ram() {
    let request = PlanRequest {
        ctx: Some(8192),
        ..request()
    };
    let hardware = little_ram_behind(gpu(12 * GIB, 11 * GIB));
    let message = refusal(&mixtral(), &hardware, &request);
    assert!(message.contains("of RAM"), "{message}");
    assert!(!message.contains("--ctx"), "{message}");
}

#[test]
fn no_context_at_all_is_no_remedy() {
    let request = PlanRequest {
        ram_budget: Some(6 * mixtral().expert_bytes),
        ctx: Some(100),
        ..request()
    };
    let message = refusal(&mixtral(), &without_gpu(20 * GB), &request);
    assert!(!message.contains("--ctx"), "{message}");
}

#[test]
fn following_the_advice_of_a_refusal_helps() {
    let number_after = |message: &str, words: &str| {
        let rest = message.split(words).nth(1).expect(words);
        rest.split([',', ' ']).next().expect("a word").to_owned()
    };
    let hardware = without_gpu(20 * GB);
    let mut request = PlanRequest {
        ram_budget: Some(2 * GB),
        ctx: Some(32_768),
        ..request()
    };
    let message = refusal(&mixtral(), &hardware, &request);
    let lower: usize = number_after(&message, "lower --ctx to ").parse().unwrap();
    let raised = parse_bytes(&number_after(&message, "raise --ram to ")).unwrap();
    request.ctx = Some(lower + 1);
    refusal(&mixtral(), &hardware, &request);
    request.ctx = Some(lower);
    assert_sound(&mixtral(), &plan(&mixtral(), &hardware, &request));
    request.ctx = Some(32_768);
    request.ram_budget = Some(raised);
    assert_sound(&mixtral(), &plan(&mixtral(), &hardware, &request));
}

/// What other programs free is not this container's; and no machine frees more than it has.
#[test]
fn programs_are_to_be_closed_only_where_that_helps() {
    let mut hardware = without_gpu(GB);
    let closing = "close other programs to free";
    let message = refusal(&mixtral(), &hardware, &request());
    assert!(message.contains(closing), "{message}");
    hardware.ram_is_limited = true;
    let message = refusal(&mixtral(), &hardware, &request());
    assert!(!message.contains(closing), "{message}");
    assert!(message.contains("raise the memory limit"), "{message}");
    hardware.ram_is_limited = false;
    hardware.ram_total_bytes = 3 * GB / 2;
    let message = refusal(&mixtral(), &hardware, &request());
    assert!(!message.contains(closing), "{message}");
    assert!(message.contains("smaller model"), "{message}");
}
