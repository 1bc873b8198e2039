//! A GGUF header: what is accepted keeps its promises, and its tokenizer is made or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use octet_gguf::{TokenizerSpec, Value, parse_header};

fuzz_target!(|input: &[u8]| {
    let Some((file_len, bytes)) = input.split_first_chunk::<4>() else {
        return;
    };
    // The file may be longer than its header: most of it is weights.
    let file_len_bytes = bytes.len() as u64 + u64::from(u32::from_le_bytes(*file_len));
    let Ok(header) = parse_header(bytes, file_len_bytes) else {
        return;
    };
    let mut spans = Vec::new();
    for info in header.tensors.values() {
        assert!(header.data_start <= info.span.start && info.span.end() <= file_len_bytes);
        assert_eq!(info.ty.row_bytes(info.k()), Some(info.row_bytes()));
        assert_eq!(info.row_bytes() * info.rows(), info.span.len);
        spans.push(info.span);
    }
    spans.sort();
    assert!(spans.windows(2).all(|pair| pair[0].end() <= pair[1].start));
    let metadata = header.metadata(bytes);
    for (_, value) in metadata.iter() {
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len());
        }
    }
    let _ = TokenizerSpec::read(metadata);
});
