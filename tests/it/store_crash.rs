//! What survives, and what is told, when the process or the disk fails.

use hindcast::{
    error::{Classify, ErrorKind},
    kv::{Database, Entry},
    store::{Answer, Error, Store, Until},
    time::{ManualClock, SysTime, ValidTime},
};

use crate::store_support::{Rig, open_database, put, text, until};

fn entries(database: &Database, keyspace: &str) -> Vec<Entry> {
    database
        .keyspace(keyspace)
        .expect("keyspace")
        .prefix(&[])
        .collect::<Result<_, _>>()
        .expect("reads")
}

/// A store with entities of one page, of a tree, and with earlier roots.
fn filled() -> Rig {
    let rig = Rig::new();
    for round in 0..120i64 {
        let long = format!("{round:0>200}");
        rig.write_at(
            1_000 + round,
            vec![
                put("small", Some("x"), round % 3, Until::NextChange),
                put(
                    "spread",
                    Some(&long),
                    round * 7 % 120,
                    until(round * 7 % 120 + 1),
                ),
                put("same", Some(&long), 0, until(10)),
            ],
        )
        .expect("written");
    }
    rig
}

#[test]
fn replay_from_an_older_checkpoint_gives_equal_pages() {
    let mut rig = filled();
    let read =
        |rig: &Rig| ["heads", "pages", "roots"].map(|keyspace| entries(rig.database(), keyspace));
    let before = read(&rig);
    assert!(before[1].len() > 5, "there are pages");
    for older in [119u8, 60] {
        rig.shut();
        {
            let database = open_database(rig.folder.path()).expect("opens");
            let mut checkpoint = vec![1, older];
            let checksum = crc32fast::hash(&checkpoint);
            checkpoint.extend_from_slice(&checksum.to_be_bytes());
            database
                .keyspace("meta")
                .expect("keyspace")
                .insert(b"checkpoint", &checkpoint)
                .expect("insert");
            database.flush().expect("flush");
        }
        rig.reopen().expect("opens");
        assert_eq!(read(&rig), before, "from {older}");
    }
}

#[test]
fn pages_lost_since_the_checkpoint_come_back_from_the_log() {
    let mut rig = filled();
    let before = entries(rig.database(), "heads");
    let pages_before = entries(rig.database(), "pages");
    let histories: Vec<_> = ["small", "spread", "same"]
        .map(|id| rig.history(id, 1_119))
        .into();
    rig.shut();
    {
        let database = open_database(rig.folder.path()).expect("opens");
        for keyspace in ["heads", "pages", "roots", "rows"] {
            let keyspace = database.keyspace(keyspace).expect("keyspace");
            for (key, _) in keyspace
                .prefix(&[])
                .collect::<Result<Vec<_>, _>>()
                .expect("reads")
            {
                keyspace.remove(&key).expect("remove");
            }
        }
        database
            .keyspace("meta")
            .expect("keyspace")
            .remove(b"checkpoint")
            .expect("remove");
        database.flush().expect("flush");
    }
    rig.reopen().expect("opens");
    assert_eq!(entries(rig.database(), "heads"), before);
    assert_eq!(entries(rig.database(), "pages"), pages_before);
    let again: Vec<_> = ["small", "spread", "same"]
        .map(|id| rig.history(id, 1_119))
        .into();
    assert_eq!(again, histories);
}

#[test]
fn a_damaged_page_is_data_loss_and_not_another_answer() {
    let rig = filled();
    for (keyspace, id, basis) in [
        ("heads", "small", 1_119),
        ("pages", "spread", 1_119),
        ("roots", "same", 1_003),
    ] {
        let basis = SysTime::from_micros(basis);
        let pages = rig.database().keyspace(keyspace).expect("keyspace");
        for (key, value) in entries(rig.database(), keyspace) {
            if !key.windows(id.len()).any(|window| window == id.as_bytes()) {
                continue;
            }
            let mut damaged = value.to_vec();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 1;
            pages.insert(&key, &damaged).expect("insert");
        }
        let answer = rig
            .store()
            .get(&rig.thing(), id, ValidTime::from_micros(1), basis);
        let error = answer.expect_err(id);
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{id}: {error}");
    }
}

