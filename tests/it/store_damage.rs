//! Damaged bytes: what they hit is DATA_LOSS, and no answer is wrong.
//!
//! Two layers. **Stored values** carry checksums and the key that they belong to: whatever happens to them, in whichever
//! keyspace, an answer is right or DATA_LOSS. **sled's own files** have no such promise: sled ends its log where something
//! does not read, and so goes back to an older state without a word. `kv` numbers flushes to tell that. What is asserted:
//! opening is refused with a text that says how to go on, or answers are right, older or DATA_LOSS; nobody ever reads a
//! value that was not written. Older answers have not been seen since flushes are numbered, but a single page that
//! went back would be one, and only `hindcast store check --deep`, which compares with the log, can tell; so how often
//! each comes is printed and not asserted.
//!
//! `HINDCAST_DAMAGE_ROUNDS` says how many damaged copies of the files; `HINDCAST_TEST_SEED` repeats a run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use hindcast::{
    error::{Classify, ErrorKind},
    kv::{Database, Entry},
    store::{Answer, Error, Store, Until},
    time::{Interval, ManualClock, SysTime, SystemClock, ValidTime},
};

use crate::{
    store_lives::{Random, number},
    store_support::{Rig, end, open_database, put, text, until},
};

const COMMITS: i64 = 90;
const IDS: [&str; 6] = ["small", "spread", "same", "ended", "x1", "x2"];
/// Damaged values of each keyspace and kind of damage, at most.
const VALUES: u64 = 4;
const ROUNDS: u64 = 40;
const FOLDER: &str = "HINDCAST_DAMAGE_FOLDER";
const ANSWERS: &str = "HINDCAST_DAMAGE_ANSWERS";
/// A damaged copy that takes longer to read hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Small, spilled and chained entities, and ended ones.
fn filled() -> Rig {
    let rig = Rig::new();
    for round in 0..COMMITS {
        let long = format!("{round:0>200}");
        let point = round * 7 % COMMITS;
        let mut mutations = vec![
            put(
                "small",
                Some(&format!("s{round}")),
                round % 3,
                Until::NextChange,
            ),
            put("spread", Some(&long), point, until(point + 1)),
            put("same", Some(&long), 0, until(10)),
            put("ended", Some(&format!("e{round}")), round, Until::Forever),
        ];
        if round % 4 == 0 {
            mutations.push(end("ended", round + 2, Until::Forever));
        }
        if round % 10 == 0 {
            mutations.push(put("x1", None, round, until(round + 5)));
            mutations.push(put("x2", Some("x"), round, until(round + 5)));
        }
        rig.write_at(1_000 + round, mutations).expect("written");
    }
    rig
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// The whole of it, and the value alone.
    Answer {
        all: String,
        value: String,
    },
    DataLoss(String),
    Other(String),
}

impl Told {
    fn new<T>(outcome: Result<T, Error>, tell: impl FnOnce(T) -> (String, String)) -> Self {
        match outcome {
            Ok(found) => {
                let (all, value) = tell(found);
                Self::Answer { all, value }
            }
            Err(error) if error.kind() == ErrorKind::DataLoss => Self::DataLoss(error.to_string()),
            Err(error) => Self::Other(format!("{error:?}")),
        }
    }

    /// One line; [`Told::parse`] reads it.
    fn line(&self) -> String {
        match self {
            Self::Answer { all, value } => format!("A\t{all}\t{value}"),
            Self::DataLoss(text) => format!("D\t{}", text.escape_debug()),
            Self::Other(text) => format!("O\t{}", text.escape_debug()),
        }
    }

    fn parse(line: &str) -> Self {
        let mut parts = line.split('\t').map(str::to_owned);
        let mut next = || parts.next().expect("a part");
        match next().as_str() {
            "A" => Self::Answer {
                all: next(),
                value: next(),
            },
            "D" => Self::DataLoss(next()),
            _ => Self::Other(next()),
        }
    }
}

