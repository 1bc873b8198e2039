//! One question, answered on the terminal:
//!
//! ```text
//! cargo run --release -p octet-engine --example chat -- path/to/model "Why is the sky blue?"
//! ```

use std::error::Error;
use std::io::{self, Write};

use octet_engine::prompt::{Message, Role};
use octet_engine::{Engine, Event, Input, Request};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(question)) = (args.next(), args.next()) else {
        return Err("give a model's folder or GGUF file, and a question".into());
    };
    let engine = Engine::builder(model).load()?;
    let messages = vec![Message::new(Role::User, question)];
    let mut answer = engine.generate(Request::new(Input::Messages(messages)));
    while let Some(event) = answer.next_blocking() {
        match event {
            Event::Token { text, .. } => print!("{text}"),
            Event::Done { text, .. } => println!("{text}"),
            Event::Error(failure) => return Err(failure.into()),
            _ => {}
        }
        io::stdout().flush()?;
    }
    Ok(())
}
