//! `config.json`: what is accepted keeps the promises of `Config`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use octet_engine::spec::ModelSpec;

fuzz_target!(|input: &[u8]| {
    let Ok(config) = ModelSpec::from_config_json(input) else {
        return;
    };
    assert!(config.hidden_size > 0 && config.intermediate_size > 0 && config.n_layers > 0);
    assert!(0 < config.top_k && config.top_k <= config.n_experts);
    assert!(config.n_heads.is_multiple_of(config.n_kv_heads));
    assert!(config.head_dim > 0 && config.head_dim.is_multiple_of(2));
    assert!(config.rope_theta.is_finite() && config.rms_norm_eps > 0.0);
    assert!((config.bos_token_id as usize) < config.vocab_size);
});
