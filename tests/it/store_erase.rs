//! What an erasure leaves: a mark, and none of what was said.

use std::path::Path;

use arrow::array::{Array, StringArray, TimestampMicrosecondArray};
use hindcast::{
    store::{
        Answer, ChangedState, Mutation, Operation, Step, Store, Until,
        copy::{self, DATABASE_FOLDER},
    },
    time::{ManualClock, SysTime},
};

use crate::store_support::{Rig, open_database, put, text, until};

/// Distinct enough to be found in a file by its bytes.
const SECRET: &str = "the-secret-of-0815";
/// Enough corrections for pages, earlier roots, and long rows outside of pages.
const CORRECTIONS: i64 = 300;
/// Enough rows for a snapshot to be made of them.
const MANY: usize = 20_000;

fn erase(id: &str) -> Mutation {
    Mutation {
        operation: Operation::Erase,
        valid_from: None,
        until: Until::default(),
        ..put(id, None, 0, Until::Forever)
    }
}

/// `secret` holds short and long values in many versions, beside `kept`, which was written by the same batches.
fn with_secrets() -> Rig {
    let rig = Rig::new();
    for round in 0..CORRECTIONS {
        let long = if round % 3 == 0 { 900 } else { 0 };
        let value = format!("{SECRET}-{round}-{}", "x".repeat(long));
        let from = round * 7 % 100;
        let mutations = vec![
            put("secret", Some(&value), from, until(from + 9)),
            put("kept", Some("to be kept"), round, until(round + 1)),
        ];
        rig.write_at(1_000 + round, mutations).expect("written");
    }
    rig
}

fn check(folder: &Path, scratch: &Path) {
    let database = open_database(folder).expect("opens");
    let report = copy::check(&database, Some(scratch), &mut |_| {}).expect("walks");
    assert_eq!(report.problems, []);
}

/// The files under a folder that hold the secret.
fn files_with_secret(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("reads") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with_secret(&path));
        } else {
            let bytes = std::fs::read(&path).expect("reads");
            if bytes
                .windows(SECRET.len())
                .any(|part| part == SECRET.as_bytes())
            {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn what_was_erased_is_in_no_file_of_a_restored_folder() {
    let mut rig = with_secrets();
    let kept = rig.history("kept", 1_299);
    assert!(!files_with_secret(rig.folder.path()).is_empty());
    rig.write_at(2_000, vec![erase("secret")]).expect("erased");
    let mut file = Vec::new();
    let copied = rig.store().backup(None, &mut |chunk| {
        file.extend_from_slice(&chunk.bytes);
        Ok(())
    });
    copied.expect("copied");
    let holds_secret = |bytes: &[u8]| {
        let secret = SECRET.as_bytes();
        bytes.windows(secret.len()).any(|part| part == secret)
    };
    assert!(!holds_secret(&file), "in the backup");
    let beside = tempfile::tempdir().expect("temporary folder");
    let restored = beside.path().join("restored");
    let clock = ManualClock::starting_at(0);
    copy::restore(&file[..], &restored, 1 << 24, clock, &mut |_| {}).expect("restored");
    assert_eq!(files_with_secret(&restored), [""; 0]);
    check(
        &restored.join(DATABASE_FOLDER),
        &beside.path().join("scratch"),
    );

    let database = open_database(&restored.join(DATABASE_FOLDER)).expect("opens");
    let store = Store::open(&database, ManualClock::starting_at(0)).expect("opens");
    let thing = store.entity_type("thing").expect("declared");
    for basis in [0, 1_000, 1_150, 1_299, 2_000] {
        let at = SysTime::from_micros(basis);
        let answer = store.get(
            &thing,
            "secret",
            hindcast::time::ValidTime::from_micros(50),
            at,
        );
        assert_eq!(answer.expect("reads"), Answer::Erased, "at {basis}");
    }
    store.close();
    drop((store, database));
    assert_eq!(rig.history("kept", 1_299), kept);
    rig.shut();
    check(rig.folder.path(), &beside.path().join("scratch"));
}

#[test]
fn decoded_columns_forget_what_was_erased() {
    let rig = with_secrets();
    let ids = StringArray::from_iter_values((0..MANY).map(|_| "secret"));
    let at = TimestampMicrosecondArray::from_iter_values((0..MANY).map(|row| row as i64 % 100))
        .with_timezone("UTC");
    let basis = SysTime::from_micros(1_299);
    let known = || {
        let states = rig.store().lookup_batch(&rig.thing(), &ids, &at, basis);
        let states = states.expect("looks up");
        states.len() - states.null_count()
    };
    for _ in 0..3 {
        assert!(known() > MANY / 2);
    }
    rig.write_at(2_000, vec![erase("secret")]).expect("erased");
    assert_eq!(known(), 0);
    rig.write_at(2_001, vec![put("secret", Some("new"), 0, Until::Forever)])
        .expect("written");
    assert_eq!(known(), 0, "an earlier basis stays erased");
    let Answer::Value(version) = rig.get("secret", 5, 2_001) else {
        panic!("a later put starts clean");
    };
    assert_eq!(text(&version), "new");
}

#[test]
fn followers_are_told_of_an_erasure() {
    let rig = with_secrets();
    rig.write_at(2_000, vec![erase("secret")]).expect("erased");
    let after = Some(SysTime::from_micros(1_999));
    let mut changes = rig.store().changes(after, None, &[], None).expect("a walk");
    let Step::Told { changes, .. } = changes.next(100).expect("reads") else {
        panic!("the erasure is told");
    };
    let told: Vec<_> = changes
        .iter()
        .map(|change| (change.entity_id.as_str(), &change.before, &change.after))
        .collect();
    assert_eq!(
        told,
        [("secret", &ChangedState::Erased, &ChangedState::Erased)]
    );
    let mut all = rig.store().changes(None, None, &[], None).expect("a walk");
    while let Step::Told { changes, .. } = all.next(1_000).expect("reads") {
        for change in changes {
            let shown = format!("{:?} {:?}", change.before, change.after);
            assert!(!shown.contains(SECRET), "{shown}");
        }
    }
}
