//! Power cuts under concurrent writers: what was acknowledged before the cut is there, and no batch is half there.
//!
//! **Recorded cuts** work on every machine with a C compiler. A recorder (`tests/power_cut/recorder.c`) is preloaded into
//! the real server and notes which bytes it writes, and when a sync begins and ends. The server is killed, a random moment
//! of its journal is the cut, and the data folder is built as a disk may have kept it ([`Journal::folder_at`]). The store is
//! opened on that, checked against what was acknowledged before that moment, and the next life begins there. The model:
//! - What a sync covered (a write that had returned before the sync began) is there, whole.
//! - Of later writes to a file there is, by the round's mode: nothing; all; any subset of the writes; those before a random
//!   one, which is torn at 512 bytes; any subset of the 512-byte sectors. A file's size is what the kept writes make it.
//! - Names made, moved and removed in a folder since its last sync: those before a random one, in order, as a journaling
//!   file system keeps them.
//!
//! It shows that hindcast syncs what it must before it answers, and that sled finds its way through what is torn. It does not
//! show what the file system and the drive do with a sync: both are taken at their word, and a drive that loses what
//! it said to have synced, or tears a sector, is not modelled.
//!
//! **Cuts of ext4** are made where the machine allows it (root, loop devices): the data folder lies in a file system of its
//! own, which is shut down without flushing its log (`EXT4_IOC_SHUTDOWN`) and mounted again. That is the kernel's own code
//! for writes, sizes and its log; pages that it had written back by itself stay, and the drive is never at fault.
//!
//! Both prove that they can fail: with an `fdatasync` that lies they must find losses.
//!
//! `HINDCAST_POWER_CUT_ROUNDS` says how many cuts of each kind; `HINDCAST_TEST_SEED` repeats a run's choices (not its timing).

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use hindcast::{
    kv::Database,
    store::Store,
    time::{Clock, SystemClock},
};

use crate::{
    power_cut_journal::{Journal, Mode},
    store_lives::{Process, Random, Reader, Writer, Writers, check, number},
};

/// Cuts without `HINDCAST_POWER_CUT_ROUNDS`.
const RECORDED_ROUNDS: u64 = 120;
const EXT4_ROUNDS: u64 = 12;
/// Cuts of one recorded life.
const CUTS_OF_LIFE: u64 = 12;
/// Entries of a journal among which every third cut is.
const STARTING: usize = 60;
/// Cuts after which a lie must have been found.
const LYING_ROUNDS: u64 = 24;
const WRITERS: usize = 8;
const SHORTEST_LIFE_MS: u64 = 100;
const LONGEST_LIFE_MS: u64 = 500;
/// How long a recorded sync takes.
const SYNC_MICROS: &str = "500";
/// The cut was earlier than the server's first answer: there is nothing that must be there.
const BEFORE_ALL: &str = "refused before the first answer";

/// What a cut showed.
type Finding = Result<(), String>;

/// Compiles a C file of `tests/power_cut`; `None`, after saying so, where there is no compiler.
fn compile(source: &str, out: &Path, flags: &[&str]) -> Option<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/power_cut")
        .join(source);
    let run = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror"])
        .arg(&source)
        .arg("-o")
        .arg(out)
        .args(flags)
        .output();
    match run {
        Ok(output) => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{source:?}: {complaint}");
            Some(())
        }
        Err(error) => {
            println!("skipped: no C compiler: {error}");
            None
        }
    }
}

/// Opens the store on a folder and checks it. With nothing acknowledged before the cut, a folder that was not finished may
/// be refused.
async fn open_and_check(data: &Path, writers: &[Writer]) -> Finding {
    let opened = Database::open(&data.join("db"), 16 << 20)
        .map_err(|error| format!("does not open: {error}"))
        .and_then(|database| {
            let store = Store::open(&database, SystemClock::shared());
            store.map_err(|error| format!("does not recover: {error}"))
        });
    let store = match opened {
        Ok(store) => store,
        Err(_) if writers.iter().all(|writer| writer.acknowledged.is_empty()) => {
            return Err(BEFORE_ALL.to_owned());
        }
        Err(problem) => {
            return Err(format!(
                "{problem}; there are {}",
                listing(&data.join("db"))
            ));
        }
    };
    for writer in writers {
        check(&mut Reader::Store(&store), writer).await?;
    }
    store.close();
    Ok(())
}

fn listing(folder: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return "no files".to_owned();
    };
    let files = entries.map(|entry| {
        let entry = entry.expect("an entry");
        let size = entry.metadata().expect("metadata").len();
        format!("{} of {size} bytes", entry.file_name().display())
    });
    files.collect::<Vec<_>>().join(", ")
}

