//! Values from a TOML file, each with its line.

use std::path::Path;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Fault, Given, KEYS, Origin, keys, nearest, tokens};
use crate::auth::StaticToken;

/// The key of the tables of tokens.
pub(super) const TOKEN: &str = "token";

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) values: Vec<Given>,
    pub(super) tokens: Vec<StaticToken>,
}

/// Reads a file; what is wrong with it goes to `faults`.
pub(super) fn read(path: &Path, faults: &mut Vec<Fault>) -> Contents {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            faults.push(Fault::new(
                path.display(),
                format!("cannot read it: {error}"),
            ));
            return Contents::default();
        }
    };
    let places = Places { path, text: &text };
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        let problem = format!("it is no TOML: {}", error.message());
        faults.push(Fault::new(places.at(offset), problem));
    }
    let mut contents = Contents::default();
    for (name, value) in table.get_ref() {
        let place = places.at(name.span().start);
        if name.get_ref() == TOKEN {
            contents
                .tokens
                .extend(tokens::read_tables(value, &places, faults));
            continue;
        }
        let Some(key) = keys::find(name.get_ref()) else {
            faults.push(unknown(&place, name.get_ref()));
            continue;
        };
        match scalar(value) {
            Some(text) => contents.values.push(Given {
                key,
                text,
                origin: place,
            }),
            None => faults.push(Fault::new(
                place,
                format!(
                    "{}: it cannot be of type {}",
                    key.name,
                    value.get_ref().type_str()
                ),
            )),
        }
    }
    contents
}

/// A value as people write it.
fn scalar(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Integer(_) => None,
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(is_so) => Some(is_so.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn unknown(place: &Origin, name: &str) -> Fault {
    let known = KEYS.iter().map(|key| key.name).chain([TOKEN]);
    match nearest(name, known) {
        Some(meant) => Fault::new(
            place,
            format!("there is no key {name:?}; is {meant} meant?"),
        ),
        None => Fault::new(place, format!("there is no key {name:?}")),
    }
}

/// Lines of a file.
pub(super) struct Places<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Places<'_> {
    /// The line of a byte, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    pub(super) fn at(&self, offset: usize) -> Origin {
        Origin::File {
            path: self.path.to_owned(),
            line: self.line(offset),
        }
    }
}
