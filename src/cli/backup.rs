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

/// How copies in a folder are named: their basis stands between.
const PREFIX: &str = "hindcast-";
const SUFFIX: &str = ".backup";

/// Copies a running server's data into one file
///
/// The server goes on working. The copy is consistent: every answer at or before its basis is in it. The files of the
/// tables (the warehouse) are not.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file appears under its name when it is whole and on disk; until then it ends in .partial.\n\n\
    Examples:\n  hindcast backup --to hindcast-2026-03-01.backup\n  hindcast backup --to - | ssh other 'cat > hindcast.backup'\n  \
    hindcast backup --to-folder /srv/backups --keep 7"
)]
pub(crate) struct Args {
    /// The file to write; `-` is standard output
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "to_folder",
        conflicts_with = "to_folder"
    )]
    to: Option<PathBuf>,
    /// The folder to write to: the file is named after the basis of the copy, such as
    /// hindcast-20260301T021500.000000Z.backup
    #[arg(long, value_name = "FOLDER")]
    to_folder: Option<PathBuf>,
    /// With --to-folder: once the copy is there, removes older ones until this many are left, at least 1
    #[arg(long, value_name = "N", requires = "to_folder", conflicts_with = "to", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
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
    /// The basis, as names of files have it.
    #[serde(skip)]
    stamp: String,
    commits: u64,
    size_bytes: u64,
    /// Of the file.
    sha256: String,
    /// Older copies that made room for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed: Vec<String>,
}

impl Report {
    fn text(&self) -> String {
        let copied = format!(
            "{}: {} up to {}, {}, SHA-256 {}",
            self.file,
            output::counted(self.commits, "commit"),
            self.basis,
            times::show_size(self.size_bytes),
            self.sha256
        );
        if self.removed.is_empty() {
            return copied;
        }
        format!("{copied}\nRemoved: {}", self.removed.join(", "))
    }
}

/// Runs the command.
pub(crate) async fn run(args: &Args, client: &Client, format: Format) -> Result<(), Error> {
    let report = match (&args.to, &args.to_folder) {
        (Some(file), _) if file == Path::new("-") => {
            let mut out = io::stdout();
            let report = copy(args, client, &mut out, Path::new("standard output")).await?;
            eprintln!("{}", report.text());
            return Ok(());
        }
        (Some(file), _) => to_file(args, client, file).await?,
        (None, Some(folder)) => to_folder(args, client, folder).await?,
        (None, None) => return Err(Error::Usage("--to or --to-folder is needed".to_owned())),
    };
    match format {
        Format::Json => output::json_value_line(&report),
        Format::Table => output::line(report.text()),
    }
}

async fn to_file(args: &Args, client: &Client, file: &Path) -> Result<Report, Error> {
    if !args.force && file.exists() {
        return Err(Error::Usage(format!(
            "{} is there already; --force replaces it",
            file.display()
        )));
    }
    let mut name = file.to_owned().into_os_string();
    name.push(".partial");
    let mut partial = Partial::create(PathBuf::from(name))?;
    let report = copy(args, client, &mut partial.file, file).await?;
    partial.move_to(file)?;
    Ok(report)
}

/// A copy at a basis that is there already replaces that one: it is the same.
async fn to_folder(args: &Args, client: &Client, folder: &Path) -> Result<Report, Error> {
    let mut partial = Partial::create(folder.join("hindcast.backup.partial"))?;
    let mut report = copy(args, client, &mut partial.file, folder).await?;
    let file = folder.join(format!("{PREFIX}{}{SUFFIX}", report.stamp));
    partial.move_to(&file)?;
    report.file = file.display().to_string();
    if let Some(keep) = args.keep {
        report.removed = remove_older(folder, keep as usize)?;
    }
    Ok(report)
}

/// Removes the oldest copies in `folder` until `keep` are left. Returns their names.
fn remove_older(folder: &Path, keep: usize) -> Result<Vec<String>, Error> {
    let mut copies = Vec::new();
    for entry in fs::read_dir(folder).map_err(write_error(folder))? {
        let name = entry.map_err(write_error(folder))?.file_name();
        if let Some(name) = name.to_str()
            && name.starts_with(PREFIX)
            && name.ends_with(SUFFIX)
        {
            copies.push(name.to_owned());
        }
    }
    // They are named after times of one width: the order of names is theirs.
    copies.sort_unstable();
    copies.truncate(copies.len().saturating_sub(keep));
    for name in &copies {
        let path = folder.join(name);
        fs::remove_file(&path).map_err(write_error(&path))?;
    }
    Ok(copies)
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
        stamp: String::new(),
        commits: 0,
        size_bytes: 0,
        sha256: String::new(),
        removed: Vec::new(),
    };
    while let Some(message) = stream.message().await? {
        hasher.update(&message.chunk);
        out.write_all(&message.chunk).map_err(write_error(name))?;
        report.size_bytes += message.chunk.len() as u64;
        report.commits = message.commits_total;
        if let Some(basis) = &message.basis {
            report.basis = times::show(basis);
            report.stamp = times::show_compact(basis);
        }
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
