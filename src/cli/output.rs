//! Standard output: tables for people, JSON for machines.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::{
    error::Error,
    json::{Json, ToJson},
    style,
};

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

/// A table of plain columns.
pub(crate) struct Columns {
    table: Table,
    styled: bool,
}

impl Columns {
    /// An empty table; `>` before a heading aligns its column to the right.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let styled = style::stdout_styled();
        if io::stdout().is_terminal() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        if !styled {
            table.force_no_tty();
        }
        table.set_header(headings.iter().map(|heading| {
            let cell = Cell::new(heading.trim_start_matches('>').to_uppercase());
            if styled {
                cell.add_attribute(Attribute::Dim)
            } else {
                cell
            }
        }));
        for (index, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 1));
                if heading.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self { table, styled }
    }

    /// Adds a row.
    pub(crate) fn row<I: IntoIterator<Item = Field>>(&mut self, fields: I) {
        let styled = self.styled;
        self.table
            .add_row(fields.into_iter().map(|field| field.into_cell(styled)));
    }

    /// Writes the table, or `empty` if it has no rows.
    pub(crate) fn print(&self, empty: &str) -> Result<(), Error> {
        if self.table.is_empty() {
            return line(empty);
        }
        line(self.table.trim_fmt())
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

    /// A state's short name in its colour.
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
            text: name.to_owned(),
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
    fn numbers_read_well() {
        assert_eq!(count(336_776), "336,776");
        assert_eq!(counted(1, "partition"), "1 partition");
        assert_eq!(counted(0, "entity"), "0 entities");
        assert_eq!(counted(1_234, "row"), "1,234 rows");
    }
}
