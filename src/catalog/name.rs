//! Names of sources, transforms, entity types and tables: all of them are table names in SQL.

use crate::error::Violation;

/// The longest name.
pub const MAX_NAME_BYTES: usize = 64;

/// Checks that `name` is `[a-z_][a-z0-9_]*` and at most [`MAX_NAME_BYTES`] long; `field` is where it stands in the request.
///
/// # Errors
/// A violation of `field` that says what a name looks like.
pub fn check_name(field: &str, name: &str) -> Result<(), Violation> {
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let goes_on_well = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if starts_well && goes_on_well && name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    Err(Violation::new(
        field,
        format!(
            "{name:?} is not a name: lowercase letters, digits and _ (no digit first), 1 to {MAX_NAME_BYTES} bytes, as in flights_2013"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_every_rule() {
        for good in ["a", "_", "flights_2013", &"a".repeat(MAX_NAME_BYTES)] {
            assert!(check_name("name", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "1a",
            "A",
            "a-b",
            "a b",
            "é",
            "../x",
            &"a".repeat(MAX_NAME_BYTES + 1),
        ] {
            assert!(check_name("name", bad).is_err(), "{bad}");
        }
    }
}
