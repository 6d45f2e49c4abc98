//! How the quickstart talks: numbered steps, short sentences, what they took.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    cli::{error::Error, output, style::Style, times},
    time::Clock,
};

/// What is still pleasant to read, characters per line.
const MAX_WIDTH: usize = 90;
/// Characters before each line of a step.
const INDENT: usize = 3;

/// The teller. Writes to standard output.
pub(super) struct Story {
    clock: Arc<dyn Clock>,
    style: Style,
    started_micros: i64,
    step_count: u32,
}

impl Story {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let started_micros = clock.monotonic_micros();
        Self {
            clock,
            style: Style::stdout(),
            started_micros,
            step_count: 0,
        }
    }

    /// The first line.
    pub(super) fn title(&self, text: &str) -> Result<(), Error> {
        output::line(self.style.bold(text))
    }

    /// Begins the next step.
    pub(super) fn step(&mut self, text: &str) -> Result<(), Error> {
        self.step_count += 1;
        output::line(format!(
            "\n{}",
            self.style.bold(&format!("{}. {text}", self.step_count))
        ))
    }

    /// What happens, and why; wrapped to the terminal.
    pub(super) fn say(&self, text: &str) -> Result<(), Error> {
        let width = output::terminal_width().map_or(MAX_WIDTH, usize::from);
        wrap(text, width.min(MAX_WIDTH).saturating_sub(INDENT))
            .iter()
            .try_for_each(|line| output::line(format!("   {}", self.style.dim(line))))
    }

    /// What came of it.
    pub(super) fn show(&self, text: &str) -> Result<(), Error> {
        text.lines()
            .try_for_each(|line| output::line(format!("   {line}")))
    }

    /// Something to type.
    pub(super) fn command(&self, command: &str, effect: &str) -> Result<(), Error> {
        output::line(format!("   {}", self.style.dim(&format!("# {effect}"))))?;
        output::line(format!("   {command}"))
    }

    /// A claim that was just checked.
    pub(super) fn proven(&self, text: &str) -> Result<(), Error> {
        output::line(format!("   {} {text}", self.style.green("✓")))
    }

    /// The last line.
    pub(super) fn close(&self) -> Result<(), Error> {
        output::line(format!(
            "\n{}",
            self.style
                .bold(&format!("Done in {}.", self.since(self.started_micros)))
        ))
    }

    /// A mark for [`Story::since`].
    pub(super) fn now(&self) -> i64 {
        self.clock.monotonic_micros()
    }

    /// Time since the mark, for people.
    pub(super) fn since(&self, mark_micros: i64) -> String {
        let micros = u64::try_from(self.now() - mark_micros).unwrap_or(0);
        times::show_duration(Duration::from_micros(micros))
    }
}

/// Lines of whole words, each of `width` characters at most unless a word is longer.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A path as one would type it here.
pub(super) fn short_path(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here
        .as_deref()
        .and_then(|here| path.strip_prefix(here).ok());
    relative.unwrap_or(path).display().to_string()
}

/// This program as one would type it here.
pub(super) fn program() -> String {
    std::env::args().next().map_or_else(
        || "hindcast".to_owned(),
        |name| short_path(Path::new(&name)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole() {
        assert_eq!(
            wrap("as the world was known", 12),
            ["as the world", "was known"]
        );
        assert_eq!(wrap("unbreakable word", 4), ["unbreakable", "word"]);
    }
}
