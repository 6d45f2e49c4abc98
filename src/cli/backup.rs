//! `hindcast backup`: a copy of a running server's data folder in one file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    client::Client,
    error::Error,
    output::{self, Format},
    progress,
    times::{self, TimeArg},
};
use crate::pb;

/// Copies a running server's data into one file
///
/// The server goes on working. The copy is consistent: every answer at or before its basis is in it. The files of the
/// tables (the warehouse) are not.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file appears under its name when it is whole and on disk; until then it ends in .partial.\n\n\
    Examples:\n  hindcast backup --to hindcast-2026-03-01.backup\n  hindcast backup --to - | ssh other 'cat > hindcast.backup'"
)]
pub(crate) struct Args {
    /// The file to write; `-` is standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Copies what was known at this system time. Without it: everything
    #[arg(long, value_name = "TIME")]
    basis: Option<TimeArg>,
    /// Replaces the file if it is there
    #[arg(long)]
    force: bool,
}

/// What a backup holds.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    basis: String,
    commits: u64,
    size_bytes: u64,
    /// Of the file.
    sha256: String,
}

/// Runs the command.
pub(crate) async fn run(args: &Args, client: &Client, format: Format) -> Result<(), Error> {
    let is_stdout = args.to == Path::new("-");
    if !is_stdout && !args.force && args.to.exists() {
        return Err(Error::Usage(format!(
            "{} is there already; --force replaces it",
            args.to.display()
        )));
    }
    let report = if is_stdout {
        copy(
            args,
            client,
            &mut io::stdout(),
            Path::new("standard output"),
        )
        .await?
    } else {
        to_file(args, client).await?
    };
    let text = format!(
        "{}: {} up to {}, {}, SHA-256 {}",
        report.file,
        output::counted(report.commits, "commit"),
        report.basis,
        times::show_size(report.size_bytes),
        report.sha256
    );
    match (format, is_stdout) {
        (_, true) => eprintln!("{text}"),
        (Format::Json, false) => output::json_value_line(&report)?,
        (Format::Table, false) => output::line(text)?,
    }
    Ok(())
}

async fn to_file(args: &Args, client: &Client) -> Result<Report, Error> {
    let mut name = args.to.clone().into_os_string();
    name.push(".partial");
    let partial = Partial::create(PathBuf::from(name))?;
    let mut file = partial.file.try_clone().map_err(write_error(&args.to))?;
    let report = copy(args, client, &mut file, &args.to).await?;
    partial.move_to(&args.to)?;
    Ok(report)
}

async fn copy(
    args: &Args,
    client: &Client,
    out: &mut (dyn Write + Send),
    name: &Path,
) -> Result<Report, Error> {
    let request = pb::BackupRequest {
        basis: args.basis.as_ref().map(|time| times::timestamp(time.utc())),
    };
    let mut stream = client.admin().backup(request).await?.into_inner();
    let bar = progress::commits();
    let mut hasher = Sha256::new();
    let mut report = Report {
        file: name.display().to_string(),
        basis: String::new(),
        commits: 0,
        size_bytes: 0,
        sha256: String::new(),
    };
    while let Some(message) = stream.message().await? {
        hasher.update(&message.chunk);
        out.write_all(&message.chunk).map_err(write_error(name))?;
        report.size_bytes += message.chunk.len() as u64;
        report.commits = message.commits_total;
        report.basis = message.basis.as_ref().map(times::show).unwrap_or_default();
        show(&bar, &message, report.size_bytes);
    }
    out.flush().map_err(write_error(name))?;
    bar.finish_and_clear();
    report.sha256 = output::hex(&hasher.finalize());
    Ok(report)
}

fn show(bar: &ProgressBar, message: &pb::BackupResponse, size_bytes: u64) {
    bar.set_length(message.commits_total);
    bar.set_position(message.commits_done);
    bar.set_message(times::show_size(size_bytes));
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::WriteFile {
        path: path.clone(),
        cause,
    }
}

/// A file that is removed unless it was moved to its name.
struct Partial {
    path: PathBuf,
    file: File,
    is_moved: bool,
}

impl Partial {
    fn create(path: PathBuf) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&path)
            .map_err(write_error(&path))?;
        Ok(Self {
            path,
            file,
            is_moved: false,
        })
    }

    fn move_to(mut self, name: &Path) -> Result<(), Error> {
        self.file.sync_all().map_err(write_error(name))?;
        fs::rename(&self.path, name).map_err(write_error(name))?;
        self.is_moved = true;
        let folder = name
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(write_error(folder))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_moved
            && let Err(error) = fs::remove_file(&self.path)
        {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