/// Everything that is asked, by entity.
fn ask(store: &Store) -> BTreeMap<String, Vec<Told>> {
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    let thing = match store.entity_type("thing") {
        Ok(thing) => thing,
        Err(error) => {
            let lost = Told::Other(error.to_string());
            return BTreeMap::from([("thing".to_owned(), vec![lost])]);
        }
    };
    // A store that lost its last commits refuses the bases of the lost ones.
    let latest = store.latest_basis();
    for id in IDS {
        let answers = told.entry(id.to_owned()).or_default();
        for basis in [1_000, 1_013, 1_050, 1_089].map(SysTime::from_micros) {
            for valid in [0, 1, 5, 33, 60, 89].map(ValidTime::from_micros) {
                let outcome = store.get(&thing, id, valid, basis.min(latest));
                answers.push(Told::new(outcome, |answer| {
                    let value = match &answer {
                        Answer::Value(version) => text(version),
                        Answer::Ended(_) => "ended".to_owned(),
                        Answer::NotKnown | Answer::Erased => format!("{answer:?}"),
                    };
                    (format!("{answer:?}"), value)
                }));
            }
        }
        let (valid, system) = (
            Interval::starting_at(ValidTime::MIN),
            Interval::starting_at(SysTime::MIN),
        );
        let history = store.history(&thing, id, valid, system, latest);
        answers.push(Told::new(history, |versions| {
            (format!("{versions:?}"), "history".to_owned())
        }));
    }
    told
}

fn entries(database: &Database, keyspace: &str) -> Vec<Entry> {
    let keyspace = database.keyspace(keyspace).expect("keyspace");
    let read: Result<_, _> = keyspace.prefix(&[]).collect();
    read.expect("reads")
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip,
    Cut,
    Zero,
    /// The value of another key of the keyspace.
    Swap,
}

/// The value at `index` after the damage; `None`: there is nothing to damage.
fn damaged(
    entries: &[Entry],
    index: usize,
    damage: Damage,
    random: &mut Random,
) -> Option<Vec<u8>> {
    let mut value = entries[index].1.to_vec();
    if value.is_empty() {
        return None;
    }
    let at = random.below(value.len() as u64) as usize;
    match damage {
        Damage::Flip => value[at] ^= 1 << random.below(8),
        Damage::Cut => value.truncate(at),
        Damage::Zero => value[at..].iter_mut().take(16).for_each(|byte| *byte = 0),
        Damage::Swap => {
            value = entries[random.below(entries.len() as u64) as usize]
                .1
                .to_vec()
        }
    }
    (value != *entries[index].1).then_some(value)
}

#[test]
fn a_damaged_value_is_data_loss_and_not_another_answer() {
    let mut random = Random::seeded("damaged values");
    let mut rig = filled();
    let truth = ask(rig.store());
    let mut counts: BTreeMap<String, (u32, u32, u32)> = BTreeMap::new();
    for keyspace in rig.database().keyspace_names() {
        let entries = entries(rig.database(), &keyspace);
        for damage in [Damage::Flip, Damage::Cut, Damage::Zero, Damage::Swap] {
            for _ in 0..VALUES.min(entries.len() as u64) {
                let index = random.below(entries.len() as u64) as usize;
                let Some(value) = damaged(&entries, index, damage, &mut random) else {
                    continue;
                };
                let what = format!("{keyspace} {:?} {damage:?}", entries[index].0);
                let set = |folder: &Path, value: &[u8]| {
                    let database = open_database(folder).expect("opens");
                    let keyspace = database.keyspace(&keyspace).expect("keyspace");
                    keyspace.insert(&entries[index].0, value).expect("insert");
                    database.flush().expect("flush");
                };
                let whole = keep(&mut rig);
                set(rig.folder.path(), &value);
                let (refused, lost, right) = counts.entry(keyspace.clone()).or_default();
                match rig.reopen() {
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::DataLoss, "{what}: {error}");
                        *refused += 1;
                    }
                    Ok(()) => {
                        if check(&truth, &ask(rig.store()), &what) {
                            *right += 1;
                        } else {
                            *lost += 1;
                        }
                    }
                }
                rig.shut();
                put_back(&whole, rig.folder.path());
                rig.reopen().expect("opens");
            }
        }
    }
    assert!(counts.len() >= 4, "{counts:?}");
    for (keyspace, (refused, lost, right)) in counts {
        println!(
            "{keyspace}: opening refused {refused}, reads DATA_LOSS {lost}, all answers right {right}"
        );
    }
}

