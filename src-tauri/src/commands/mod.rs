//! What the page can ask for. Each command is a few lines over the modules that know no window.

pub mod chats;
pub mod experts;
pub mod general;
pub mod generation;
pub mod library;
pub mod models;
