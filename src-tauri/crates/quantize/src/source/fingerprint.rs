//! What tells one source from another without reading all of it.

use octet_checkpoint::TensorFile;

use super::Source;
use crate::error::QuantizeError;
use crate::journal::SourceFile;

const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = 4096;

impl Source {
    /// Length, header and samples all over the data of every file: two models of one shape differ
    /// in nearly every weight, and times of files change when they are copied.
    pub(crate) fn fingerprint(&self) -> Result<Vec<SourceFile>, QuantizeError> {
        self.files
            .iter()
            .map(|file| {
                let name = file.path().file_name().unwrap_or_default();
                Ok(SourceFile {
                    name: name.to_string_lossy().into_owned(),
                    bytes: file.len_bytes(),
                    sample_crc32: sample_crc32(file)?,
                })
            })
            .collect()
    }
}

fn sample_crc32(file: &TensorFile) -> Result<u32, QuantizeError> {
    let (data_start, len) = (file.header().data_start, file.len_bytes());
    let mut crc32 = crc32fast::Hasher::new();
    let mut buf = vec![0; SAMPLE_BYTES as usize];
    let mut add = |from: u64, to: u64| -> Result<(), QuantizeError> {
        let mut at = from;
        while at < to {
            let piece = &mut buf[..SAMPLE_BYTES.min(to - at) as usize];
            file.read_at(piece, at)?;
            crc32.update(piece);
            at += piece.len() as u64;
        }
        Ok(())
    };
    add(0, data_start)?;
    let apart = ((len - data_start) / SAMPLES).max(SAMPLE_BYTES);
    for at in (data_start..len).step_by(apart as usize) {
        add(at, (at + SAMPLE_BYTES).min(len))?;
    }
    Ok(crc32.finalize())
}
