//! An entity type as output, from the command line.

use std::process::Output;

use crate::cli::{Served, code, stderr, stdout};

const DEFINITIONS: &str = r#"
[[entity_type]]
name = "level"
attributes = [{ name = "n", kind = "int64" }]

[[source]]
name = "events"
format = "csv"
location = "events.csv"
event_time_column = "at"

[[transform]]
name = "levels"
sql = "SELECT 'pump' AS id, n FROM events"
sources = [{ source = "events" }]
output_entity = { entity_type = "level", key = ["id"] }
grain = "daily"
"#;

fn told(output: &Output) -> String {
    assert_eq!(code(output), 0, "{}{}", stdout(output), stderr(output));
    stdout(output)
}

fn errors(output: &Output) -> String {
    assert_ne!(code(output), 0);
    stderr(output)
}

#[test]
fn every_screen_names_the_entity_type() {
    let served = Served::start();
    let file = served.folder.path().join("levels.toml");
    std::fs::write(&file, DEFINITIONS).expect("written");
    let apply = format!("apply -f {}", file.display());
    assert!(told(&served.run(&apply)).contains("created     transform levels"));
    assert!(told(&served.run(&apply)).contains("unchanged   transform levels"));

    let range = "--from 2024-05-01 --to 2024-05-04 --knowledge as-known-now";
    let plan = told(&served.run(&format!("backfill plan levels {range}")));
    assert!(plan.contains("entity type level"), "{plan}");
    told(&served.run(&format!("backfill create levels {range} --watch")));
    let listed = told(&served.run("backfill list -o json"));
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let backfill = &listed["backfills"][0];
    assert_eq!(backfill["output_entity_type"], "level");
    let name = backfill["name"].as_str().expect("a name");
    for (line, expected) in [
        (format!("backfill get {name}"), "entity type level"),
        (
            format!("backfill partitions {name}"),
            "entities: 1 written, 0 ended, 0 unchanged",
        ),
        (
            format!("backfill partitions {name} --attempts"),
            "entities: 1 written, 0 ended, 0 unchanged",
        ),
        (
            "transform get levels".to_owned(),
            "entity type level, by id",
        ),
        ("transform list".to_owned(), "entity type level, by id"),
        ("type get level".to_owned(), "transform levels alone"),
        (
            "entity get level pump --at 2024-05-02T12:00:00Z".to_owned(),
            "n            2",
        ),
    ] {
        let shown = told(&served.run(&line));
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&shown).contains(&words(expected)), "{line}: {shown}");
    }
}

#[test]
fn a_transform_is_registered_with_an_entity_type_by_flags() {
    let served = Served::defined();
    told(&served.run("type create level n:int64"));
    let sql = served.folder.path().join("levels.sql");
    std::fs::write(&sql, "SELECT 'pump' AS id, n FROM events").expect("written");
    let register = |flags: &str| {
        let sql = sql.display();
        served.run(&format!(
            "transform register levels --source events --grain daily --sql-file {sql} {flags}"
        ))
    };
    for (flags, expected) in [
        ("--output-entity level", "--key"),
        ("--key id --output-table t", "cannot be used with"),
        (
            "--output-entity level --key id --output-table t",
            "cannot be used with",
        ),
        ("--max-attempts 2", "--output-table"),
        ("--output-entity level --key x", "no column \"x\""),
        ("--output-entity pump --key id", "no attribute \"n\""),
    ] {
        let errors = errors(&register(flags));
        assert!(errors.contains(expected), "{flags}: {errors}");
    }
    let registered = told(&register("--output-entity level --key id"));
    assert!(registered.contains("registered levels revision 1"));
    let refused = errors(&served.run("entity put level pump n=1"));
    assert!(refused.contains("ENTITY_TYPE_OWNED"), "{refused}");
}
