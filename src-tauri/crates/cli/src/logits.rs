//! `octet logits`: the logits of every position, for comparisons.

use std::collections::HashMap;
use std::ops::ControlFlow;

use octet_engine::model::{Logits, PREFILL_CHUNK};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::args::LogitsArgs;
use crate::load::load;

pub fn run(args: &LogitsArgs) -> anyhow::Result<()> {
    let loaded = load(&args.engine)?;
    let tokens = &args.tokens.0;
    let mut session = loaded.model.session(tokens.len().min(loaded.plan.ctx));
    let mut bytes = Vec::new();
    for chunk in tokens.chunks(PREFILL_CHUNK) {
        let go_on = &mut |_| ControlFlow::Continue(());
        let logits = loaded
            .model
            .forward(&mut session, chunk, Logits::All, go_on)?;
        bytes.extend(logits.iter().flat_map(|value| value.to_le_bytes()));
    }
    let shape = vec![tokens.len(), loaded.model.spec().vocab_size];
    let tensor = TensorView::new(Dtype::F32, shape, &bytes)?;
    safetensors::serialize_to_file(HashMap::from([("logits", tensor)]), None, &args.out)
        .map_err(|error| anyhow::anyhow!("{} cannot be written: {error}", args.out.display()))
}
