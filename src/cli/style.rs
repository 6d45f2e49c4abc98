//! A little colour, only where a terminal shows it and `NO_COLOR` is unset.

use std::io::IsTerminal;

/// Whether standard output shows colour.
pub(crate) fn stdout_styled() -> bool {
    std::io::stdout().is_terminal() && wanted()
}

/// Whether standard error shows colour.
pub(crate) fn stderr_styled() -> bool {
    std::io::stderr().is_terminal() && wanted()
}

fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// ANSI sequences for one stream, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    styled: bool,
}

impl Style {
    /// For standard output.
    pub(crate) fn stdout() -> Self {
        Self {
            styled: stdout_styled(),
        }
    }

    /// For standard error.
    pub(crate) fn stderr() -> Self {
        Self {
            styled: stderr_styled(),
        }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.styled {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Bold.
    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// Faint.
    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// Good.
    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Bad.
    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// Odd.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }
}
