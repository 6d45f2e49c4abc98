//! The store against bare baselines: every figure is a ratio of two things measured in turn in one run.
//!
//! `cargo bench --bench store [-- [--quick] [ROW…]]`; without rows all of them: asof, grpc, corrections, writes, ingest,
//! scan, disk, join, and versions (for `benches/peers`, on demand only). `--quick` takes under a minute.
//! `HINDCAST_BENCH_ENTITIES`, `HINDCAST_BENCH_CORRECTIONS` and `HINDCAST_BENCH_ROUNDS` set sizes. `HINDCAST_BENCH_FIGURES`
//! names a file that each figure is appended to, one JSON object per line.

mod bed;
mod bulk;
mod corrections;
mod join;
mod reads;
#[expect(dead_code, reason = "the backfills' benches use more of it")]
mod report;
mod wire;
mod writes;

/// Whatever ends a run.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// How much is done.
pub(crate) struct Scale {
    /// Entities of the as-of rows.
    pub(crate) read_entities: usize,
    /// Entities of the bulk rows.
    pub(crate) bulk_entities: usize,
    /// Corrections of one entity.
    pub(crate) corrections: usize,
    /// Reads of one round.
    pub(crate) reads: usize,
    /// Times that both sides are measured in turn.
    pub(crate) rounds: usize,
    /// Seconds of writing in one round.
    pub(crate) writing_secs: f64,
}

impl Scale {
    fn new(quick: bool) -> Result<Self, Fault> {
        let pick = |name: &str, full: usize, small: usize| match std::env::var(name) {
            Ok(text) => Ok(text.parse()?),
            Err(_) => Ok::<usize, Fault>(if quick { small } else { full }),
        };
        Ok(Self {
            read_entities: if quick { 5_000 } else { 50_000 },
            bulk_entities: pick("HINDCAST_BENCH_ENTITIES", 1_000_000, 50_000)?,
            corrections: pick("HINDCAST_BENCH_CORRECTIONS", 1_000_000, 5_000)?,
            reads: if quick { 40_000 } else { 200_000 },
            rounds: pick("HINDCAST_BENCH_ROUNDS", 7, 3)?,
            writing_secs: if quick { 1.0 } else { 3.0 },
        })
    }
}

const ROWS: [&str; 8] = [
    "asof",
    "grpc",
    "corrections",
    "writes",
    "ingest",
    "scan",
    "disk",
    "join",
];

fn main() -> Result<(), Fault> {
    // cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|text| text != "--bench")
        .collect();
    let quick = arguments.iter().any(|text| text == "--quick");
    let named: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|text| !text.starts_with("--"))
        .collect();
    let wants = |row: &str| named.contains(&row) || (named.is_empty() && ROWS.contains(&row));
    if let Some(unknown) = named
        .iter()
        .find(|row| !ROWS.contains(row) && **row != "versions")
    {
        return Err(format!("there is no row {unknown:?}").into());
    }
    let scale = Scale::new(quick)?;
    let mut report = report::Report::new()?;
    if wants("asof") {
        reads::as_of(&scale, &mut report)?;
    }
    if wants("grpc") {
        wire::unary(&scale, &mut report)?;
    }
    if wants("corrections") {
        corrections::worst_pattern(&scale, &mut report)?;
    }
    if wants("writes") {
        writes::durable(&scale, &mut report)?;
    }
    if wants("ingest") || wants("scan") || wants("disk") {
        bulk::ingest_scan_disk(&scale, &mut report)?;
    }
    if wants("join") {
        join::flights_weather(&scale, &mut report)?;
    }
    if wants("versions") {
        reads::by_versions(&scale, &mut report)?;
    }
    report.print();
    Ok(())
}
