//! Headers made byte by byte: also what no writer makes.

use octet_gguf::{Header, HeaderError, parse_header};

pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// Keys (name, type, bytes) and tensors (name, dimensions, type, offset).
#[derive(Default)]
pub struct Raw {
    keys: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
}

impl Raw {
    pub fn key(mut self, key: &str, ty: u32, value: &[u8]) -> Self {
        self.keys.push((key.to_owned(), ty, value.to_vec()));
        self
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.key(key, STRING, &string(value))
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.key(key, 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.key(key, 6, &value.to_le_bytes())
    }

    pub fn array(self, key: &str, item: u32, len: u64, items: &[u8]) -> Self {
        let value = [&item.to_le_bytes()[..], &len.to_le_bytes(), items].concat();
        self.key(key, ARRAY, &value)
    }

    pub fn tensor(mut self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        self.tensors
            .push((name.to_owned(), dims.to_vec(), ty, offset));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (key, ty, value) in &self.keys {
            bytes.extend(string(key));
            bytes.extend(ty.to_le_bytes());
            bytes.extend(value);
        }
        for (name, dims, ty, offset) in &self.tensors {
            bytes.extend(string(name));
            bytes.extend((dims.len() as u32).to_le_bytes());
            bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(ty.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes
    }

    /// With `data` bytes behind the header.
    pub fn parse(&self, data: usize) -> Result<Header, HeaderError> {
        let bytes = self.bytes();
        let start = bytes.len().next_multiple_of(32);
        parse_header(&bytes, (start + data) as u64)
    }
}
