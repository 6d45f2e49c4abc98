//! Removes what an interrupted start of sled left behind.
//!
//! sled 0.34.7 writes a snapshot of its page table to `snap.<n>.generating` when it opens a folder, syncs it and renames it.
//! If the process dies or the power goes before the rename, the next start takes the unfinished file for the newest
//! snapshot (the filter that should skip it looks for another ending) and refuses the folder as corrupt, for good. The
//! file is only ever a copy of what the log holds, so it can go.

use std::{fs::File, io, path::Path};

const PREFIX: &str = "snap.";
const UNFINISHED: &str = ".generating";
/// sled's main file, which it locks.
const MAIN_FILE: &str = "db";

/// Removes unfinished snapshots, unless someone has the folder open.
pub(super) fn remove_unfinished_snapshots(folder: &Path) -> io::Result<()> {
    let mut unfinished = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(UNFINISHED) {
            unfinished.push(entry.path());
        }
    }
    if unfinished.is_empty() {
        return Ok(());
    }
    // Whoever holds the lock may be writing that very file. The lock is let go when this returns: sled takes its own.
    let lock = match File::open(folder.join(MAIN_FILE)) {
        Ok(file) if file.try_lock().is_ok() => Some(file),
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    for path in unfinished {
        tracing::warn!(path = %path.display(), "an earlier start was interrupted: its unfinished snapshot is removed");
        std::fs::remove_file(path)?;
    }
    drop(lock);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::kv::Database;

    #[test]
    fn a_start_that_was_interrupted_does_not_damage_the_folder() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for round in 0..3u8 {
            let database = Database::open(folder.path(), 1 << 20).expect("opens");
            let keyspace = database.keyspace("k").expect("keyspace");
            assert_eq!(keyspace.prefix(b"").count(), usize::from(round));
            keyspace.insert(&[round], b"v").expect("insert");
            database.flush().expect("flush");
            drop((keyspace, database));
            let unfinished = folder.path().join("snap.00000000FFFFFFFF.generating");
            std::fs::write(unfinished, [round; 20]).expect("written");
        }
    }
}
