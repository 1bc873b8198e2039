//! `model.safetensors.index.json`: no accepted file name may lead out of the folder.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use octet_engine::checkpoint::parse_index;

fuzz_target!(|input: &[u8]| {
    let Ok(index) = parse_index(input) else {
        return;
    };
    for file in index.tensors().filter_map(|tensor| index.file(tensor)) {
        let mut components = Path::new(file).components();
        assert!(
            matches!(components.next(), Some(Component::Normal(_))),
            "{file:?}"
        );
        assert!(components.next().is_none(), "{file:?}");
    }
});