#[test]
fn a_page_under_another_entitys_key_is_data_loss() {
    let rig = Rig::new();
    rig.write_at(
        1_000,
        vec![
            put("a", Some("x"), 0, Until::Forever),
            put("b", Some("y"), 0, Until::Forever),
        ],
    )
    .expect("written");
    let heads = rig.database().keyspace("heads").expect("keyspace");
    let found = entries(rig.database(), "heads");
    heads.insert(&found[0].0, &found[1].1).expect("insert");
    let answer = rig.store().get(
        &rig.thing(),
        "a",
        ValidTime::from_micros(1),
        SysTime::from_micros(1_000),
    );
    assert!(matches!(answer, Err(Error::Damaged { .. })));
}

#[test]
fn a_log_that_does_not_read_is_refused_when_opening() {
    let mut rig = filled();
    let log = rig.database().keyspace("log").expect("keyspace");
    let (key, value) = entries(rig.database(), "log").pop().expect("a record");
    let mut damaged = value.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    log.insert(&key, &damaged).expect("insert");
    drop(log);
    let error = rig.reopen().expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
}

#[test]
fn an_acknowledged_write_is_there_after_dropping_the_store() {
    let mut rig = Rig::new();
    for round in 0..20 {
        rig.write_at(
            1_000 + round,
            vec![put("a", Some(&round.to_string()), round, Until::NextChange)],
        )
        .expect("written");
        rig.reopen().expect("opens");
        let Answer::Value(version) = rig.get("a", round, 1_000 + round) else {
            panic!("a value");
        };
        assert_eq!(text(&version), round.to_string());
        assert_eq!(
            rig.store().latest_basis(),
            SysTime::from_micros(1_000 + round)
        );
    }
}

#[test]
fn a_closed_store_refuses_writes_and_still_reads() {
    let rig = Rig::new();
    rig.write_at(1_000, vec![put("a", Some("x"), 0, Until::Forever)])
        .expect("written");
    rig.store().close();
    let refused = rig.write(vec![put("a", Some("y"), 0, Until::Forever)]);
    assert!(matches!(refused, Err(Error::Closed)));
    assert!(matches!(rig.get("a", 0, 1_000), Answer::Value(_)));
}

const KEYSPACES: [&str; 8] = [
    "heads", "pages", "roots", "log", "types", "meta", "requests", "rows",
];

/// All keyspaces of a store.
fn snapshot(database: &Database) -> Vec<Vec<Entry>> {
    KEYSPACES
        .iter()
        .map(|keyspace| entries(database, keyspace))
        .collect()
}

/// What the second has that the first has not, or has otherwise.
fn changed(before: &[Entry], after: &[Entry]) -> Vec<Entry> {
    after
        .iter()
        .filter(|entry| !before.contains(entry))
        .cloned()
        .collect()
}

/// A crash between any two page writes of a commit that makes new pages: the log makes up for what is missing.
#[test]
fn a_commit_torn_between_its_pages_is_completed_from_the_log() {
    let rig = Rig::new();
    let mut torn = 0;
    let mut before = snapshot(rig.database());
    for round in 0..120i64 {
        let long = format!("{round:0>200}");
        let point = round * 7 % 120;
        rig.write_at(
            1_000 + round,
            vec![put("a", Some(&long), point, until(point + 1))],
        )
        .expect("written");
        let after = snapshot(rig.database());
        // The committer's order: rows, children before parents, the old root, the head.
        let mut writes = Vec::new();
        for place in [7, 1, 2, 0] {
            let entries = changed(&before[place], &after[place]);
            writes.extend(entries.into_iter().map(|entry| (KEYSPACES[place], entry)));
        }
        if writes.len() > 1 {
            for done in 0..=writes.len() {
                complete(&before, &after, &writes[..done]);
                torn += 1;
            }
        }
        before = after;
    }
    assert!(torn > 20, "{torn} torn commits");
}

/// Builds the folder that such a crash leaves, opens it, and compares.
fn complete(before: &[Vec<Entry>], after: &[Vec<Entry>], done: &[(&str, Entry)]) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let insert = |database: &Database, keyspace: &str, entry: &Entry| {
        let keyspace = database.keyspace(keyspace).expect("keyspace");
        keyspace.insert(&entry.0, &entry.1).expect("insert");
    };
    let database = open_database(folder.path()).expect("opens");
    for (keyspace, entries) in KEYSPACES.iter().zip(before) {
        entries
            .iter()
            .for_each(|entry| insert(&database, keyspace, entry));
    }
    after[3]
        .iter()
        .for_each(|entry| insert(&database, "log", entry));
    done.iter()
        .for_each(|(keyspace, entry)| insert(&database, keyspace, entry));
    let store = Store::open(&database, ManualClock::starting_at(0)).expect("opens");
    let found = snapshot(&database);
    assert!(found == after, "after {} page writes", done.len());
    store.close();
}
