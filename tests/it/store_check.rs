//! `store check`: everything that is wrong is found and named, and nothing else.

use hindcast::{
    kv::{Database, Entry},
    store::{
        Batch, Until,
        copy::{self, CheckReport},
    },
};

use crate::{
    cli::{Served, code, hindcast, stderr, stdout},
    store_support::{Rig, open_database, put, until},
};

/// A stopped store with small entities, one of many pages, and remembered requests.
fn filled() -> (Rig, Database) {
    let mut rig = Rig::new();
    for round in 0..150i64 {
        let long = format!("{round:0>700}");
        rig.clock.set(1_000 + round);
        rig.write_batch(Batch {
            mutations: vec![
                put(
                    &format!("small{}", round % 7),
                    Some("x"),
                    round,
                    until(round + 5),
                ),
                put("large", Some(&long), round * 7 % 150, Until::NextChange),
            ],
            request_id: Some(format!("request {round}")),
            ..Default::default()
        })
        .expect("written");
    }
    rig.shut();
    let database = open_database(rig.folder.path()).expect("opens");
    (rig, database)
}

fn check(database: &Database) -> CheckReport {
    copy::check(database, None, &mut |_| {}).expect("walks")
}

fn deep(rig: &Rig, database: &Database) -> CheckReport {
    let scratch = rig.folder.path().join("beside");
    let report = copy::check(database, Some(&scratch), &mut |_| {}).expect("walks");
    let left = std::fs::read_dir(rig.folder.path()).expect("reads");
    let names = left.map(|entry| entry.expect("an entry").file_name());
    let left: Vec<_> = names
        .filter(|name| name.to_string_lossy().starts_with("beside"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    report
}

fn entries(database: &Database, keyspace: &str) -> Vec<Entry> {
    let keyspace = database.keyspace(keyspace).expect("keyspace");
    keyspace
        .prefix(&[])
        .collect::<Result<_, _>>()
        .expect("reads")
}

fn places(report: &CheckReport) -> Vec<&str> {
    let mut places: Vec<_> = report
        .problems
        .iter()
        .map(|problem| problem.place.as_str())
        .collect();
    places.dedup();
    places
}

#[test]
fn a_sound_store_is_clean() {
    let (rig, database) = filled();
    let report = deep(&rig, &database);
    assert!(report.is_clean(), "{:?}", report.problems);
    assert_eq!((report.commits, report.entities), (150, 8));
    assert_eq!((report.compared_entities, report.unapplied_commits), (8, 0));
    assert!(report.versions > 150, "{}", report.versions);
}

#[test]
fn an_empty_store_is_clean() {
    let mut rig = Rig::new();
    rig.shut();
    let database = open_database(rig.folder.path()).expect("opens");
    let report = deep(&rig, &database);
    assert!(report.is_clean(), "{:?}", report.problems);
}

#[test]
fn a_flipped_byte_is_found_wherever_it_is() {
    let (_rig, database) = filled();
    let mut seen = Vec::new();
    for name in database.keyspace_names() {
        let all = entries(&database, &name);
        let keyspace = database.keyspace(&name).expect("keyspace");
        let place = match name.as_str() {
            "heads" | "leaves" | "chains" | "roots" | "pages" | "rows" => "entities",
            other => other,
        };
        let with_bytes = all.iter().filter(|(_, value)| !value.is_empty());
        for (key, value) in with_bytes.step_by(all.len() / 5 + 1) {
            let mut damaged = value.to_vec();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 0x20;
            keyspace.insert(key, &damaged).expect("insert");
            let report = check(&database);
            assert!(
                places(&report).contains(&place),
                "{name} {}: {:?}",
                key.escape_ascii(),
                report.problems
            );
            assert!(
                report
                    .problems
                    .iter()
                    .all(|problem| problem.to_string().contains(';'))
            );
            keyspace.insert(key, value).expect("insert");
            seen.push(name.clone());
        }
    }
    seen.dedup();
    assert!(seen.len() >= 6, "{seen:?}");
    assert_eq!(check(&database).problems, []);
}

#[test]
fn a_lost_value_is_found() {
    let (_rig, database) = filled();
    let trees: Vec<_> = ["pages", "roots", "rows"]
        .into_iter()
        .filter(|name| !entries(&database, name).is_empty())
        .map(|name| (name, "entities"))
        .collect();
    assert!(!trees.is_empty(), "one entity has many pages");
    for (name, place) in trees
        .into_iter()
        .chain([("log", "log"), ("types", "types")])
    {
        let all = entries(&database, name);
        let keyspace = database.keyspace(name).expect("keyspace");
        for (key, value) in all.iter().step_by(all.len() / 5 + 1).chain(all.last()) {
            keyspace.remove(key).expect("remove");
            let report = check(&database);
            assert!(
                places(&report).contains(&place),
                "{name} {}: {:?}",
                key.escape_ascii(),
                report.problems
            );
            keyspace.insert(key, value).expect("insert");
        }
    }
    assert_eq!(check(&database).problems, []);
}

#[test]
fn an_old_page_in_its_place_is_found_by_the_deep_check_alone() {
    let mut rig = Rig::new();
    rig.write_at(1_000, vec![put("a", Some("x"), 0, Until::Forever)])
        .expect("written");
    let old = entries(rig.database(), "heads");
    rig.write_at(
        1_001,
        vec![
            put("a", Some("y"), 0, Until::Forever),
            put("b", Some("z"), 0, Until::Forever),
        ],
    )
    .expect("written");
    rig.shut();
    let database = open_database(rig.folder.path()).expect("opens");
    let heads = database.keyspace("heads").expect("keyspace");
    let (key, value) = &entries(&database, "heads")[0];
    assert_eq!(*key, old[0].0);
    heads.insert(key, &old[0].1).expect("insert");
    assert!(check(&database).is_clean(), "its checksum holds");
    let report = deep(&rig, &database);
    assert_eq!(report.problem_count, 1, "{:?}", report.problems);
    assert!(report.problems[0].what.contains("not what the log says"));

    heads.remove(key).expect("remove");
    assert_eq!(deep(&rig, &database).problem_count, 1, "gone");
    heads.insert(key, value).expect("insert");
    let stray = key
        .iter()
        .map(|byte| if *byte == b'a' { b'c' } else { *byte });
    heads
        .insert(&stray.collect::<Vec<_>>(), value)
        .expect("insert");
    assert!(!deep(&rig, &database).is_clean(), "too many");
}

#[test]
fn records_that_do_not_follow_each_other_are_found() {
    let (_rig, database) = filled();
    let log = database.keyspace("log").expect("keyspace");
    let tenth = log
        .get_large(&10u64.to_be_bytes())
        .expect("reads")
        .expect("there");
    let ninth = log
        .get_large(&9u64.to_be_bytes())
        .expect("reads")
        .expect("there");
    log.insert_large(&10u64.to_be_bytes(), &ninth)
        .expect("insert");
    let report = check(&database);
    assert!(
        report.problems[0]
            .what
            .contains("record 10: it is another record"),
        "{:?}",
        report.problems
    );
    log.remove_large(&10u64.to_be_bytes()).expect("remove");
    let report = check(&database);
    assert!(
        report.problems[0]
            .what
            .contains("records 10 to 10 are missing"),
        "{:?}",
        report.problems
    );
    log.insert_large(&10u64.to_be_bytes(), &tenth)
        .expect("insert");
    log.remove_large(&150u64.to_be_bytes()).expect("remove");
    let report = check(&database);
    assert!(
        report.problems[0].what.contains("150"),
        "{:?}",
        report.problems
    );
}

#[test]
fn events_of_backfills_are_dense() {
    let (_rig, database) = filled();
    let events = database.keyspace("backfill_events").expect("keyspace");
    let key = |sequence: u64| [b"b1\0".as_slice(), &sequence.to_be_bytes()].concat();
    events.insert(&key(1), b"\x01{}").expect("insert");
    events.insert(&key(2), b"\x01{\"n\":2}").expect("insert");
    assert_eq!(check(&database).problems, []);
    events.insert(&key(4), b"\x01{}").expect("insert");
    events.insert(&key(5), b"\x01{").expect("insert");
    let report = check(&database);
    assert_eq!(report.problem_count, 2, "{:?}", report.problems);
    assert_eq!(places(&report), ["backfill_events"]);
}

#[test]
fn a_stopped_data_folder_is_checked_from_the_command_line() {
    let served = Served::defined();
    let put = "entity put pump p1 pressure=2.5 --from 2024-01-01 --forever";
    assert_eq!(code(&served.run(put)), 0);
    let data_dir = served.data_dir();
    let run = |what: &str| {
        hindcast()
            .arg("store")
            .args(what.split(' '))
            .arg("--data-dir")
            .arg(&data_dir)
            .output()
            .expect("runs")
    };
    let busy = run("check");
    assert_eq!(code(&busy), 1);
    assert!(
        stderr(&busy).contains("another process has it open"),
        "{}",
        stderr(&busy)
    );
    let mut served = served;
    served.stop();
    let clean = run("check --deep");
    assert_eq!(code(&clean), 0, "{}", stderr(&clean));
    let text = stdout(&clean);
    assert!(
        text.contains("1 commit, 1 entity, 1 version") && text.contains("nothing is wrong"),
        "{text}"
    );
    let stats = run("stats");
    assert!(stdout(&stats).contains("pump"), "{}", stdout(&stats));
    {
        let database = open_database(&data_dir.join(copy::DATABASE_FOLDER)).expect("opens");
        let heads = database.keyspace("heads").expect("keyspace");
        let (key, _) = &entries(&database, "heads")[0];
        heads.insert(key, b"nonsense").expect("insert");
        database.flush().expect("flushes");
    }
    let damaged = run("check -o json");
    assert_eq!(code(&damaged), 1);
    let report: serde_json::Value = serde_json::from_slice(&damaged.stdout).expect("JSON");
    assert_eq!(report["problems"][0]["place"], "entities");
    let nowhere = hindcast()
        .args(["store", "check", "--data-dir", "nowhere"])
        .output()
        .expect("runs");
    assert_eq!(code(&nowhere), 64, "{}", stderr(&nowhere));
}
