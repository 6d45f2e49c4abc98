//! Progress bars, on standard error where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output;

/// How often a bar moves by itself.
const TICK: Duration = Duration::from_millis(100);

/// A bar over commits, with a message.
pub(crate) fn commits() -> ProgressBar {
    bar(
        "   [{bar:28.cyan/dim}] {human_pos} of {human_len} commits, {msg}",
        0,
    )
}

/// A bar over the bytes of a file, with a message.
pub(crate) fn bytes(length: u64) -> ProgressBar {
    bar(
        "   [{bar:28.cyan/dim}] {bytes} of {total_bytes} {msg}",
        length,
    )
}

/// Only a message, for work of unknown length.
pub(crate) fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(TICK);
    spinner
}

fn bar(template: &str, length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    bar.set_style(
        ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars(output::BAR_CHARS),
    );
    bar.enable_steady_tick(TICK);
    bar
}
