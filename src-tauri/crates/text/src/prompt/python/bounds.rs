//! What a template may make of memory: it pays from one budget, before anything is made.
//!
//! A list may hold the same list twice, and so on: a few dozen steps make one that takes no memory
//! and that nobody can write out. So containers are weighed with all that is in them, as often as
//! it is in them, when they are made and before they become text.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, State, Value};

use super::failed;

/// Bytes that one text may come to.
const MAX_TEXT_BYTES: usize = 16 << 20;
/// Values in a container, those in its containers included.
const MAX_VALUES: usize = 100_000;
/// Containers in containers.
const MAX_DEPTH: usize = 200;

/// Names under which the template's program builds containers.
pub(in crate::prompt) const LIST: &str = "[]";
pub(in crate::prompt) const TUPLE: &str = "()";
pub(in crate::prompt) const MAP: &str = "{}";

/// Pays for `bytes` that are about to be made.
pub(super) fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64)
}

/// `value` as text, if that is within bounds.
pub(super) fn text_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        pay(state, text.len())?;
        return Ok(text.to_owned());
    }
    check(state, value)?;
    Ok(value.to_string())
}

/// Refuses a container that holds too much.
pub(super) fn check(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let mut scale = Scale {
        state,
        values: 0,
        bytes: 0,
    };
    scale.add(value, 0)
}

struct Scale<'a, 't, 'e> {
    state: &'a State<'t, 'e>,
    values: usize,
    bytes: usize,
}

impl Scale<'_, '_, '_> {
    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.values += 1;
        // As much as its text takes, about.
        self.bytes += 8 + value.as_str().map_or(0, str::len);
        if self.values > MAX_VALUES || self.bytes > MAX_TEXT_BYTES || depth > MAX_DEPTH {
            return Err(failed(
                "a list or dict holds too much, or holds itself too often",
            ));
        }
        if self.values.is_multiple_of(16) {
            self.state.consume_fuel(1)?;
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()? {
                    self.add(&item, depth + 1)?;
                }
            }
            ValueKind::Map => {
                for key in value.try_iter()? {
                    self.add(&key, depth + 1)?;
                    self.add(&value.get_item(&key)?, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

pub(super) fn list(state: &mut State<'_, '_>, items: super::AllArgs) -> Result<Value, Error> {
    built(state, Value::from(items.into_values()))
}

pub(super) fn tuple(state: &mut State<'_, '_>, items: super::AllArgs) -> Result<Value, Error> {
    built(state, Value::from(Tuple::from(items.into_values())))
}

/// Of keys and values in turn.
pub(super) fn map(state: &mut State<'_, '_>, items: super::AllArgs) -> Result<Value, Error> {
    let items = items.into_values();
    let pairs = items.chunks_exact(2);
    built(
        state,
        Value::from_pairs(pairs.map(|pair| (pair[0].clone(), pair[1].clone()))),
    )
}

fn built(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    check(state, &value)?;
    Ok(value)
}
