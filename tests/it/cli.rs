//! The command line as its users have it: the real binary, a real server, exit codes and both outputs.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

const DEFINITIONS: &str = r#"
[[entity_type]]
name = "pump"
attributes = [{ name = "pressure", kind = "float64" }, { name = "site", kind = "string" }]

[[source]]
name = "events"
format = "csv"
location = "events.csv"
event_time_column = "at"

[[transform]]
name = "copied"
sql = "SELECT n FROM events"
sources = [{ source = "events" }]
output_table = "copied"
grain = "daily"

[[transform]]
name = "divided"
sql = "SELECT 10 / (n - 2) AS quotient FROM events"
sources = [{ source = "events" }]
output_table = "divided"
grain = "daily"
retry = { max_attempts = 1 }
"#;

/// One row on each of three days; the second day's breaks `divided`.
const EVENTS: &str =
    "at,n\n2024-05-01T08:00:00Z,1\n2024-05-02T08:00:00Z,2\n2024-05-03T08:00:00Z,3\n";

const THREE_DAYS: &str = "--from 2024-05-01 --to 2024-05-04 --knowledge as-known-now";

/// `hindcast serve` on a free port, with definitions and data beside its data folder.
pub(crate) struct Served {
    pub(crate) folder: TempDir,
    server: Child,
    /// Kept open, as a terminal would.
    _stdout: BufReader<ChildStdout>,
    url: String,
}