/// Closes the store and copies its folder.
fn keep(rig: &mut Rig) -> tempfile::TempDir {
    rig.shut();
    // Waits until the engine has let go of it.
    drop(open_database(rig.folder.path()).expect("opens"));
    let copy = tempfile::tempdir().expect("a folder");
    copy_folder(rig.folder.path(), copy.path());
    copy
}

fn put_back(copy: &tempfile::TempDir, folder: &Path) {
    drop(open_database(folder));
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            std::fs::remove_file(path).expect("removed");
        }
    }
    copy_folder(copy.path(), folder);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copied");
        }
    }
}

/// Whether every answer is right; if not, the others must be DATA_LOSS.
fn check(
    truth: &BTreeMap<String, Vec<Told>>,
    told: &BTreeMap<String, Vec<Told>>,
    what: &str,
) -> bool {
    let mut right = true;
    for (id, answers) in truth {
        for (index, (due, found)) in answers.iter().zip(&told[id]).enumerate() {
            match found {
                Told::DataLoss(_) => right = false,
                Told::Answer { .. } | Told::Other(_) => {
                    assert_eq!(found, due, "{what}: {id}, question {index}")
                }
            }
        }
    }
    right
}

/// Not a test by itself: reads a damaged folder for the test below, in a process that a fault of the engine may end.
#[test]
fn reads_a_damaged_folder_in_a_process_of_its_own() {
    let (Some(folder), Some(answers)) = (std::env::var_os(FOLDER), std::env::var_os(ANSWERS))
    else {
        return;
    };
    let opened = Database::open(Path::new(&folder), 1 << 24)
        .map_err(Error::from)
        .and_then(|database| Store::open(&database, ManualClock::starting_at(0)));
    let lines: Vec<String> = match opened {
        Err(error) => {
            let refused = Told::new(Err::<(), _>(error), |()| Default::default());
            vec![format!("open\t{}", refused.line())]
        }
        Ok(store) => (ask(&store).iter())
            .flat_map(|(id, told)| {
                told.iter()
                    .map(move |told| format!("{id}\t{}", told.line()))
            })
            .collect(),
    };
    std::fs::write(answers, lines.join("\n")).expect("written");
    // A damaged database may fail again while it is dropped: that is over and done with.
    std::process::exit(0);
}

/// How a damaged copy of the files behaved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Behaviour {
    Refused,
    Right,
    DataLoss,
    /// Some answers are an older state's.
    Older,
    /// The engine ended the process.
    Panicked,
    Hung,
}

