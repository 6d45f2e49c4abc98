//! Where a transform writes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What separates the columns of a key in an entity's id.
pub const KEY_SEPARATOR: char = '/';

/// What a transform alone writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Output {
    /// An Iceberg table of this name: a partition's rows replace those that it had.
    #[serde(rename = "output_table")]
    Table(String),
    /// An entity type: a partition's rows are all that there is of it over the partition.
    #[serde(rename = "output_entity")]
    Entities(EntityOutput),
}

/// An entity type that a transform writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EntityOutput {
    /// Its name.
    pub entity_type: String,
    /// The columns that an entity's id is made of: that of one column, or those of several with [`KEY_SEPARATOR`] between
    /// them. Never empty.
    pub key: Vec<String>,
}

impl Output {
    /// The table, if it is one.
    pub fn table(&self) -> Option<&str> {
        match self {
            Self::Table(name) => Some(name),
            Self::Entities(_) => None,
        }
    }

    /// The entity type and its key, if it is one.
    pub fn entities(&self) -> Option<&EntityOutput> {
        match self {
            Self::Table(_) => None,
            Self::Entities(output) => Some(output),
        }
    }

    /// Whether both write the same table or entity type, whatever the key.
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Table(name), Self::Table(other)) => name == other,
            (Self::Entities(output), Self::Entities(other)) => {
                output.entity_type == other.entity_type
            }
            (Self::Table(_), Self::Entities(_)) | (Self::Entities(_), Self::Table(_)) => false,
        }
    }
}

/// For sentences: `table "totals"`, `entity type "totals"`.
impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(name) => write!(f, "table {name:?}"),
            Self::Entities(output) => write!(f, "entity type {:?}", output.entity_type),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder {
        before: u32,
        #[serde(flatten)]
        output: Output,
        after: Option<u32>,
    }

    #[test]
    fn a_table_is_stored_as_it_was_before_there_were_others() {
        let text = r#"{"before":1,"output_table":"t","after":null}"#;
        let holder: Holder = serde_json::from_str(text).expect("reads");
        assert_eq!(holder.output, Output::Table("t".to_owned()));
        assert_eq!(serde_json::to_string(&holder).expect("writes"), text);

        let text = r#"{"before":1,"output_entity":{"entity_type":"e","key":["a","b"]},"after":2}"#;
        let holder: Holder = serde_json::from_str(text).expect("reads");
        assert_eq!(holder.output.entities().map(|it| it.key.len()), Some(2));
        assert_eq!(serde_json::to_string(&holder).expect("writes"), text);
    }
}