impl Served {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data_dir = folder.path().join("data");
        Self::start_on(folder, &data_dir)
    }

    /// On a data folder that may be there already; `folder` is removed in the end.
    pub(crate) fn start_on(folder: TempDir, data_dir: &Path) -> Self {
        std::fs::write(folder.path().join("hindcast.toml"), DEFINITIONS).expect("written");
        std::fs::write(folder.path().join("events.csv"), EVENTS).expect("written");
        let mut server = hindcast()
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut stdout = BufReader::new(server.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("says where it is");
        let url = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"))
            .expect("an address")
            .trim_end_matches(',')
            .to_owned();
        Self {
            folder,
            server,
            _stdout: stdout,
            url,
        }
    }

    /// With the definitions applied.
    pub(crate) fn defined() -> Self {
        let served = Self::start();
        assert_eq!(code(&served.apply()), 0);
        served
    }

    pub(crate) fn data_dir(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn run(&self, line: &str) -> Output {
        hindcast()
            .args(["--server", &self.url])
            .args(line.split(' '))
            .output()
            .expect("runs")
    }

    fn apply(&self) -> Output {
        let file = self.folder.path().join("hindcast.toml");
        self.run(&format!("apply -f {}", file.display()))
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} -o json"));
        assert_eq!(code(&output), 0, "{line}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    }

    /// Tells the server to stop, and waits for it.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        assert!(self.server.wait().expect("ends").success());
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.server.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The binary, deaf to the settings of whoever runs the tests.
pub(crate) fn hindcast() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hindcast"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HINDCAST_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG");
    command
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn serve(data_dir: &Path, listen: &str) -> Output {
    hindcast()
        .args(["serve", "--listen", listen, "--data-dir"])
        .arg(data_dir)
        .output()
        .expect("runs")
}

#[test]
fn a_file_of_definitions_is_created_once_and_unchanged_after() {
    let served = Served::start();
    for outcome in ["created", "unchanged"] {
        let output = served.apply();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let text = stdout(&output);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.lines().all(|line| line.starts_with(outcome)), "{text}");
    }
}

#[test]
fn an_entity_is_written_read_and_remembered() {
    let served = Served::defined();
    let write = "entity put pump p1 pressure=2.5 site=north --from 2024-01-01 --forever";
    assert!(stdout(&served.run(write)).starts_with("1 version written"));
    assert!(stdout(&served.run(write)).starts_with("nothing to write"));
    let corrected =
        served.run("entity put pump p1 pressure=3.5 site=north --from 2024-01-01 --forever");
    assert_eq!(code(&corrected), 0, "{}", stderr(&corrected));

    let entity = served.json("entity get pump p1 --at 2024-02-01");
    assert_eq!(entity["outcome"], "VALUE");
    assert_eq!(entity["version"]["attributes"]["pressure"], 3.5);
    let history = served.json("entity history pump p1");
    let pressures: Vec<_> = history["versions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|version| version["attributes"]["pressure"].as_f64())
        .collect();
    assert_eq!(pressures, [Some(2.5), Some(3.5)]);
    assert!(stdout(&served.run("entity get pump p1 --at 2024-02-01")).contains("pressure     3.5"));
}

#[test]
fn watching_a_backfill_ends_with_its_fate_as_exit_code() {
    let served = Served::defined();
    let good = served.run(&format!("backfill create copied {THREE_DAYS} --watch"));
    assert_eq!(code(&good), 0, "{}", stderr(&good));
    assert!(
        stdout(&good).contains("3 succeeded · ") && stdout(&good).contains(" · 3 rows written"),
        "{}",
        stdout(&good)
    );

    let bad = served.run(&format!("backfill create divided {THREE_DAYS} --watch"));
    assert_eq!(code(&bad), 1);
    let text = stdout(&bad);
    assert!(text.contains("2024-05-02 failed, attempt 1: "), "{text}");
    assert!(text.contains("2 succeeded, 1 failed"), "{text}");

    let rows = served.run("table rows copied -o json");
    let numbers: Vec<Value> = stdout(&rows)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an object per line")["n"].clone())
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn a_backfill_is_controlled_by_verbs() {
    let served = Served::defined();
    let json = served.run(&format!(
        "backfill create divided {THREE_DAYS} --stop-on-first-failure --run-backwards --priority -3 --label team=data \
         --attempt-timeout 1m --watch -o json"
    ));
    assert_eq!(code(&json), 1, "{}", stderr(&json));
    let first = stdout(&json).lines().next().expect("a line").to_owned();
    let created: Value = serde_json::from_str(&first).expect("an object");
    let name = created["backfill"]["name"].as_str().expect("a name");

    let retried = served.run(&format!("backfill retry {name} --watch"));
    assert_eq!(code(&retried), 1, "the data is as it was");
    let text = stdout(&retried);
    assert!(
        text.starts_with(&format!("{name} is running again: ")),
        "{text}"
    );
    assert!(text.contains("2024-05-02 failed, attempt 2: "), "{text}");
    assert!(
        text.contains(&format!("hindcast backfill retry {name}")),
        "{text}"
    );
    let attempts = served.run(&format!("backfill partitions {name} --attempts"));
    assert!(
        stdout(&attempts).contains("ivide by zero"),
        "{}",
        stdout(&attempts)
    );

    let plan = served.run(&format!("backfill restate {name} --from 2024-05-03 --plan"));
    assert_eq!(code(&plan), 0, "{}", stderr(&plan));
    assert!(
        stdout(&plan).contains("1 to run, 0 to skip"),
        "{}",
        stdout(&plan)
    );
    let restated = served.run(&format!(
        "backfill restate {name} --from 2024-05-03 --watch"
    ));
    assert_eq!(code(&restated), 0, "{}", stderr(&restated));
    let line = served.json(&format!("backfill list --root {name} --label team=data"));
    let line = line["backfills"].as_array().expect("a list");
    assert_eq!(line.len(), 2);
    assert_eq!(line[0]["parent"], name);
    assert_eq!(line[1]["spec"]["priority"], -3);

    for verb in ["pause", "resume", "cancel"] {
        let refused = served.run(&format!("backfill {verb} {name}"));
        assert_eq!(code(&refused), 1, "{verb}");
        assert!(
            stderr(&refused).contains("[BACKFILL_ENDED]"),
            "{}",
            stderr(&refused)
        );
    }
    let refused = served.run(&format!("backfill set-concurrency {name} 2"));
    assert!(
        stderr(&refused).contains("[BACKFILL_ENDED]"),
        "{}",
        stderr(&refused)
    );
    let rest = served.run(&format!(
        "backfill plan divided {THREE_DAYS} --reprocess none"
    ));
    assert!(
        stdout(&rest).contains("published it already"),
        "{}",
        stdout(&rest)
    );
    let stale = served.run("backfill stale divided");
    assert_eq!(code(&stale), 0, "{}", stderr(&stale));
    assert!(
        stdout(&stale).contains("published partitions is stale"),
        "{}",
        stdout(&stale)
    );
    let stale = served.json("backfill stale divided --from 2024-05-01 --to 2024-05-03");
    assert_eq!(stale["partitions"], Value::Array(Vec::new()));
    let refused = served.run(&format!(
        "backfill plan divided {THREE_DAYS} --reprocess stale"
    ));
    assert!(
        stdout(&refused).contains("it is up to date: bf-"),
        "{}",
        stdout(&refused)
    );
    let refused = served.run("backfill stale nothing");
    assert!(
        stderr(&refused).contains("[TRANSFORM_NOT_FOUND]"),
        "{}",
        stderr(&refused)
    );
    for line in [
        "backfill watch",
        "backfill watch bf-1 --all",
        "backfill watch --label a=b",
    ] {
        assert_eq!(code(&served.run(line)), 2, "{line}");
    }
}

#[test]
fn machines_read_json_from_every_command() {
    let served = Served::defined();
    let watched = served.run(&format!(
        "backfill create copied {THREE_DAYS} --watch -o json"
    ));
    assert_eq!(code(&watched), 0, "{}", stderr(&watched));
    let objects: Vec<Value> = stdout(&watched)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object per line"))
        .collect();
    let name = objects[0]["backfill"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    for line in [
        "type list".to_owned(),
        "type get pump".to_owned(),
        "source list".to_owned(),
        "source get events".to_owned(),
        "transform list".to_owned(),
        "transform get copied".to_owned(),
        "table list".to_owned(),
        "table show copied".to_owned(),
        "backfill list".to_owned(),
        format!("backfill plan copied {THREE_DAYS}"),
        format!("backfill get {name}"),
        format!("backfill partitions {name}"),
        "entity get pump p1 p2".to_owned(),
        "entity history pump p1".to_owned(),
    ] {
        assert!(served.json(&line).is_object(), "{line}");
    }
}

#[test]
fn unknown_names_are_told_on_standard_error() {
    let served = Served::defined();
    for (line, reason) in [
        ("type get valve", "ENTITY_TYPE_NOT_FOUND"),
        ("entity get valve v1", "ENTITY_TYPE_NOT_FOUND"),
        ("source get nothing", "SOURCE_NOT_FOUND"),
        ("transform get nothing", "TRANSFORM_NOT_FOUND"),
        ("table show nothing", "TABLE_NOT_FOUND"),
        ("backfill get bf-0", "BACKFILL_NOT_FOUND"),
        ("backfill watch bf-0", "BACKFILL_NOT_FOUND"),
    ] {
        let output = served.run(line);
        assert_eq!((code(&output), stdout(&output).as_str()), (1, ""), "{line}");
        let text = stderr(&output);
        assert!(
            text.starts_with("error: ") && text.contains(&format!("[{reason}]")),
            "{line}: {text}"
        );
        assert!(text.contains("hint: `hindcast "), "{line}: {text}");
    }
}

#[test]
fn one_fault_is_told_once() {
    let served = Served::defined();
    let output = served.run("entity put pump p1 pressure=1 --from 2024-01-02 --to 2024-01-01");
    assert_eq!(code(&output), 1);
    assert_eq!(
        stderr(&output).matches("must be after").count(),
        1,
        "{}",
        stderr(&output)
    );
}

#[test]
fn bad_usage_is_exit_code_2() {
    let served = Served::defined();
    for line in [
        "backfill create copied --from 2024-05-01 --to 2024-05-02",
        "backfill create copied --from soon --to 2024-05-02 --knowledge as-known-now",
        "entity put pump p1 pressure=high --from 2024-01-01",
        "entity put pump p1 colour=red --from 2024-01-01",
        "no-such-command",
    ] {
        let output = served.run(line);
        assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
    }
}

#[test]
fn an_entity_is_patched_guarded_and_erased() {
    let served = Served::defined();
    let put =
        "entity put pump p1 pressure=1.5 site=north --from 2024-01-01 --forever --expect-absent";
    assert_eq!(code(&served.run(put)), 0);
    let again = served.run(put);
    assert_eq!(code(&again), 1);
    assert!(
        stderr(&again).contains("there is a value"),
        "{}",
        stderr(&again)
    );
    let patch = "entity patch pump p1 pressure=2 --null site --from 2024-02-01 --forever \
                 --expect pressure=1.5 --expect site=north";
    assert_eq!(
        code(&served.run(patch)),
        0,
        "{}",
        stderr(&served.run(patch))
    );
    let found = served.json("entity get pump p1 --at 2024-03-01");
    assert_eq!(found["version"]["attributes"]["pressure"], 2.0);
    assert_eq!(found["version"]["attributes"]["site"], Value::Null);
    assert_eq!(code(&served.run("entity erase pump p1")), 0);
    let nothing = served.run("entity erase pump p1");
    assert!(stdout(&nothing).contains("nothing of it is held"));
}

#[test]
fn a_type_grows_by_command_and_by_file() {
    let served = Served::defined();
    let update = "type update pump --add flow:float64 --deprecate site";
    assert!(stdout(&served.run(update)).contains("updated pump, revision 2"));
    assert!(stdout(&served.run(update)).contains("unchanged pump"));
    assert!(
        stdout(&served.apply()).contains("unchanged   entity_type pump"),
        "an earlier declaration is the same type"
    );
    let grown = DEFINITIONS.replace(
        "{ name = \"pressure\", kind = \"float64\" },",
        "{ name = \"pressure\", kind = \"float64\" }, { name = \"flow\", kind = \"float64\" }, \
         { name = \"speed\", kind = \"int64\" },",
    );
    std::fs::write(served.folder.path().join("hindcast.toml"), grown).expect("written");
    let applied = served.apply();
    assert!(
        stdout(&applied).contains("updated     entity_type pump"),
        "{}",
        stdout(&applied)
    );
    let revisions = served.json("type revisions pump");
    assert_eq!(revisions["revisions"].as_array().map(Vec::len), Some(3));
    let smaller = DEFINITIONS.replace("{ name = \"pressure\", kind = \"float64\" },", "");
    std::fs::write(served.folder.path().join("hindcast.toml"), smaller).expect("written");
    let refused = served.apply();
    assert_ne!(code(&refused), 0);
    assert!(
        stderr(&refused).contains("attributes are never removed"),
        "{}",
        stderr(&refused)
    );
}

#[test]
fn an_import_is_finished_by_command() {
    let served = Served::start();
    let create = "type create old v:string --importing";
    assert_eq!(code(&served.run(create)), 0);
    assert_eq!(code(&served.run("entity put old a v=x")), 1);
    assert_eq!(code(&served.run("entity get old a")), 1);
    assert_eq!(code(&served.run("type finish-import old")), 0);
    assert_eq!(code(&served.run("entity put old a v=x")), 0);
    assert_eq!(code(&served.run("type finish-import old")), 1);
}

#[test]
fn a_server_that_is_not_there_gets_a_hint() {
    let output = hindcast()
        .args(["--server", "http://127.0.0.1:1", "type", "list"])
        .output()
        .expect("runs");
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("hint: is `hindcast serve` running there?"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_second_server_says_what_is_in_its_way() {
    let served = Served::start();
    let locked = serve(&served.data_dir(), "127.0.0.1:0");
    assert_eq!(code(&locked), 1);
    assert!(
        stderr(&locked).contains("another process has it open"),
        "{}",
        stderr(&locked)
    );

    let address = served.url.trim_start_matches("http://");
    let taken = serve(&served.folder.path().join("other"), address);
    assert_eq!(code(&taken), 1);
    assert!(
        stderr(&taken).contains(&format!("cannot listen on {address}")),
        "{}",
        stderr(&taken)
    );
    assert!(!served.folder.path().join("other").exists());
}

#[test]
fn a_server_ends_well_on_either_signal() {
    for signal in ["TERM", "INT"] {
        let mut served = Served::start();
        served.signal(signal);
        let status = served.server.wait().expect("ends");
        assert_eq!(status.code(), Some(0), "{signal}");
    }
}

#[test]
fn rows_are_looked_up_and_changes_told_in_order() {
    let served = Served::defined();
    let lines = |line: &str| -> Vec<Value> {
        let output = served.run(&format!("{line} -o json"));
        assert_eq!(code(&output), 0, "{line}: {}", stderr(&output));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON lines"))
            .collect()
    };
    for put in [
        "entity put pump p1 pressure=1.5 site=north --from 2024-01-01 --forever",
        "entity put pump p1 pressure=2.5 site=north --from 2024-02-01 --forever",
        "entity put pump p2 site=south --from 2024-01-01 --forever",
    ] {
        assert_eq!(code(&served.run(put)), 0);
    }
    let rows = served.folder.path().join("rows.csv");
    std::fs::write(
        &rows,
        "valid_time,entity_id\n2024-02-01,p1\n2024-01-15,\"p1\"\n2023-01-01,p1\n2024-03-01,p2\n",
    )
    .expect("written");
    let lookup = format!(
        "entity lookup pump --rows {} --attributes pressure",
        rows.display()
    );
    let pressure = |line: &Value| line["attributes"]["pressure"].clone();
    let found = lines(&lookup);
    let pressures: Vec<_> = found.iter().map(pressure).collect();
    let none = Value::Null;
    assert_eq!(
        pressures,
        [Value::from(2.5), Value::from(1.5), none.clone(), none]
    );
    assert_eq!(found[2]["outcome"], "NOT_KNOWN");
    assert_eq!(pressure(&lines(&format!("{lookup} --strict"))[0]), 1.5);
    let aged = lines(&format!("{lookup} --max-age 7d"));
    assert_eq!(aged[1]["outcome"], "TOO_OLD");
    let table = served.run(&lookup);
    let table = String::from_utf8(table.stdout).expect("UTF-8");
    assert!(
        table.contains("PRESSURE") && table.contains("not known"),
        "{table}"
    );
    std::fs::write(&rows, "valid_time,entity_id\nnoon,p1\n").expect("written");
    let refused = served.run(&lookup);
    assert_ne!(code(&refused), 0);
    assert!(stderr(&refused).contains("line 2"), "{}", stderr(&refused));

    let told = lines("entity changes --type pump");
    let changes: Vec<_> = told
        .iter()
        .flat_map(|line| line["changes"].as_array().expect("changes"))
        .collect();
    assert_eq!(changes.len(), 3);
    assert_eq!(changes[1]["before"]["attributes"]["pressure"], 1.5);
    assert_eq!(changes[1]["after"]["attributes"]["pressure"], 2.5);
    assert_eq!(told.last().expect("an end")["heartbeat"], true);
    let token = told[0]["resume_token"].as_str().expect("a token");
    assert_eq!(
        lines(&format!("entity changes --type pump --resume {token}")).len(),
        told.len() - 1
    );
    let table = served.run("entity changes");
    let table = String::from_utf8(table.stdout).expect("UTF-8");
    assert!(table.contains("(not known) ->"), "{table}");

    let kept = lines("entity scan pump --where pressure>2 --attributes site --at 2024-03-01");
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0]["attributes"], serde_json::json!({"site": "north"}));
    assert_ne!(code(&served.run("entity scan pump --where pressure")), 0);
    assert_eq!(code(&served.run("entity history pump p1 --coalesce")), 0);
}