/// One life of the server under the recorder, on a folder that holds `kept` already.
async fn recorded_life(
    recorder: &Path,
    data: &Path,
    journal: &Path,
    lies: bool,
    (life, length): (u64, Duration),
) -> (Journal, Vec<Writer>) {
    let before = Journal::before(data);
    let environment: [(&str, &OsStr); 5] = [
        ("LD_PRELOAD", recorder.as_os_str()),
        ("HINDCAST_RECORD_FOLDER", data.as_os_str()),
        ("HINDCAST_RECORD_JOURNAL", journal.as_os_str()),
        ("HINDCAST_RECORD_SYNC_MICROS", OsStr::new(SYNC_MICROS)),
        (
            "HINDCAST_RECORD_LIE",
            OsStr::new(if lies { "1" } else { "0" }),
        ),
    ];
    let mut process = Process::start(data, &environment).await;
    process.declare().await;
    let marked = journal.to_owned();
    let mark = move || std::fs::metadata(&marked).expect("the journal").len();
    let writers = Writers::start(&process, life, WRITERS, mark);
    SystemClock::shared().sleep(length).await;
    drop(process);
    let writers = writers.join().await;
    (before.read(journal), writers)
}

fn remove(folder: &Path) {
    std::fs::remove_dir_all(folder).expect("a folder to remove");
}

