//! What the backends refuse of a [`ModelSpec`].

use octet_engine::backend::cpu::lacks;
use octet_engine::spec::{Feature, ModelSpec, RopePairs};

#[test]
fn the_cpu_names_the_one_feature_that_it_lacks() {
    let adjacent = ModelSpec {
        rope_pairs: RopePairs::Adjacent,
        ..ModelSpec::mixtral()
    };
    assert_eq!(lacks(&adjacent), None);
    let shared = ModelSpec {
        shared_expert_size: 512,
        ..adjacent
    };
    assert_eq!(lacks(&shared), Some(Feature::SharedExpert));
}
