//! What is written to standard output and standard error. `println!` and its like panic where the
//! reader has gone or the disk is full, so nothing here uses them.

use std::io::{self, IsTerminal, StdoutLock, Write};

/// Standard output, whose errors name it and keep their kind.
pub struct Output(StdoutLock<'static>);

/// Locks standard output.
pub fn stdout() -> Output {
    Output(io::stdout().lock())
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(named)
    }
}

fn named(error: io::Error) -> io::Error {
    // `write_all` tries an interrupted write again by its kind.
    io::Error::new(
        error.kind(),
        format!("standard output cannot be written: {error}"),
    )
}

/// A line on standard error; where that cannot be written, nothing is left to be done.
pub fn note(message: &str) {
    let _ = writeln!(io::stderr(), "octet: {message}");
}

/// A line on standard error that is dim on a terminal.
pub fn dim(message: &str) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = match colour {
        true => writeln!(io::stderr(), "\x1b[2m{message}\x1b[0m"),
        false => writeln!(io::stderr(), "{message}"),
    };
}

/// A number and its noun.
pub fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// Says so where more worker threads are asked for than this machine has processors, which makes
/// everything slower.
pub fn note_threads(asked: Option<u16>) {
    let processors = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
    if let Some(asked) = asked.map(usize::from).filter(|&asked| asked > processors) {
        note(&format!(
            "--threads {asked} is more than the {} that this machine has: expect it to be much \
             slower",
            count(processors, "logical core")
        ));
    }
}

/// A message and what to do about it, in one line.
pub fn with_hint(message: &str, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{message}: {hint}"),
        None => message.to_owned(),
    }
}
