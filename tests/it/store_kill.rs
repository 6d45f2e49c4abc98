//! `kill -9` of the real server under concurrent writers, again and again on one data folder.
//!
//! Shows that what the server acknowledged outlives its process. What it does not show: the operating system lives on and
//! keeps what was written without a sync; that is `store_power_cut`'s part.
//!
//! `HINDCAST_CRASH_ROUNDS` says how many rounds; without it as many as fit [`TIME`], and no fewer than [`FEWEST`].

use std::{path::Path, time::Duration};

use hindcast::{store::copy, time::SystemClock};

use crate::{
    store_lives::{Process, Random, Reader, Writer, Writers, check, number},
    store_support::open_database,
};

const TIME: Duration = Duration::from_secs(40);
const FEWEST: u64 = 10;
const WRITERS: usize = 8;
/// The folder is checked, as the kill left it, once in so many rounds.
const ROUNDS_PER_CHECK: u64 = 10;
/// A life under writers ends after at most this long.
const LONGEST_LIFE_MS: u64 = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kills() {
    let mut random = Random::seeded("kill -9");
    let clock = SystemClock::shared();
    let is_enough = |rounds: u64| match number("HINDCAST_CRASH_ROUNDS") {
        Some(wanted) => rounds >= wanted,
        None => rounds >= FEWEST && clock.monotonic_micros() >= TIME.as_micros() as i64,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut process = Process::start(&data, &[]).await;
    process.declare().await;
    let mut all: Vec<Writer> = Vec::new();
    let (mut rounds, mut acknowledged, mut cut_off) = (0, 0, 0);
    while !is_enough(rounds) {
        let writers = Writers::start(&process, rounds, WRITERS, || 0);
        clock
            .sleep(Duration::from_millis(random.below(LONGEST_LIFE_MS)))
            .await;
        drop(process);
        let mut writers = writers.join().await;
        if rounds % ROUNDS_PER_CHECK == 0 {
            check_folder(&data, false);
        }
        process = Process::start(&data, &[]).await;
        for writer in &mut writers {
            acknowledged += writer.next();
            check(&mut Reader::Server(&mut process), writer)
                .await
                .unwrap_or_else(|problem| panic!("round {rounds}: {problem}"));
            cut_off += u64::from(writer.finish(&mut process).await);
            check(&mut Reader::Server(&mut process), writer)
                .await
                .unwrap_or_else(|problem| panic!("round {rounds}, sent again: {problem}"));
        }
        all.extend(writers);
        rounds += 1;
    }
    for writer in &all {
        let still = check(&mut Reader::Server(&mut process), writer).await;
        still.unwrap_or_else(|problem| panic!("in the end: {problem}"));
    }
    drop(process);
    check_folder(&data, true);
    println!(
        "{rounds} kills, {acknowledged} acknowledged batches, all there; {cut_off} were there without having been acknowledged"
    );
}

/// `store check` finds nothing wrong with a folder that no server has open.
fn check_folder(data: &Path, is_deep: bool) {
    let database = open_database(&data.join(copy::DATABASE_FOLDER)).expect("opens");
    let scratch = data.join("beside");
    let deep = is_deep.then_some(scratch.as_path());
    let report = copy::check(&database, deep, &mut |_| {}).expect("walks");
    assert_eq!(report.problems, [], "deep: {is_deep}");
}
