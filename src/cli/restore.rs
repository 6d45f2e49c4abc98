//! `hindcast restore`: a data folder from a backup.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

use super::{
    error::Error,
    output::{self, Format},
    progress, times,
};
use crate::{
    server::DEFAULT_STORE_CACHE_BYTES,
    store::copy::{self, RestoreSummary},
    time::Clock,
};

/// Builds a data folder from a backup
///
/// Works without a server. The folder appears when all of the backup is verified and on disk; every answer at or before the
/// backup's basis is as it was.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hindcast restore --from hindcast-2026-03-01.backup --data-dir restored\n  \
    hindcast serve --data-dir restored"
)]
pub(crate) struct Args {
    /// The backup; `-` is standard input
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The folder to make; must not be there, or be empty
    #[arg(long, env = "HINDCAST_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Memory for the store's cache, such as 512MiB. Without it: 256MiB
    #[arg(long, env = "HINDCAST_STORE_CACHE", value_name = "SIZE", value_parser = times::parse_size)]
    store_cache: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    data_dir: String,
    basis: String,
    commits: u64,
    backup_time: String,
    hindcast_version: String,
}

/// Runs the command.
pub(crate) async fn run(args: &Args, format: Format, clock: Arc<dyn Clock>) -> Result<(), Error> {
    let (from, data_dir) = (args.from.clone(), args.data_dir.clone());
    let cache_bytes = args.store_cache.unwrap_or(DEFAULT_STORE_CACHE_BYTES);
    let restored =
        tokio::task::spawn_blocking(move || restore(&from, &data_dir, cache_bytes, clock))
            .await
            .map_err(|error| Error::Failed(format!("restoring broke off: {error}")))??;
    let report = Report {
        data_dir: args.data_dir.display().to_string(),
        basis: restored.basis.to_string(),
        commits: restored.commits,
        backup_time: restored.create_time.to_string(),
        hindcast_version: restored.version,
    };
    match format {
        Format::Json => output::json_value_line(&report),
        Format::Table => output::line(format!(
            "{}: {} up to {}, from a backup of {} by hindcast {}",
            report.data_dir,
            output::counted(report.commits, "commit"),
            report.basis,
            report.backup_time,
            report.hindcast_version
        )),
    }
}

fn restore(
    from: &Path,
    data_dir: &Path,
    cache_bytes: u64,
    clock: Arc<dyn Clock>,
) -> Result<RestoreSummary, Error> {
    let file_error = |cause| Error::File {
        path: from.to_owned(),
        cause,
    };
    let (input, bar): (Box<dyn Read>, _) = if from == Path::new("-") {
        (Box::new(io::stdin().lock()), progress::spinner())
    } else {
        let file = File::open(from).map_err(file_error)?;
        let length = file.metadata().map_err(file_error)?.len();
        (Box::new(file), progress::bytes(length))
    };
    let mut show = |progress: copy::RestoreProgress| {
        bar.set_position(progress.bytes_read);
        bar.set_message(format!(
            "· {} of {}",
            output::count(progress.commits_done),
            output::counted(progress.commits_total, "commit")
        ));
    };
    let input = BufReader::with_capacity(1 << 20, input);
    let restored = copy::restore(input, data_dir, cache_bytes, clock, &mut show)?;
    bar.finish_and_clear();
    Ok(restored)
}
