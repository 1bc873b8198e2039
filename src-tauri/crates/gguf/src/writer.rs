//! Writing a file: metadata and the shapes of all tensors first, then each tensor as its bytes are
//! made.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use octet_files::{Access, Replacement};

use crate::error::GgufError;
use crate::header::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_HEADER_BYTES, MAX_ITEMS, MAX_KEYS, MAX_NAME_BYTES,
    MAX_TENSORS, VERSION, is_alignment,
};
use crate::tensor::Dims;
use crate::tensor_type::TensorType;
use crate::value::ValueType;

/// A value to write. `From` makes one of numbers, texts and vectors of them.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // Names and contents say it.
#[non_exhaustive]
pub enum NewValue {
    U16(u16),
    U32(u32),
    U64(u64),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Strings(Vec<String>),
}

macro_rules! from {
    ($($ty:ty: $variant:ident),+ $(,)?) => {$(
        impl From<$ty> for NewValue {
            fn from(value: $ty) -> Self {
                Self::$variant(value.into())
            }
        }
    )+};
}

from! {
    u16: U16,
    u32: U32,
    u64: U64,
    i32: I32,
    f32: F32,
    bool: Bool,
    &str: String,
    String: String,
    Vec<u32>: U32s,
    Vec<i32>: I32s,
    Vec<f32>: F32s,
    Vec<String>: Strings,
}

type Fill<'a> = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'a>;

struct NewTensor<'a> {
    name: String,
    dims: Vec<u64>,
    ty: TensorType,
    fill: Fill<'a>,
}

/// Collects what a file is to hold, and writes it.
pub struct GgufWriter<'a> {
    alignment: u64,
    values: Vec<(String, NewValue)>,
    tensors: Vec<NewTensor<'a>>,
}

impl Default for GgufWriter<'_> {
    fn default() -> Self {
        Self {
            alignment: DEFAULT_ALIGNMENT,
            values: Vec::new(),
            tensors: Vec::new(),
        }
    }
}

impl<'a> GgufWriter<'a> {
    /// A file without metadata and tensors, with an alignment of 32 bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pads tensors to multiples of `bytes`: a power of two from 8 on. The key
    /// `general.alignment` is written with it where it is not 32.
    pub fn set_alignment(&mut self, bytes: u64) -> &mut Self {
        self.alignment = bytes;
        self
    }

