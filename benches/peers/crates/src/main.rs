//! As-of reads of one key with more and more versions, in the crates that keep versions.
//!
//! Both know one axis of time: a read asks for the value as of a time. hindcast's reads, beside which these figures stand,
//! ask on two axes. `HINDCAST_PEERS_VERSIONS` (comma-separated counts) and `HINDCAST_PEERS_SECS` (longest load) set sizes.
//! Prints one JSON object per line: who, versions, microseconds per read.

use std::{
    collections::BTreeMap,
    error::Error,
    time::{Duration, Instant},
};

use cozo::{DataValue, DbInstance, NamedRows, ScriptMutability};
use surrealkv::{Mode, TreeBuilder};

type Fault = Box<dyn Error + Send + Sync>;

/// Versions that cozo takes in one call.
const CHUNK: usize = 10_000;
/// Reading ends after this many reads or this long.
const READS: u64 = 20_000;
const READING: Duration = Duration::from_secs(5);

fn main() -> Result<(), Fault> {
    let counts =
        std::env::var("HINDCAST_PEERS_VERSIONS").unwrap_or("1,100,10000,1000000".to_owned());
    let longest = match std::env::var("HINDCAST_PEERS_SECS") {
        Ok(text) => Duration::from_secs(text.parse()?),
        Err(_) => Duration::from_secs(120),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    for count in counts.split(',') {
        let count = count.parse()?;
        tell(
            "surrealkv 1.2.0",
            count,
            runtime.block_on(surrealkv(count, longest))?,
        );
        tell("cozo 0.7.6", count, cozo(count, longest)?);
    }
    Ok(())
}

fn tell(who: &str, versions: u64, micros: Option<f64>) {
    let micros = micros.map_or("null".to_owned(), |micros| format!("{micros:.3}"));
    println!("{{\"who\":\"{who}\",\"versions\":{versions},\"micros\":{micros}}}");
}

/// SplitMix64.
fn random(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % bound
}

/// Microseconds per read of a time in `1..=count`; `read` says what it found.
fn time_reads(count: u64, mut read: impl FnMut(u64) -> Result<u64, Fault>) -> Result<f64, Fault> {
    let (start, mut state, mut reads) = (Instant::now(), 1, 0);
    while reads < READS && start.elapsed() < READING {
        let at = 1 + random(&mut state, count);
        let found = read(at)?;
        if found != at {
            return Err(format!("{found} as of {at}").into());
        }
        reads += 1;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / reads as f64)
}

async fn surrealkv(count: u64, longest: Duration) -> Result<Option<f64>, Fault> {
    let folder = tempfile::tempdir()?;
    let tree = TreeBuilder::new()
        .with_path(folder.path().to_owned())
        .with_versioning(true, 0)
        .build()?;
    let start = Instant::now();
    for version in 1..=count {
        let mut transaction = tree.begin()?;
        transaction.set_at("one", version.to_be_bytes().to_vec(), version)?;
        transaction.commit().await?;
        if start.elapsed() > longest {
            return Ok(None);
        }
    }
    let transaction = tree.begin_with_mode(Mode::ReadOnly)?;
    let micros = time_reads(count, |at| {
        let value = transaction.get_at("one", at)?.ok_or("nothing there")?;
        Ok(u64::from_be_bytes(value.as_slice().try_into()?))
    })?;
    drop(transaction);
    tree.close().await?;
    Ok(Some(micros))
}

fn cozo(count: u64, longest: Duration) -> Result<Option<f64>, Fault> {
    let folder = tempfile::tempdir()?;
    let fault = |report| Fault::from(format!("{report:?}"));
    let db = DbInstance::new("sqlite", folder.path().join("db"), "").map_err(fault)?;
    db.run_default(":create station {id: String, at: Validity => value: Int}")
        .map_err(fault)?;
    let start = Instant::now();
    let versions: Vec<u64> = (1..=count).collect();
    for chunk in versions.chunks(CHUNK) {
        let rows = chunk.iter().map(|&version| {
            let at = DataValue::List(vec![DataValue::from(version as i64), DataValue::from(true)]);
            DataValue::List(vec![
                DataValue::from("one"),
                at,
                DataValue::from(version as i64),
            ])
        });
        let rows = BTreeMap::from([("rows".to_owned(), DataValue::List(rows.collect()))]);
        let put = "?[id, at, value] <- $rows :put station {id, at => value}";
        db.run_script(put, rows, ScriptMutability::Mutable)
            .map_err(fault)?;
        if start.elapsed() > longest {
            return Ok(None);
        }
    }
    let read = |at: u64| -> Result<u64, Fault> {
        let at = BTreeMap::from([("at".to_owned(), DataValue::from(at as i64))]);
        let script = "?[value] := *station{id: 'one', value @ $at}";
        let found: NamedRows = db
            .run_script(script, at, ScriptMutability::Immutable)
            .map_err(fault)?;
        let value = found
            .rows
            .first()
            .and_then(|row| row[0].get_int())
            .ok_or("nothing there")?;
        Ok(value as u64)
    };
    time_reads(count, read).map(Some)
}
