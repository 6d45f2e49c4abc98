//! Backups of stores that go on working, and data folders made from them.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use hindcast::{
    error::{Classify, ErrorKind},
    pb::{self, admin_service_client::AdminServiceClient},
    store::{
        Batch, Store, Until,
        copy::{self, BackupSummary, DATABASE_FOLDER, RestoreSummary},
    },
    time::{Interval, ManualClock, SysTime, ValidTime},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    cli::{Served, code, hindcast, stderr, stdout},
    store_support::{Rig, end, open_database, put, until},
    support::Service,
};

const IDS: [&str; 5] = ["a", "b", "c", "d", "long"];

/// A store with some history of every kind, one commit per microsecond of system time from 1,000 on.
fn filled(commits: i64) -> Rig {
    let rig = Rig::new();
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..commits {
        let mutations = (0..random.random_range(1..4))
            .map(|_| mutation(&mut random))
            .collect();
        rig.write_at(1_000 + round, mutations).expect("written");
    }
    rig
}

fn mutation(random: &mut StdRng) -> hindcast::store::Mutation {
    let id = IDS[random.random_range(0..IDS.len())];
    let from = random.random_range(0..100);
    let range = match random.random_range(0..3) {
        0 => Until::NextChange,
        1 => Until::Forever,
        _ => until(from + random.random_range(1..20)),
    };
    if random.random_range(0..6) == 0 {
        return end(id, from, range);
    }
    let length = if id == "long" { 400 } else { 4 };
    let value = format!("{:0>length$}", random.random_range(0..1000));
    put(id, Some(&value), from, range)
}

fn backup(store: &Store, basis: Option<SysTime>) -> (Vec<u8>, BackupSummary) {
    let mut file = Vec::new();
    let summary = store
        .backup(basis, &mut |chunk| {
            file.extend_from_slice(&chunk.bytes);
            Ok(())
        })
        .expect("copied");
    assert_eq!(file.len() as u64, summary.size_bytes);
    (file, summary)
}

fn restore(file: &[u8], data_dir: &Path) -> copy::Result<RestoreSummary> {
    let clock = ManualClock::starting_at(0);
    copy::restore(file, data_dir, 1 << 24, clock, &mut |_| {})
}

/// Opens what was restored, and runs a test on it.
fn with_restored(data_dir: &Path, test: impl FnOnce(&Store)) {
    let database = open_database(&data_dir.join(DATABASE_FOLDER)).expect("opens");
    let store = Store::open(&database, ManualClock::starting_at(0)).expect("opens");
    test(&store);
    store.close();
}

/// All that can be asked at one basis.
fn answers(store: &Store, basis: i64) -> Vec<hindcast::store::Version> {
    let thing = store.entity_type("thing").expect("declared");
    let all = (
        Interval::starting_at(ValidTime::MIN),
        Interval::starting_at(SysTime::MIN),
    );
    IDS.iter()
        .flat_map(|id| {
            store
                .history(&thing, id, all.0, all.1, SysTime::from_micros(basis))
                .expect("reads")
        })
        .collect()
}

#[test]
fn a_copy_made_beside_writers_answers_as_the_original_at_every_basis() {
    let rig = filled(150);
    let store = rig.store().clone();
    let stop = AtomicBool::new(false);
    let (file, summary) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("runtime");
            let mut random = StdRng::seed_from_u64(8);
            while !stop.load(Ordering::Relaxed) {
                let batch = Batch {
                    mutations: vec![mutation(&mut random)],
                    ..Default::default()
                };
                runtime.block_on(store.write(batch)).expect("written");
            }
        });
        let start = rig.store().latest_basis();
        while rig.store().latest_basis().micros() < start.micros() + 20 {
            std::thread::yield_now();
        }
        let copied = backup(rig.store(), None);
        let latest = rig.store().latest_basis();
        while rig.store().latest_basis() <= latest {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        copied
    });
    assert!(
        rig.store().latest_basis() > summary.basis,
        "it went on after the basis"
    );
    let folder = tempfile::tempdir().expect("temporary folder");
    let data_dir = folder.path().join("deep/er/data");
    let restored = restore(&file, &data_dir).expect("restored");
    assert_eq!(
        (restored.basis, restored.commits),
        (summary.basis, summary.commits)
    );
    with_restored(&data_dir, |store| {
        assert_eq!(store.latest_basis(), summary.basis);
        for basis in 999..=summary.basis.micros() {
            assert_eq!(
                answers(store, basis),
                answers(rig.store(), basis),
                "at {basis}"
            );
        }
        let batch = Batch {
            mutations: vec![put("a", Some("later"), 0, Until::Forever)],
            ..Default::default()
        };
        let committed = rig.runtime.block_on(store.write(batch)).expect("written");
        assert!(committed.system_time > summary.basis, "BT-3");
    });
}

