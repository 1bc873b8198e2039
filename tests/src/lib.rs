//! Behaviour tests; see `tests/`.