/// Cuts lives of the server at random moments; gives back how many cuts, and what was wrong.
async fn recorded_cuts(rounds: u64, lies: bool) -> Option<(u64, Vec<String>)> {
    let mut random = Random::seeded(if lies {
        "cuts with lies"
    } else {
        "recorded cuts"
    });
    let folder = tempfile::tempdir().expect("a folder");
    let recorder = folder.path().join("recorder.so");
    compile(
        "recorder.c",
        &recorder,
        &["-shared", "-fPIC", "-ldl", "-lpthread"],
    )?;
    let (mut problems, mut cuts, mut checked, mut early) = (Vec::new(), 0, 0, 0);
    // What the life before left, and what it had acknowledged by then.
    let mut data = folder.path().join("0/data");
    let mut kept: Vec<Writer> = Vec::new();
    std::fs::create_dir_all(&data).expect("a folder");
    for life in 0.. {
        let length = SHORTEST_LIFE_MS + random.below(LONGEST_LIFE_MS - SHORTEST_LIFE_MS);
        let journal = folder.path().join(format!("{life}.journal"));
        let length = (life, Duration::from_millis(length));
        let (journal, writers) = recorded_life(&recorder, &data, &journal, lies, length).await;
        // A folder is there until its cut is checked; one is kept for the next life.
        remove(&data);
        let mut left: Option<(PathBuf, Vec<Writer>)> = None;
        for cut in 0..CUTS_OF_LIFE.min(rounds - cuts) {
            // Opening writes more kinds of things than writing does.
            let bound = match random.below(3) {
                0 => journal.entry_count().min(STARTING),
                _ => journal.entry_count(),
            };
            let at = random.below(bound as u64 + 1) as usize;
            let mode = Mode::any(&mut random);
            let data = folder.path().join(format!("{}-{cut}/data", life + 1));
            journal.folder_at(at, mode, &mut random, &data);
            let mut due = kept.clone();
            due.extend(
                writers
                    .iter()
                    .map(|writer| writer.until(journal.position(at))),
            );
            checked += due.iter().map(Writer::next).sum::<u64>();
            cuts += 1;
            match open_and_check(&data, &due).await {
                Ok(()) => {
                    if let Some((before, _)) = left.replace((data, due)) {
                        remove(&before);
                    }
                    continue;
                }
                Err(problem) if problem == BEFORE_ALL => early += 1,
                Err(problem) => {
                    problems.push(format!("life {life}, entry {at}, {mode:?}: {problem}"))
                }
            }
            remove(&data);
        }
        if cuts == rounds {
            break;
        }
        // A lie may have left nothing to go on with.
        (data, kept) = left.unwrap_or_else(|| {
            (
                folder.path().join(format!("{}-new/data", life + 1)),
                Vec::new(),
            )
        });
        std::fs::create_dir_all(&data).expect("a folder");
    }
    println!(
        "{cuts} recorded cuts, {checked} acknowledged batches checked, {} problems; {early} came before the first answer and were refused",
        problems.len()
    );
    Some((cuts, problems))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_recorded_power_cuts() {
    let rounds = number("HINDCAST_POWER_CUT_ROUNDS").unwrap_or(RECORDED_ROUNDS);
    if let Some((_, problems)) = recorded_cuts(rounds, false).await {
        assert!(problems.is_empty(), "{problems:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_fdatasync_that_lies_is_found_out() {
    if let Some((cuts, problems)) = recorded_cuts(LYING_ROUNDS, true).await {
        let found = problems.len();
        println!(
            "{found} of {cuts} cuts lost something, for example: {}",
            problems
                .first()
                .map_or("", |text| &text[..text.len().min(300)])
        );
        assert!(found > 0, "the test cannot fail: it proves nothing");
    }
}

/// An ext4 in a file, mounted; taken down when it is dropped.
struct Ext4 {
    folder: tempfile::TempDir,
    is_mounted: bool,
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        if self.is_mounted {
            self.unmount();
        }
    }
}

impl Ext4 {
    /// `None`, after saying so, where that is not allowed.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let image = std::fs::File::create(folder.path().join("image")).expect("an image");
        image.set_len(1 << 30).expect("an image");
        compile("shutdown.c", &folder.path().join("shutdown"), &[])?;
        std::fs::create_dir(folder.path().join("mounted")).expect("a folder");
        let made = run(
            "mkfs.ext4",
            ["-q".as_ref(), folder.path().join("image").as_os_str()],
        );
        let mut ext4 = Self {
            folder,
            is_mounted: false,
        };
        match made.and_then(|()| ext4.mount()) {
            Ok(()) => Some(ext4),
            Err(problem) => {
                println!("skipped: no file system can be mounted here: {problem}");
                None
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn mount(&mut self) -> Result<(), String> {
        let image = self.folder.path().join("image");
        run(
            "mount",
            [
                "-o".as_ref(),
                "loop".as_ref(),
                image.as_os_str(),
                self.path().as_os_str(),
            ],
        )?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) {
        self.is_mounted = run("umount", [self.path().as_os_str()]).is_err();
    }

    /// The power goes: what the kernel has not written is gone.
    fn cut(&self) {
        let cut = run(
            self.folder.path().join("shutdown"),
            [self.path().as_os_str()],
        );
        cut.expect("the file system is shut down");
    }
}

fn run<const N: usize>(program: impl AsRef<OsStr>, arguments: [&OsStr; N]) -> Result<(), String> {
    let program = program.as_ref();
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// Cuts the power of one file system again and again; gives back how many cuts, and what was wrong.
async fn ext4_cuts(rounds: u64, lies: bool) -> Option<(u64, Vec<String>)> {
    let mut random = Random::seeded(if lies {
        "ext4 cuts with lies"
    } else {
        "ext4 cuts"
    });
    let clock: Arc<dyn Clock> = SystemClock::shared();
    let tools = tempfile::tempdir().expect("a folder");
    let recorder = tools.path().join("recorder.so");
    compile(
        "recorder.c",
        &recorder,
        &["-shared", "-fPIC", "-ldl", "-lpthread"],
    )?;
    let mut ext4 = Ext4::new()?;
    let (mut problems, mut kept, mut acknowledged) = (Vec::new(), Vec::new(), 0);
    for life in 0..rounds {
        let data = ext4.path().join(if lies {
            format!("data-{life}")
        } else {
            "data".to_owned()
        });
        let lie: [(&str, &OsStr); 2] = [
            ("LD_PRELOAD", recorder.as_os_str()),
            ("HINDCAST_RECORD_LIE", OsStr::new("1")),
        ];
        let mut process = Process::start(&data, if lies { &lie } else { &[] }).await;
        process.declare().await;
        let writers = Writers::start(&process, life, WRITERS, || 0);
        let length = SHORTEST_LIFE_MS + random.below(LONGEST_LIFE_MS - SHORTEST_LIFE_MS);
        clock.sleep(Duration::from_millis(length)).await;
        writers.stop();
        ext4.cut();
        drop(process);
        let writers = writers.join().await;
        ext4.unmount();
        ext4.mount().expect("mounts after the cut");
        acknowledged += writers.iter().map(Writer::next).sum::<u64>();
        if let Err(problem) = open_and_check(&data, &writers).await {
            problems.push(format!("life {life}: {problem}"));
        }
        if lies {
            remove(&data);
        } else {
            kept.extend(writers);
        }
    }
    // Later cuts have not taken what earlier ones left.
    if !lies && let Err(problem) = open_and_check(&ext4.path().join("data"), &kept).await {
        problems.push(format!("in the end: {problem}"));
    }
    println!(
        "{rounds} cuts of ext4, {acknowledged} acknowledged batches, {} problems",
        problems.len()
    );
    Some((rounds, problems))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_power_cuts_of_ext4() {
    let rounds = number("HINDCAST_POWER_CUT_ROUNDS").unwrap_or(EXT4_ROUNDS);
    if let Some((_, problems)) = ext4_cuts(rounds, false).await {
        assert!(problems.is_empty(), "{problems:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_fdatasync_that_lies_on_ext4_is_found_out() {
    if let Some((cuts, problems)) = ext4_cuts(LYING_ROUNDS / 4, true).await {
        println!("{} of {cuts} cuts lost something", problems.len());
        assert!(
            !problems.is_empty(),
            "the test cannot fail: it proves nothing"
        );
    }
}