#[test]
fn a_copy_at_an_earlier_basis_ends_there() {
    let rig = filled(40);
    let (file, summary) = backup(rig.store(), Some(SysTime::from_micros(1_010)));
    assert_eq!((summary.basis.micros(), summary.commits), (1_010, 11));
    let folder = tempfile::tempdir().expect("temporary folder");
    restore(&file, &folder.path().join("data")).expect("restored");
    with_restored(&folder.path().join("data"), |store| {
        assert_eq!(store.latest_basis().micros(), 1_010);
        assert_eq!(answers(store, 1_010), answers(rig.store(), 1_010));
        // What the original has promised about later bases binds the copy too.
        let batch = Batch {
            mutations: vec![put("a", Some("later"), 0, Until::Forever)],
            ..Default::default()
        };
        let committed = rig.runtime.block_on(store.write(batch)).expect("written");
        assert!(committed.system_time.micros() > 1_039);
    });
    let ahead = rig
        .store()
        .backup(Some(SysTime::from_micros(2_000)), &mut |_| Ok(()));
    assert_eq!(ahead.expect_err("refused").kind(), ErrorKind::OutOfRange);
}

#[test]
fn an_empty_store_is_copied_too() {
    let rig = Rig::new();
    let (file, summary) = backup(rig.store(), None);
    assert_eq!(
        (summary.commits, summary.basis),
        (0, rig.store().latest_basis())
    );
    let folder = tempfile::tempdir().expect("temporary folder");
    let data_dir = folder.path().join("data");
    std::fs::create_dir(&data_dir).expect("an empty folder is fine");
    restore(&file, &data_dir).expect("restored");
    with_restored(&data_dir, |store| {
        assert_eq!(store.latest_basis(), summary.basis);
        assert!(store.entity_type("thing").is_ok());
    });
}

#[test]
fn a_file_that_is_not_whole_is_refused_and_leaves_nothing() {
    let rig = filled(30);
    let (file, _) = backup(rig.store(), None);
    let folder = tempfile::tempdir().expect("temporary folder");
    let data_dir = folder.path().join("data");
    let refuse = |file: &[u8], what: &str| {
        let error = restore(file, &data_dir).expect_err(what);
        assert!(
            matches!(
                error.kind(),
                ErrorKind::DataLoss | ErrorKind::InvalidArgument
            ),
            "{what}: {error}"
        );
        let left: Vec<_> = std::fs::read_dir(folder.path()).expect("reads").collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    };
    for part in 1..12 {
        let at = file.len() * part / 12;
        refuse(&file[..at], &format!("cut at {at}"));
        let mut flipped = file.clone();
        flipped[at] ^= 0x04;
        refuse(&flipped, &format!("flipped at {at}"));
    }
    refuse(&[&file[..], b"x"].concat(), "longer");
    refuse(b"", "empty");
}

#[test]
fn a_folder_with_something_in_it_is_not_restored_into() {
    let rig = filled(3);
    let (file, _) = backup(rig.store(), None);
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::write(folder.path().join("mine"), "x").expect("written");
    let error = restore(&file, folder.path()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("not empty"), "{error}");
    assert!(folder.path().join("mine").exists());
}

#[test]
fn a_reader_that_goes_away_ends_the_copy() {
    let rig = filled(30);
    let mut chunks = 0;
    let error = rig
        .store()
        .backup(None, &mut |_| {
            chunks += 1;
            if chunks < 2 {
                Ok(())
            } else {
                Err(std::io::Error::other("gone"))
            }
        })
        .expect_err("cut");
    assert_eq!((error.kind(), chunks), (ErrorKind::Cancelled, 2));
}

#[test]
fn a_damaged_record_ends_the_copy_instead_of_going_into_it() {
    let rig = filled(10);
    let log = rig.database().keyspace("log").expect("keyspace");
    let (key, value) = log.prefix(&[]).nth(4).expect("a record").expect("reads");
    let mut damaged = value.to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    log.insert(&key, &damaged).expect("insert");
    let error = rig
        .store()
        .backup(None, &mut |_| Ok(()))
        .expect_err("found");
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
}

#[tokio::test]
async fn a_backup_comes_over_the_wire() {
    let mut service = Service::start(ManualClock::starting_at(1_000_000)).await;
    service
        .create_type("pump", &[("pressure", pb::AttributeKind::Float64)])
        .await;
    let put = crate::support::put(
        "pump",
        "p1",
        [("pressure", pb::value::Kind::Float64Value(2.5))],
        crate::support::from_micros(0),
        None,
    );
    let (written, _) = service.write([put]).await;
    let mut admin = AdminServiceClient::connect(service.url())
        .await
        .expect("connects");
    let mut stream = admin
        .backup(pb::BackupRequest { basis: None })
        .await
        .expect("starts")
        .into_inner();
    let mut last = pb::BackupResponse::default();
    while let Some(message) = stream.message().await.expect("goes on") {
        assert!(message.commits_done <= message.commits_total);
        last = message;
    }
    assert_eq!(
        (last.basis, last.commits_done, last.commits_total),
        (Some(written), 1, 1)
    );
    let future = pb::BackupRequest {
        basis: Some(crate::support::from_micros(1 << 50)),
    };
    let refused = admin.backup(future).await.expect_err("in the future");
    assert_eq!(refused.code(), tonic::Code::OutOfRange);
    drop(admin);
    service.stop().await;
}