fn behaviour(folder: &Path, truth: &BTreeMap<String, Vec<Told>>, what: &str) -> Behaviour {
    let answers = folder.with_extension("answers");
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "store_damage::reads_a_damaged_folder_in_a_process_of_its_own",
        ])
        .env(FOLDER, folder)
        .env(ANSWERS, &answers)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.expect("starts");
    let clock = SystemClock::shared();
    let deadline = clock.monotonic_micros() + PATIENCE.as_micros() as i64;
    while child.try_wait().expect("waits").is_none() {
        if clock.monotonic_micros() > deadline {
            child.kill().expect("killed");
            child.wait().expect("waits");
            return Behaviour::Hung;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let Ok(lines) = std::fs::read_to_string(&answers) else {
        return Behaviour::Panicked;
    };
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for line in lines.lines() {
        let (id, rest) = line.split_once('\t').expect("an id");
        told.entry(id.to_owned())
            .or_default()
            .push(Told::parse(rest));
    }
    if let Some(refusal) = told.get("open") {
        let Told::DataLoss(text) = &refusal[0] else {
            panic!("{what}: {refusal:?}");
        };
        assert!(text.contains("restore"), "{what}: {text}");
        return Behaviour::Refused;
    }
    if told.contains_key("thing") {
        return Behaviour::Older;
    }
    compare(truth, &told, what)
}

fn compare(
    truth: &BTreeMap<String, Vec<Told>>,
    told: &BTreeMap<String, Vec<Told>>,
    what: &str,
) -> Behaviour {
    let mut behaviour = Behaviour::Right;
    for (id, answers) in truth {
        for (due, found) in answers.iter().zip(&told[id]) {
            behaviour = behaviour.max(match found {
                found if found == due => Behaviour::Right,
                Told::DataLoss(_) => Behaviour::DataLoss,
                Told::Answer { value, .. } => {
                    assert!(was_written(id, value), "{what}: {id}: invented {value:?}");
                    Behaviour::Older
                }
                Told::Other(problem) => panic!("{what}: {id}: {problem}"),
            });
        }
    }
    behaviour
}

/// Whether [`filled`] ever gave the entity this value, or none.
fn was_written(id: &str, value: &str) -> bool {
    let any = |tell: fn(i64) -> String| (0..COMMITS).any(|round| tell(round) == value);
    let is_value = match id {
        "small" => any(|round| format!("s{round}")),
        "ended" => value == "ended" || any(|round| format!("e{round}")),
        "spread" | "same" => any(|round| format!("{round:0>200}")),
        "x1" => value == "null",
        _ => value == "x",
    };
    is_value || value == "NotKnown" || value == "history"
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() && path.metadata().expect("metadata").len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn damaged_files_are_refused_or_never_give_what_was_not_written() {
    let mut random = Random::seeded("damaged files");
    let mut rig = filled();
    let truth = ask(rig.store());
    // As a killed server leaves it: everything is flushed, and nothing is tidied up.
    let unclean = tempfile::tempdir().expect("a folder");
    copy_folder(rig.folder.path(), unclean.path());
    let clean = keep(&mut rig);
    let work = tempfile::tempdir().expect("a folder");
    let mut counts: BTreeMap<(&str, Behaviour), u32> = BTreeMap::new();
    for round in 0..number("HINDCAST_DAMAGE_ROUNDS").unwrap_or(ROUNDS) {
        let folder = work.path().join(round.to_string());
        let (stop, whole) = [("clean stop", &clean), ("killed", &unclean)][round as usize % 2];
        copy_folder(whole.path(), &folder);
        let files = files(&folder);
        // Most of the bytes are in one file; the small ones get every fourth damage.
        let largest = files
            .iter()
            .max_by_key(|path| path.metadata().expect("metadata").len());
        let file = match random.below(4) {
            0 => &files[random.below(files.len() as u64) as usize],
            _ => largest.expect("a file"),
        };
        let mut bytes = std::fs::read(file).expect("a file");
        // The rest of the last segment is empty.
        let used = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(1, |last| last + 1);
        let flips = 1 + random.below(3);
        for _ in 0..flips {
            bytes[random.below(used as u64) as usize] ^= 1 << random.below(8);
        }
        std::fs::write(file, bytes).expect("written");
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let what = format!("round {round}, {flips} bits of {name}");
        let found = behaviour(&folder, &truth, &what);
        *counts.entry((stop, found)).or_default() += 1;
        std::fs::remove_dir_all(&folder).expect("removed");
    }
    for ((stop, found), count) in counts {
        println!("{stop}: {found:?} {count}");
    }
}
