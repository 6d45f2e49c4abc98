//! What is neither log nor pages.

use super::{CheckReport, DERIVE, Progress, RESTORE, Result, describe, step};
use crate::{
    kv::{Database, Keyspace},
    store::{
        copy::keyspaces::{COPIED, Form},
        keys, marks,
    },
};

/// Keyspaces whose values are marks.
const MARKS: [(&str, &str); 3] = [("meta", RESTORE), ("requests", DERIVE), ("ingests", DERIVE)];
/// Keyspaces whose keys have a time and a name.
const TIMES: [&str; 2] = ["request_times", "ingest_times"];
/// The keyspace whose keys end in a dense sequence number.
const EVENTS: &str = "backfill_events";
const SEQUENCE_BYTES: usize = 8;

/// Checks the marks of the store.
pub(super) fn marks(database: &Database, report: &mut CheckReport) -> Result<()> {
    for (name, remedy) in MARKS {
        for entry in database.keyspace(name)?.prefix(&[]) {
            let (key, value) = entry?;
            report.other_values += 1;
            if let Err(malformed) = marks::verify(&value) {
                let what = format!("{}: {}", key.escape_ascii(), malformed.0);
                report.add(name, what, remedy);
            }
        }
    }
    for name in TIMES {
        for entry in database.keyspace(name)?.prefix(&[]) {
            let (key, _) = entry?;
            report.other_values += 1;
            if keys::parse_request_time_key(&key).is_none() {
                let what = format!("key {} has no time", key.escape_ascii());
                report.add(name, what, DERIVE);
            }
        }
    }
    Ok(())
}

/// Checks the keyspaces of others.
pub(super) fn walk(
    database: &Database,
    report: &mut CheckReport,
    progress: Progress<'_>,
) -> Result<()> {
    for (name, form) in COPIED {
        let keyspace = database.keyspace(name)?;
        match form {
            Form::Large => large(&keyspace, name, report, progress)?,
            Form::Plain => plain(&keyspace, name, report, progress)?,
        }
    }
    Ok(())
}

fn large(
    keyspace: &Keyspace,
    name: &str,
    report: &mut CheckReport,
    progress: Progress<'_>,
) -> Result<()> {
    for key in keyspace.large_keys() {
        let key = key?;
        report.other_values += 1;
        step(progress, "other values", report.other_values);
        if let Err(error) = keyspace.get_large(&key) {
            report.add(name, describe(error)?, RESTORE);
        }
    }
    Ok(())
}

/// Small values have no checksum of their own: that they are JSON is all that can be told.
fn plain(
    keyspace: &Keyspace,
    name: &str,
    report: &mut CheckReport,
    progress: Progress<'_>,
) -> Result<()> {
    let mut before: Option<(Vec<u8>, u64)> = None;
    for entry in keyspace.prefix(&[]) {
        let (key, value) = entry?;
        report.other_values += 1;
        step(progress, "other values", report.other_values);
        // Some have a format byte in front.
        let json = value.strip_prefix(&[1]).unwrap_or(&value);
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(json) {
            let what = format!("{}: {error}", key.escape_ascii());
            report.add(name, what, RESTORE);
        }
        if name == EVENTS {
            before = sequence_after(&key, before, report);
        }
    }
    Ok(())
}

/// Checks that an event's sequence follows that of the event before, of the same backfill.
fn sequence_after(
    key: &[u8],
    before: Option<(Vec<u8>, u64)>,
    report: &mut CheckReport,
) -> Option<(Vec<u8>, u64)> {
    let Some((backfill, sequence)) = key.split_last_chunk::<SEQUENCE_BYTES>() else {
        let what = format!("key {} has no sequence", key.escape_ascii());
        report.add(EVENTS, what, RESTORE);
        return None;
    };
    let sequence = u64::from_be_bytes(*sequence);
    let due = match before {
        Some((same, last)) if same == backfill => last + 1,
        _ => 1,
    };
    if sequence != due {
        let what = format!(
            "{}: event {due} is missing before {sequence}",
            backfill.escape_ascii()
        );
        report.add(EVENTS, what, RESTORE);
    }
    Some((backfill.to_vec(), sequence))
}
