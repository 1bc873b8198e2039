//! A safetensors header in a file whose length the first 8 bytes choose.
#![no_main]

use libfuzzer_sys::fuzz_target;
use octet_engine::checkpoint::parse_header;

fuzz_target!(|input: &[u8]| {
    let Some((file_len, json)) = input.split_first_chunk::<8>() else {
        return;
    };
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json);
    let file_len_bytes = u64::from_le_bytes(*file_len);
    if let Ok(header) = parse_header(&bytes, file_len_bytes) {
        for tensor in header.tensors.values() {
            assert!(header.data_start <= tensor.start && tensor.start <= tensor.end);
            assert!(tensor.end <= file_len_bytes);
            let bits = tensor.elements() * tensor.dtype.bitsize() as u64;
            assert_eq!(tensor.end - tensor.start, bits / 8);
        }
    }
    // And with the length field as it comes.
    let _ = parse_header(input, file_len_bytes);
});