    /// Adds a key.
    pub fn set(&mut self, key: &str, value: impl Into<NewValue>) -> &mut Self {
        self.values.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a tensor of `dims`, fastest first. `fill` is called when its turn has come, and has to
    /// write exactly as many bytes as type and dimensions give.
    pub fn tensor(
        &mut self,
        name: &str,
        dims: &[u64],
        ty: TensorType,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()> + 'a,
    ) -> &mut Self {
        self.tensors.push(NewTensor {
            name: name.to_owned(),
            dims: dims.to_vec(),
            ty,
            fill: Box::new(fill),
        });
        self
    }

    /// Writes the file under another name, and renames it to `path` once it is whole and on disk.
    ///
    /// # Errors
    /// [`GgufError::Write`] for what no file can hold: names twice, empty or too long, shapes that
    /// do not fit their type, a tensor of another length than its shape gives;
    /// [`GgufError::Io`] for what the system reports. Nothing is at `path` then that was not there
    /// before.
    pub fn write(mut self, path: &Path) -> Result<(), GgufError> {
        let wrong = |message| GgufError::Write {
            path: path.to_owned(),
            message,
        };
        if self.alignment != DEFAULT_ALIGNMENT {
            // A value that is no u32 is no alignment either.
            let alignment = u32::try_from(self.alignment).unwrap_or(0);
            self.set(ALIGNMENT_KEY, alignment);
        }
        let lens = self.check().map_err(wrong)?;
        let header = self.header(&lens);
        if header.len() as u64 > MAX_HEADER_BYTES {
            return Err(wrong(format!(
                "its header would take {} bytes",
                header.len()
            )));
        }
        let io_error = |e| GgufError::io("write", path)(e);
        let mut out = Replacement::create(path, Access::Everyone).map_err(io_error)?;
        out.write_all(&header).map_err(io_error)?;
        for (tensor, len) in self.tensors.into_iter().zip(lens) {
            let mut counted = Counted {
                inner: &mut out,
                left: len,
            };
            let filled = (tensor.fill)(&mut counted);
            filled.map_err(io_error)?;
            if counted.left != 0 {
                let written = len - counted.left;
                return Err(wrong(format!(
                    "tensor `{}` takes {len} bytes, and {written} were given",
                    tensor.name
                )));
            }
            pad(&mut out, len, self.alignment).map_err(io_error)?;
        }
        out.finish().map_err(io_error)
    }

    /// Checks everything that a reader would, and tells how many bytes each tensor takes.
    fn check(&self) -> Result<Vec<u64>, String> {
        if !is_alignment(self.alignment) {
            return Err(format!("{} is no alignment", self.alignment));
        }
        let (n_keys, n_tensors) = (self.values.len(), self.tensors.len());
        if n_keys as u64 > MAX_KEYS || n_tensors as u64 > MAX_TENSORS {
            return Err(format!(
                "{n_keys} keys and {n_tensors} tensors are too many"
            ));
        }
        let mut keys = BTreeSet::new();
        for (key, value) in &self.values {
            check_name(key)?;
            if !keys.insert(key) {
                return Err(format!("`{key}` is given twice"));
            }
            if value.items().is_some_and(|(_, n)| n as u64 > MAX_ITEMS) {
                return Err(format!("`{key}` has too many items"));
            }
        }
        let mut names = BTreeSet::new();
        let mut lens = Vec::with_capacity(self.tensors.len());
        let mut end = 0_u64;
        for tensor in &self.tensors {
            let NewTensor { name, dims, ty, .. } = tensor;
            check_name(name)?;
            if !names.insert(name) {
                return Err(format!("tensor `{name}` is given twice"));
            }
            let len = Dims::new(dims).and_then(|_| {
                let rows = dims[1..]
                    .iter()
                    .try_fold(1_u64, |n, &dim| n.checked_mul(dim));
                ty.row_bytes(dims[0])?.checked_mul(rows?)
            });
            let padded = len.and_then(|len| len.checked_next_multiple_of(self.alignment));
            let next = padded.and_then(|len| end.checked_add(len));
            let (Some(len @ 1..), Some(next)) = (len, next) else {
                return Err(format!(
                    "tensor `{name}`: {ty} cannot have the shape {dims:?}"
                ));
            };
            end = next;
            lens.push(len);
        }
        Ok(lens)
    }

    /// Everything in front of the data, padding included.
    fn header(&self, lens: &[u64]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            put_string(&mut out, key);
            value.put(&mut out);
        }
        let mut offset = 0_u64;
        for (tensor, len) in self.tensors.iter().zip(lens) {
            put_string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(tensor.ty.id().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += len.next_multiple_of(self.alignment);
        }
        let len = (out.len() as u64).next_multiple_of(self.alignment);
        out.resize(len as usize, 0);
        out
    }
}

impl NewValue {
    /// Type and number of an array's items.
    fn items(&self) -> Option<(ValueType, usize)> {
        match self {
            Self::U32s(items) => Some((ValueType::U32, items.len())),
            Self::I32s(items) => Some((ValueType::I32, items.len())),
            Self::F32s(items) => Some((ValueType::F32, items.len())),
            Self::Strings(items) => Some((ValueType::String, items.len())),
            _ => None,
        }
    }

    /// Appends type and value.
    fn put(&self, out: &mut Vec<u8>) {
        let mut tagged = |ty: ValueType, bytes: &[u8]| {
            out.extend(ty.id().to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Self::U16(value) => tagged(ValueType::U16, &value.to_le_bytes()),
            Self::U32(value) => tagged(ValueType::U32, &value.to_le_bytes()),
            Self::U64(value) => tagged(ValueType::U64, &value.to_le_bytes()),
            Self::I32(value) => tagged(ValueType::I32, &value.to_le_bytes()),
            Self::F32(value) => tagged(ValueType::F32, &value.to_le_bytes()),
            Self::Bool(value) => tagged(ValueType::Bool, &[u8::from(*value)]),
            Self::String(text) => {
                tagged(ValueType::String, &[]);
                put_string(out, text);
            }
            Self::U32s(_) | Self::I32s(_) | Self::F32s(_) | Self::Strings(_) => {
                tagged(ValueType::Array, &[]);
                self.put_items(out);
            }
        }
    }

    fn put_items(&self, out: &mut Vec<u8>) {
        if let Some((item, len)) = self.items() {
            out.extend(item.id().to_le_bytes());
            out.extend((len as u64).to_le_bytes());
        }
        match self {
            Self::U32s(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
            Self::I32s(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
            Self::F32s(items) => out.extend(items.iter().flat_map(|item| item.to_le_bytes())),
            Self::Strings(items) => items.iter().for_each(|item| put_string(out, item)),
            _ => {}
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() as u64 > MAX_NAME_BYTES {
        return Err(format!("a name of {} bytes", name.len()));
    }
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn pad(out: &mut impl Write, len: u64, alignment: u64) -> io::Result<()> {
    let zeros = io::Read::take(io::repeat(0), len.next_multiple_of(alignment) - len);
    io::copy(&mut { zeros }, out).map(drop)
}

/// Takes as many bytes as a tensor has, and no more.
struct Counted<'w, W> {
    inner: &'w mut W,
    left: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.len() as u64 > self.left {
            let message = "more bytes than the tensor has";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let written = self.inner.write(buf)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
