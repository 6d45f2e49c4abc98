//! What a permit costs: in process, over gRPC against an empty echo, and how much of a quota a saturating caller gets.
//!
//! `cargo bench --bench limits [-- [--quick] [ROW…]]`; without rows all of them: process, grpc, use. `--quick` takes under a
//! minute. `HINDCAST_BENCH_FIGURES` names a file that each figure is appended to, one JSON object per line.

mod process;
#[expect(dead_code, reason = "the store's benches use more of it")]
#[path = "../store/report.rs"]
mod report;
mod wire;

/// Whatever ends a run.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// How much is done.
pub(crate) struct Scale {
    /// Permits of one round in process.
    pub(crate) permits: usize,
    /// Calls of one round over gRPC.
    pub(crate) calls: usize,
    /// Times that each side is measured.
    pub(crate) rounds: usize,
    /// Seconds of saturation.
    pub(crate) seconds: u64,
}

const ROWS: [&str; 3] = ["process", "grpc", "use"];

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
    if let Some(unknown) = named.iter().find(|row| !ROWS.contains(row)) {
        return Err(format!("there is no row {unknown:?}").into());
    }
    let wants = |row: &str| named.is_empty() || named.contains(&row);
    let scale = Scale {
        permits: if quick { 200_000 } else { 1_000_000 },
        calls: if quick { 12_800 } else { 64_000 },
        rounds: if quick { 3 } else { 7 },
        seconds: if quick { 2 } else { 10 },
    };
    let mut report = report::Report::new()?;
    if wants("process") {
        process::permits(&scale, &mut report)?;
    }
    if wants("grpc") {
        wire::unary(&scale, &mut report)?;
    }
    if wants("use") {
        process::saturated(&scale, &mut report)?;
    }
    report.print();
    Ok(())
}
