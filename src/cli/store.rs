//! `hindcast store`: a data folder looked at without a server.

use std::path::{Path, PathBuf};

use super::{
    Outcome,
    error::Error,
    output::{self, Columns, Format, row},
    progress, times,
};
use crate::{
    kv::Database,
    server::DEFAULT_STORE_CACHE_BYTES,
    store::copy::{self, CheckProgress, CheckReport, DATABASE_FOLDER, StoreStats},
};

/// A data folder: checking and measuring it while no server has it open
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Walks everything that is stored and says what is wrong with it
    ///
    /// Exit code 0: all is well; 1: something is wrong, one line each.
    #[command(after_help = "Example:\n  hindcast store check --data-dir hindcast-data --deep")]
    Check {
        #[command(flatten)]
        folder: Folder,
        /// Also derives all pages from the log again and compares: finds old bytes in a page's place. Needs room on
        /// the disk for a second database beside the folder
        #[arg(long)]
        deep: bool,
    },
    /// Counts what is stored
    Stats {
        #[command(flatten)]
        folder: Folder,
    },
}

/// The folder that is looked at.
#[derive(Debug, clap::Args)]
pub(crate) struct Folder {
    /// The server's data folder; the server must be stopped
    #[arg(long, env = "HINDCAST_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Memory for the store's cache, such as 512MiB. Without it: 256MiB
    #[arg(long, env = "HINDCAST_STORE_CACHE", value_name = "SIZE", value_parser = times::parse_size)]
    store_cache: Option<u64>,
}

/// Runs the command.
pub(crate) async fn run(command: &Command, format: Format) -> Result<Outcome, Error> {
    match command {
        Command::Check { folder, deep } => {
            let beside = deep.then(|| folder.data_dir.clone());
            let look = move |database: &Database, show: &mut dyn FnMut(CheckProgress)| {
                copy::check(database, beside.as_deref(), show)
            };
            print_report(&look_at(folder, look).await?, format)
        }
        Command::Stats { folder } => {
            print_stats(&look_at(folder, copy::stats).await?, format)?;
            Ok(Outcome::Done)
        }
    }
}

/// Opens the database and looks at it on a thread that may block.
async fn look_at<T: Send + 'static>(
    folder: &Folder,
    look: impl FnOnce(&Database, &mut dyn FnMut(CheckProgress)) -> copy::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let path = database_folder(&folder.data_dir)?;
    let cache_bytes = folder.store_cache.unwrap_or(DEFAULT_STORE_CACHE_BYTES);
    let work = move || {
        let database = Database::open(&path, cache_bytes).map_err(copy::Error::from)?;
        let spinner = progress::spinner();
        let outcome = look(&database, &mut |progress| {
            let CheckProgress { stage, done } = progress;
            spinner.set_message(format!("{} {stage}", output::count(done)));
        });
        spinner.finish_and_clear();
        outcome
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| {
        Error::Failed(format!(
            "the storage engine broke off: {error}; restore the data folder from a backup"
        ))
    })?
    .map_err(Error::from)
}

fn database_folder(data_dir: &Path) -> Result<PathBuf, Error> {
    let folder = data_dir.join(DATABASE_FOLDER);
    if folder.is_dir() {
        Ok(folder)
    } else {
        Err(Error::Configuration(format!(
            "{} is no data folder: it has no folder {DATABASE_FOLDER:?}",
            data_dir.display()
        )))
    }
}

fn print_report(report: &CheckReport, format: Format) -> Result<Outcome, Error> {
    if format == Format::Json {
        output::json_value_line(report)?;
    } else {
        for problem in &report.problems {
            output::line(problem.to_string())?;
        }
        let untold = report.problem_count - report.problems.len() as u64;
        if untold > 0 {
            output::line(format!("and {}", output::counted(untold, "more problem")))?;
        }
        output::line(summary(report))?;
    }
    Ok(if report.is_clean() {
        Outcome::Done
    } else {
        Outcome::Unsuccessful
    })
}

fn summary(report: &CheckReport) -> String {
    let mut text = format!(
        "{}, {}, {}, {}: ",
        output::counted(report.commits, "commit"),
        output::counted(report.entities, "entity"),
        output::counted(report.versions, "version"),
        output::counted(report.other_values, "other value"),
    );
    text.push_str(&if report.is_clean() {
        "nothing is wrong".to_owned()
    } else {
        output::counted(report.problem_count, "problem")
    });
    if report.compared_entities > 0 {
        let compared = output::counted(report.compared_entities, "history");
        text.push_str(&format!("; {compared} compared with the log"));
    }
    if report.unapplied_commits > 0 {
        let unapplied = output::counted(report.unapplied_commits, "commit");
        text.push_str(&format!("; the next start applies {unapplied}"));
    }
    text
}

fn print_stats(stats: &StoreStats, format: Format) -> Result<(), Error> {
    if format == Format::Json {
        return output::json_value_line(stats);
    }
    output::line(format!("{} on disk", times::show_size(stats.disk_bytes)))?;
    let mut columns = Columns::new(&[
        "keyspace",
        ">keys",
        ">key bytes",
        ">value bytes",
        ">largest",
    ]);
    for keyspace in &stats.keyspaces {
        columns.row(row![
            keyspace.name.as_str(),
            output::count(keyspace.keys),
            output::count(keyspace.key_bytes),
            output::count(keyspace.value_bytes),
            output::count(keyspace.max_value_bytes),
        ]);
    }
    columns.print("no keyspaces")?;
    let mut columns = Columns::new(&["entity type", ">entities"]);
    for (name, count) in &stats.entities {
        columns.row(row![name.as_str(), output::count(*count)]);
    }
    columns.print("no entities")
}
