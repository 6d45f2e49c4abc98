//! Standard output: tables for people, JSON for machines.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets,
};
use serde::Serialize;

use super::{
    error::Error,
    json::{Json, ToJson},
    style,
};

/// What progress bars are drawn with.
pub(crate) const BAR_CHARS: &str = "━━─";

/// Who reads the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// People: aligned columns, short texts.
    #[default]
    Table,
    /// Machines: JSON with the protos' field names; lists that stream are one object per line.
    Json,
}

/// Writes one line.
///
/// # Errors
/// Standard output cannot be written, a closed pipe included.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", text.as_ref())?;
    Ok(stdout.flush()?)
}

/// Writes one message as an indented JSON document.
pub(crate) fn json<T: ToJson>(message: &T) -> Result<(), Error> {
    line(serde_json::to_string_pretty(&Json(message)).map_err(io::Error::from)?)
}

/// Writes one message as one line of JSON.
pub(crate) fn json_line<T: ToJson>(message: &T) -> Result<(), Error> {
    json_value_line(&Json(message))
}

/// Writes anything as one line of JSON.
pub(crate) fn json_value_line<T: Serialize>(value: &T) -> Result<(), Error> {
    line(serde_json::to_string(value).map_err(io::Error::from)?)
}

/// Between columns.
const PADDING: u16 = 1;
/// What ends a styled cell.
const STYLE_END: &str = "\x1b[0m";
/// The least that a column that wraps is worth; with less than this left, lines run over instead.
const MIN_WRAPPED_WIDTH: u16 = 16;

/// A table of plain columns.
pub(crate) struct Columns {
    table: Table,
    styled: bool,
    /// The column that gives way where the terminal is too narrow.
    wrapped: Option<usize>,
}

impl Columns {
    /// An empty table; `>` before a heading aligns its column to the right, and the column of a heading after `~` wraps
    /// where the terminal is too narrow. No other column ever wraps: names and times stay whole, to be copied.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let styled = style::stdout_styled();
        if !styled {
            table.force_no_tty();
        }
        table.set_header(headings.iter().map(|heading| {
            let cell = Cell::new(heading.trim_start_matches(['>', '~']).to_uppercase());
            if styled {
                cell.add_attribute(Attribute::Dim)
            } else {
                cell
            }
        }));
        for (index, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, PADDING));
                if heading.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        let wrapped = headings.iter().position(|heading| heading.starts_with('~'));
        Self {
            table,
            styled,
            wrapped,
        }
    }

    /// Adds a row.
    pub(crate) fn row<I: IntoIterator<Item = Field>>(&mut self, fields: I) {
        let styled = self.styled;
        self.table
            .add_row(fields.into_iter().map(|field| field.into_cell(styled)));
    }

    /// Writes the table, or `empty` if it has no rows.
    pub(crate) fn print(mut self, empty: &str) -> Result<(), Error> {
        if self.table.is_empty() {
            return line(empty);
        }
        self.fit();
        self.table.lines().try_for_each(|text| line(trimmed(&text)))
    }

    /// Wraps the column that may wrap, if that makes the table fit the terminal.
    fn fit(&mut self) {
        let (Some(wrapped), Some(terminal_width)) = (self.wrapped, terminal_width()) else {
            return;
        };
        let others: u16 = self
            .table
            .column_max_content_widths()
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != wrapped)
            .map(|(_, width)| width.saturating_add(PADDING))
            .sum();
        if terminal_width.saturating_sub(others) < MIN_WRAPPED_WIDTH {
            return;
        }
        self.table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(terminal_width);
        for (index, column) in self.table.column_iter_mut().enumerate() {
            if index != wrapped {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
    }
}

/// A table's line without the blanks that fill its last cell, which a narrow terminal would show as a line of their own.
fn trimmed(line: &str) -> String {
    let line = line.trim_end();
    match line.strip_suffix(STYLE_END) {
        Some(styled) => format!("{}{STYLE_END}", styled.trim_end()),
        None => line.to_owned(),
    }
}

/// One cell.
pub(crate) struct Field {
    text: String,
    color: Option<Color>,
}

impl Field {
    fn into_cell(self, styled: bool) -> Cell {
        let cell = Cell::new(self.text);
        match self.color {
            Some(color) if styled => cell.fg(color),
            _ => cell,
        }
    }

    /// A state's short name, as filters take it, in its colour.
    pub(crate) fn state(name: &str) -> Self {
        let color = match name {
            "SUCCEEDED" => Some(Color::Green),
            "FAILED" | "UPSTREAM_FAILED" => Some(Color::Red),
            "PARTIALLY_SUCCEEDED" | "WAITING_RETRY" | "CANCELLED" | "CANCELLING" => {
                Some(Color::Yellow)
            }
            "RUNNING" => Some(Color::Cyan),
            _ => None,
        };
        Self {
            text: name.to_lowercase().replace('_', "-"),
            color,
        }
    }
}

impl<T: Into<String>> From<T> for Field {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            color: None,
        }
    }
}

/// A row of [`Columns`] from anything that is a [`Field`].
macro_rules! row {
    ($($field:expr),+ $(,)?) => { [$($crate::cli::output::Field::from($field)),+] };
}
pub(crate) use row;

/// The terminal's width in columns; `None` where standard output is none.
pub(crate) fn terminal_width() -> Option<u16> {
    Table::new().width().filter(|width| *width > 0)
}

/// A `file://` address as a path.
pub(crate) fn local_path(address: &str) -> &str {
    address.strip_prefix("file://").unwrap_or(address)
}

/// A page of `name  value` lines about one thing; empty values are left out.
pub(crate) fn facts(facts: &[(&str, String)]) -> Result<(), Error> {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let style = style::Style::stdout();
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        line(format!("{}  {value}", style.dim(&format!("{name:width$}"))))?;
    }
    Ok(())
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// Bytes as lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `1 partition`, `2 partitions`, `3 entities`.
pub(crate) fn counted(number: u64, singular: &str) -> String {
    match (number, singular.strip_suffix('y')) {
        (1, _) => format!("1 {singular}"),
        (_, Some(stem)) => format!("{} {stem}ies", count(number)),
        (_, None) => format!("{} {singular}s", count(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_their_text() {
        assert_eq!(trimmed("a  b   "), "a  b");
        assert_eq!(trimmed("\x1b[2mNAME   \x1b[0m "), "\x1b[2mNAME\x1b[0m");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(336_776), "336,776");
        assert_eq!(counted(1, "partition"), "1 partition");
        assert_eq!(counted(0, "entity"), "0 entities");
        assert_eq!(counted(1_234, "row"), "1,234 rows");
    }
}
