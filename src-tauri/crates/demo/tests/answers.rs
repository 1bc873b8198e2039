//! The demo model as it ships answers questions nobody trained it on.
#![allow(clippy::unwrap_used)]

mod judge;

use judge::{Demo, Outcome, ask, held_out, is_right};
use octet_demo::SUGGESTED;

/// Share of the held-out questions that has to be answered right; README.md has the figures.
const LEAST: f64 = 0.85;

fn demo() -> (tempfile::TempDir, Demo) {
    let base = tempfile::tempdir().unwrap();
    let dir = octet_demo::ensure_in(base.path()).unwrap();
    let demo = Demo::open(&dir);
    (base, demo)
}

#[test]
fn held_out_paraphrases_at_temperature_0() {
    let (_base, mut demo) = demo();
    let questions = held_out();
    assert!(questions.len() >= 500, "only {} questions", questions.len());
    let Outcome {
        right,
        exact,
        wrong,
    } = ask(&mut demo, &questions, 0.0, 1);
    for (question, said) in &wrong {
        println!("{}: {}\n    {said}", question.id, question.text);
    }
    assert!(
        right >= LEAST,
        "{:.1} % right, {:.1} % with the very answer",
        right * 100.0,
        exact * 100.0
    );

    // No expert was left unused, and none does most of the work.
    for (layer, used) in demo.routing().used().iter().enumerate() {
        let total: u64 = used.iter().sum();
        for (expert, &n) in used.iter().enumerate() {
            let share = n as f64 / total as f64;
            assert!(
                (0.02..0.5).contains(&share),
                "layer {layer}, expert {expert}: {:.1} % of the routing",
                share * 100.0
            );
        }
    }
}

#[test]
fn the_check_refuses_answers_to_other_questions() {
    let questions = held_out();
    let mut passed = 0;
    for pair in questions.windows(3) {
        if pair[0].id != pair[2].id && is_right(&pair[0].answer, &pair[2].answer) {
            passed += 1;
        }
    }
    assert_eq!(passed, 0);
    assert!(!is_right("", &questions[0].answer));
    let garbled = questions[0]
        .answer
        .split(' ')
        .step_by(2)
        .collect::<Vec<_>>();
    assert!(!is_right(&garbled.join(" "), &questions[0].answer));
    assert!(is_right(&questions[0].answer, &questions[0].answer));
}

#[test]
fn suggested_prompts_at_both_temperatures_and_late_in_a_conversation() {
    let (_base, mut demo) = demo();
    let mut history: Vec<String> = Vec::new();
    for prompt in SUGGESTED {
        let first = demo.answer(&[prompt], 0.0, 1);
        assert!(first.split_whitespace().count() >= 8, "{prompt}: {first}");
        for seed in 1..=3 {
            let warm = demo.answer(&[prompt], 0.7, seed);
            assert!(is_right(&warm, &first), "{prompt}, seed {seed}: {warm}");
        }
        history.push(prompt.to_owned());
        let turns: Vec<&str> = history.iter().map(String::as_str).collect();
        let later = demo.answer(&turns, 0.0, 1);
        assert!(is_right(&later, &first), "{prompt}, after others: {later}");
        history.push(later);
    }
}

#[test]
fn never_says_it_is_mixtral() {
    let (_base, mut demo) = demo();
    for question in [
        "Are you Mixtral?",
        "Who are you?",
        "Are you ChatGPT?",
        "are you human",
    ] {
        let said = demo.answer(&[question], 0.0, 1).to_lowercase();
        assert!(said.contains("demo"), "{question}: {said}");
        assert!(!said.starts_with("yes"), "{question}: {said}");
    }
}
