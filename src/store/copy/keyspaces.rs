//! What each keyspace of the data folder is to a backup.

use super::{Error, Result};
use crate::kv::{Database, Keyspace};

/// How often a value that is being overwritten is read again.
const TORN_TRIES: u32 = 100;
/// How long to wait in between.
const TORN_PAUSE: std::time::Duration = std::time::Duration::from_millis(1);

/// How a copied keyspace holds its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Large,
}

/// What a keyspace is to a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The commit log: copied up to the basis.
    Log,
    /// The entity types: copied as they stand between two commits.
    Types,
    /// Follows from the log, the floor apart, which the backup names by itself.
    Derived,
    /// Copied as it is when it is read.
    Copied(Form),
}

/// Copied keyspaces, in the order in which they are read while the server goes on: what names something comes before what
/// it names. A backfill's record is read before its events, so that no record is without them; these before what the
/// partitions that they tell of were made from; all before the tables' pointers, which may be ahead of the journal (as after
/// a crash between the two) but never behind.
pub(super) const COPIED: [(&str, Form); 6] = [
    ("backfills", Form::Large),
    ("backfill_events", Form::Plain),
    ("backfill_inputs", Form::Large),
    ("tables", Form::Plain),
    ("catalog", Form::Large),
    ("rate_limits", Form::Plain),
];

pub(super) const LOG: &str = "log";
pub(super) const TYPES: &str = "types";

/// Keyspaces that follow from the log; `redacted` holds records that are read as the log's.
const DERIVED: [&str; 9] = [
    "heads",
    "redacted",
    "roots",
    "pages",
    "rows",
    "requests",
    "request_times",
    "ingests",
    "ingest_times",
];
const META: &str = "meta";

/// What the keyspace of this name is; `None`: nobody has said.
pub(super) fn role(name: &str) -> Option<Role> {
    match name {
        LOG => Some(Role::Log),
        TYPES => Some(Role::Types),
        META => Some(Role::Derived),
        _ if DERIVED.contains(&name) => Some(Role::Derived),
        _ => COPIED
            .iter()
            .find(|(copied, _)| *copied == name)
            .map(|(_, form)| Role::Copied(*form)),
    }
}

/// Refuses to copy a database with a keyspace that nobody has classified: it would be missing from the copy.
pub(super) fn check_all_known(database: &Database) -> Result<()> {
    match database
        .keyspace_names()
        .into_iter()
        .find(|name| role(name).is_none())
    {
        None => Ok(()),
        Some(name) => Err(Error::UnknownKeyspace { name }),
    }
}

/// Hands every value of a copied keyspace to `each`, by key. Values that are overwritten meanwhile come whole, as they were
/// before or after.
pub(super) fn each_value(
    keyspace: &Keyspace,
    form: Form,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    match form {
        Form::Plain => {
            for entry in keyspace.prefix(&[]) {
                let (key, value) = entry?;
                each(&key, &value)?;
            }
        }
        Form::Large => {
            for key in keyspace.large_keys() {
                let key = key?;
                let value = untorn(|| Ok(keyspace.get_large(&key)?))?;
                if let Some(value) = value {
                    each(&key, &value)?;
                }
            }
        }
    }
    Ok(())
}

/// Puts a value back.
pub(super) fn put_value(keyspace: &Keyspace, form: Form, key: &[u8], value: &[u8]) -> Result<()> {
    match form {
        Form::Plain => keyspace.insert(key, value)?,
        Form::Large => keyspace.insert_large(key, value)?,
    }
    Ok(())
}

/// Reads a value of several parts again while it looks damaged: someone may be between two of its parts.
pub(super) fn untorn<T>(mut read: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..TORN_TRIES {
        match read() {
            Err(error) if error.may_be_torn() => std::thread::sleep(TORN_PAUSE),
            outcome => return outcome,
        }
    }
    read()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kv, store::Store, time::ManualClock};

    #[test]
    fn every_keyspace_of_the_store_has_a_role() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = kv::Database::open(folder.path(), 1 << 20).expect("opens");
        let store = Store::open(&database, ManualClock::starting_at(0)).expect("opens");
        check_all_known(&database).expect("all known");
        database.keyspace("novel").expect("keyspace");
        let refused = check_all_known(&database).expect_err("unknown");
        assert!(refused.to_string().contains("novel"), "{refused}");
        store.close();
    }
}
