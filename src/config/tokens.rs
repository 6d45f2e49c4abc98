//! Tokens as files hold them: a name, the SHA-256 of the token, a role.

use std::path::Path;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Fault, Faults,
    file::{Places, TOKEN},
    nearest,
};
use crate::auth::{Role, StaticToken};

const FIELDS: [&str; 3] = ["name", "sha256", "role"];

/// Reads a file that holds nothing but `[[token]]` tables.
///
/// # Errors
/// All that is wrong with it.
pub fn read_tokens(path: &Path) -> Result<Vec<StaticToken>, Faults> {
    let mut faults = Vec::new();
    let mut tokens = Vec::new();
    match std::fs::read_to_string(path) {
        Err(error) => faults.push(Fault::new(
            path.display(),
            format!("cannot read it: {error}"),
        )),
        Ok(text) => {
            let places = Places { path, text: &text };
            let (table, errors) = DeTable::parse_recoverable(&text);
            for error in errors {
                let offset = error.span().map_or(0, |span| span.start);
                let problem = format!("it is no TOML: {}", error.message());
                faults.push(Fault::new(places.at(offset), problem));
            }
            for (name, value) in table.get_ref() {
                if name.get_ref() == TOKEN {
                    tokens.extend(read_tables(value, &places, &mut faults));
                } else {
                    let problem =
                        format!("{:?}: a tokens file holds [[token]] alone", name.get_ref());
                    faults.push(Fault::new(places.at(name.span().start), problem));
                }
            }
        }
    }
    if faults.is_empty() {
        Ok(tokens)
    } else {
        Err(Faults(faults))
    }
}

/// The tokens of `[[token]]`; what is wrong with them goes to `faults`. No message holds a hash.
pub(super) fn read_tables(
    value: &Spanned<DeValue<'_>>,
    places: &Places<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<StaticToken> {
    let Some(array) = value.get_ref().as_array() else {
        let place = places.at(value.span().start);
        faults.push(Fault::new(place, "tokens are written as [[token]]"));
        return Vec::new();
    };
    let mut tokens: Vec<StaticToken> = Vec::new();
    for one in array.iter() {
        let place = places.at(one.span().start);
        let Some(table) = one.get_ref().as_table() else {
            faults.push(Fault::new(place, "tokens are written as [[token]]"));
            continue;
        };
        for name in table
            .keys()
            .filter(|name| !FIELDS.contains(&name.get_ref().as_ref()))
        {
            let problem = match nearest(name.get_ref(), FIELDS.into_iter()) {
                Some(meant) => format!("a token has no {:?}; is {meant} meant?", name.get_ref()),
                None => format!("a token has no {:?}", name.get_ref()),
            };
            faults.push(Fault::new(places.at(name.span().start), problem));
        }
        match token(table, places.line(one.span().start)) {
            Err(problem) => faults.push(Fault::new(place, problem)),
            Ok(token) => match doubled(&tokens, &token) {
                Some(problem) => faults.push(Fault::new(place, problem)),
                None => tokens.push(token),
            },
        }
    }
    tokens
}

/// What `token` has in common with another one, if anything that it may not.
fn doubled(tokens: &[StaticToken], token: &StaticToken) -> Option<String> {
    let mut others = tokens.iter();
    let other = others.find(|other| other.name == token.name || other.sha256 == token.sha256)?;
    Some(if other.name == token.name {
        format!("token {:?} is there twice: line {}", token.name, other.line)
    } else {
        format!(
            "tokens {:?} and {:?} (line {}) have the same sha256: a token has one name and one role",
            token.name, other.name, other.line
        )
    })
}

fn token(table: &DeTable<'_>, line: usize) -> Result<StaticToken, String> {
    let field = |name: &str| {
        let value = table.get(name).and_then(|value| value.get_ref().as_str());
        value.ok_or_else(|| format!("a token needs a {name}"))
    };
    let name = field("name")?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
        return Err(format!(
            "{name:?} is no name of a token: 1 to 64 letters, digits, '-', '_' and '.'"
        ));
    }
    let sha256 = digest(field("sha256")?).ok_or_else(|| {
        format!("token {name:?}: sha256 must be 64 hexadecimal digits, as `hindcast token new` prints them")
    })?;
    let role = field("role")?;
    let role = role.parse::<Role>().map_err(|()| {
        let roles = Role::ALL.map(Role::name).join(", ");
        format!("token {name:?}: {role:?} is none of {roles}")
    })?;
    Ok(StaticToken {
        name: name.to_owned(),
        sha256,
        role,
        line,
    })
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}