#[test]
fn copies_in_a_folder_are_named_after_their_basis_and_the_oldest_make_room() {
    let served = Served::defined();
    let folder = tempfile::tempdir().expect("temporary folder");
    let copies = || {
        let entries = std::fs::read_dir(folder.path()).expect("reads");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.into_string().expect("text"))
            .collect();
        names.sort();
        names
    };
    let put_and_copy = |pressure: u32| {
        let line = format!("entity put pump p1 pressure={pressure}.5 --from 2024-01-01 --forever");
        assert_eq!(code(&served.run(&line)), 0);
        let line = format!("backup --to-folder {} --keep 2", folder.path().display());
        let made = served.run(&line);
        assert_eq!(code(&made), 0, "{}", stderr(&made));
        stdout(&made)
    };
    std::fs::write(folder.path().join("notes.txt"), "mine").expect("writes");
    put_and_copy(1);
    put_and_copy(2);
    let two = copies();
    let told = put_and_copy(3);
    let after = copies();
    assert_eq!(after.len(), 3, "{after:?}");
    assert_eq!(after[0], two[1], "the second is the oldest now");
    assert!(
        after[1].ends_with("Z.backup") && after[1] > after[0],
        "{after:?}"
    );
    assert_eq!(after[2], "notes.txt");
    assert!(told.contains(&format!("Removed: {}", two[0])), "{told}");
    let again = served.run(&format!("backup --to-folder {}", folder.path().display()));
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    assert_eq!(copies(), after, "nothing new: the same file");
    for wrong in [
        "backup",
        "backup --to a --to-folder b",
        "backup --to a --keep 2",
        "backup --to-folder b --keep 0",
    ] {
        assert_eq!(code(&served.run(wrong)), 2, "{wrong}");
    }
}

#[test]
fn a_restored_server_has_everything_and_goes_on() {
    let served = Served::defined();
    for (id, pressure) in [("p1", "2.5"), ("p2", "3.5")] {
        let line = format!("entity put pump {id} pressure={pressure} --from 2024-01-01 --forever");
        assert_eq!(code(&served.run(&line)), 0);
    }
    let three_days = "--from 2024-05-01 --to 2024-05-04 --knowledge as-known-now";
    let ran = served.run(&format!("backfill create copied {three_days} --watch"));
    assert_eq!(code(&ran), 0, "{}", stderr(&ran));
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("copy.backup");
    let made = served.run(&format!("backup --to {}", file.display()));
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    assert!(
        stdout(&made).contains("2 commits up to"),
        "{}",
        stdout(&made)
    );
    let again = served.run(&format!("backup --to {}", file.display()));
    assert_eq!(code(&again), 2, "{}", stderr(&again));
    let forced = served.run(&format!("backup --force -o json --to {}", file.display()));
    let report: serde_json::Value = serde_json::from_slice(&forced.stdout).expect("JSON");
    let sum = std::process::Command::new("sha256sum").arg(&file).output();
    let sum = stdout(&sum.expect("runs"));
    assert!(
        sum.starts_with(report["sha256"].as_str().expect("text")),
        "{sum}"
    );
    let piped = served.run("backup --to -");
    assert_eq!(
        piped.stdout.len(),
        std::fs::read(&file).expect("reads").len()
    );

    let data_dir = folder.path().join("restored");
    let restore_line = |file: &Path| {
        hindcast()
            .args(["restore", "--from"])
            .arg(file)
            .arg("--data-dir")
            .arg(&data_dir)
            .output()
            .expect("runs")
    };
    let restored = restore_line(&file);
    assert_eq!(code(&restored), 0, "{}", stderr(&restored));
    let occupied = restore_line(&file);
    assert_eq!(code(&occupied), 1);
    assert!(
        stderr(&occupied).contains("DATA_FOLDER_NOT_EMPTY"),
        "{}",
        stderr(&occupied)
    );

    let copy = Served::start_on(folder, &data_dir);
    for line in [
        "type list",
        "source list",
        "transform list",
        "backfill list",
        "entity get pump p1 --at 2024-02-01",
        "entity history pump p2",
        "table list",
    ] {
        let (mine, its) = (copy.run(line), served.run(line));
        assert_eq!(code(&mine), 0, "{line}: {}", stderr(&mine));
        assert_eq!(stdout(&mine), stdout(&its), "{line}");
    }
    let put = "entity put pump p3 pressure=1 --from 2024-01-01 --forever";
    assert_eq!(code(&copy.run(put)), 0);
    assert_eq!(
        code(&copy.run(&format!("backfill create copied {three_days} --watch"))),
        0
    );
}
