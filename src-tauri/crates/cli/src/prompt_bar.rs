//! How far a prompt is, on a terminal: a bar with the time left.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// The bar's steps.
const STEPS: u64 = 1000;

/// A bar on standard error while a prompt is computed; nothing where that is no terminal.
pub struct PromptBar {
    style: ProgressStyle,
    bar: Option<ProgressBar>,
    /// Whether the answer stands in the terminal and its last line is not ended.
    is_line_open: bool,
}

impl PromptBar {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            style: ProgressStyle::with_template("{bar:32} {msg}")?,
            bar: None,
            is_line_open: false,
        })
    }

    /// Shows what is done: `done` of `total` tokens, `fraction` of the work.
    pub fn show(&mut self, done: usize, total: usize, fraction: f64, seconds_left: Option<f64>) {
        // What ends before anything was shown needs no bar.
        if self.bar.is_none() && done == total {
            return;
        }
        if self.bar.is_none() {
            self.end_line();
        }
        let bar = self
            .bar
            .get_or_insert_with(|| ProgressBar::new(STEPS).with_style(self.style.clone()));
        bar.set_position((fraction * STEPS as f64) as u64);
        bar.set_message(message(done, total, seconds_left));
    }

    /// Takes the bar away.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// `text` of the answer has been printed.
    pub fn printed(&mut self, text: &str) {
        if let Some(last) = text.chars().next_back() {
            self.is_line_open = last != '\n';
        }
    }

    /// Has the next line on standard error begin at the left where both streams meet in a
    /// terminal: a bar would otherwise take the answer's last line away.
    pub fn end_line(&mut self) {
        if self.is_line_open && io::stdout().is_terminal() && io::stderr().is_terminal() {
            let _ = writeln!(io::stderr());
        }
        self.is_line_open = false;
    }
}

impl Drop for PromptBar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn message(done: usize, total: usize, seconds_left: Option<f64>) -> String {
    let left = seconds_left.map_or(String::new(), |seconds| {
        let whole = Duration::from_secs(seconds.ceil().max(1.0) as u64);
        format!(", {:#} left", HumanDuration(whole))
    });
    format!("{done} of {total} prompt tokens{left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_said_once_it_is_known() {
        assert_eq!(message(3, 40, None), "3 of 40 prompt tokens");
        assert_eq!(message(3, 40, Some(0.2)), "3 of 40 prompt tokens, 1s left");
        assert_eq!(
            message(3, 40, Some(51.2)),
            "3 of 40 prompt tokens, 52s left"
        );
    }
}
