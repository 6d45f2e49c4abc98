//! Loading entities from NDJSON: one mutation per line, streamed in batches, with errors that name the line.
//!
//! The offset of a batch is the number of its last line: a load that was cut off goes on after the line that the server has
//! on disk, however its lines were cut into batches.

mod line;
mod sender;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use indicatif::ProgressBar;
use prost::Message;
use serde::Serialize;

use self::{
    line::{Line, RawLine},
    sender::Sender,
};
use super::{client::Client, entity_type, error::Error, output, progress};
use crate::{
    ids::{IdSource, SystemIds},
    pb,
};

/// Mutations per batch; the server takes 10,000.
const BATCH_MUTATIONS: usize = 5_000;
/// Bytes per batch; the server takes 4 MiB.
const BATCH_BYTES: usize = 3 << 20;
/// Of the buffer in front of a file.
const READ_BYTES: usize = 256 << 10;

/// How a file is loaded.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The name of the load to go on with; `None`: a new one.
    pub(crate) resume: Option<String>,
    /// Fields of lines that say nothing.
    pub(crate) ignore: Vec<String>,
}

/// What a load did.
#[derive(Debug, Default, Serialize)]
pub(crate) struct LoadReport {
    /// Names the load, to go on with it.
    pub(crate) stream: String,
    /// Lines that were on disk before.
    pub(crate) skipped_lines: u64,
    /// Lines sent.
    pub(crate) mutations: u64,
    /// Commits.
    pub(crate) batches: u64,
    /// Versions that were new to the store.
    pub(crate) versions_written: u64,
    /// Basis at which all of it is there; unset if nothing was sent.
    pub(crate) basis: Option<String>,
}

impl LoadReport {
    /// `4,037 mutations in 1 batch, 4,037 versions written`.
    pub(crate) fn describe(&self) -> String {
        let mutations = output::counted(self.mutations, "mutation");
        let after = match self.skipped_lines {
            0 => String::new(),
            lines => format!(" after line {}", output::count(lines)),
        };
        if self.versions_written == 0 {
            return format!("{mutations}{after}, nothing to write: all of it is known already");
        }
        let batches = if self.batches == 1 {
            "1 batch".to_owned()
        } else {
            format!("{} batches", output::count(self.batches))
        };
        format!(
            "{mutations}{after} in {batches}, {} written",
            output::counted(self.versions_written, "version")
        )
    }
}

/// Loads the file at `path` (`-`: standard input; `.gz`: compressed). Each batch is all or nothing; batches before a failed
/// one stay.
///
/// # Errors
/// The file, a line of it, or the server's refusal of a batch.
pub(crate) async fn load(
    client: &Client,
    path: &Path,
    options: &Options,
) -> Result<LoadReport, Error> {
    let (reader, bar) = open(path).map_err(|cause| Error::File {
        path: path.to_owned(),
        cause,
    })?;
    let stream = options
        .resume
        .clone()
        .unwrap_or_else(|| format!("load-{}", SystemIds.unique()));
    let sender = Sender::open(client, path, stream, bar).await?;
    if options.resume.is_some() && sender.start_offset() == 0 {
        eprintln!("nothing of this load is known: starting with the first line");
    }
    let mut loader = Loader {
        client,
        path,
        options,
        types: HashMap::new(),
        batch: Batch::default(),
        sender,
    };
    let read = loader.read(reader).await;
    // What was sent is waited for in any case; a refusal of it comes before a fault of a later line.
    let report = loader.sender.finish().await?;
    read.map(|()| report)
}

fn open(path: &Path) -> io::Result<(Box<dyn BufRead>, ProgressBar)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), progress::spinner()));
    }
    let file = File::open(path)?;
    let bar = progress::bytes(file.metadata()?.len());
    let file = bar.wrap_read(file);
    let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if is_compressed {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(file)
    };
    Ok((Box::new(BufReader::with_capacity(READ_BYTES, reader)), bar))
}

/// Lines that are sent together.
#[derive(Debug, Default)]
struct Batch {
    mutations: Vec<pb::Mutation>,
    /// Of all of them.
    system_time: Option<prost_types::Timestamp>,
    /// Line of every mutation.
    lines: Vec<usize>,
    bytes: usize,
}

impl Batch {
    fn has_room_for(&self, line: &Line, bytes: usize) -> bool {
        self.mutations.is_empty()
            || (self.mutations.len() < BATCH_MUTATIONS
                && self.bytes + bytes <= BATCH_BYTES
                && self.system_time == line.system_time)
    }
}

struct Loader<'a> {
    client: &'a Client,
    path: &'a Path,
    options: &'a Options,
    types: HashMap<String, pb::EntityType>,
    batch: Batch,
    sender: Sender,
}

impl Loader<'_> {
    /// Sends all lines that are not on disk yet. Ends early, without an error, when the server has ended the stream: the
    /// sender knows why.
    async fn read(&mut self, mut reader: Box<dyn BufRead>) -> Result<(), Error> {
        let mut text = String::new();
        for number in 1.. {
            text.clear();
            let length = reader.read_line(&mut text).map_err(|cause| Error::File {
                path: self.path.to_owned(),
                cause,
            })?;
            if length == 0 {
                break;
            }
            let is_done = number as u64 <= self.sender.start_offset();
            if is_done || text.trim().is_empty() {
                continue;
            }
            if !self.line(number, &text).await? {
                return Ok(());
            }
        }
        self.send().await;
        Ok(())
    }

    /// `false`: the stream has ended.
    async fn line(&mut self, number: usize, text: &str) -> Result<bool, Error> {
        let refuse = |problem: String| Error::Line {
            path: self.path.to_owned(),
            line: number,
            problem,
        };
        let raw = RawLine::parse(text, &self.options.ignore).map_err(refuse)?;
        if !self.types.contains_key(&raw.entity_type) {
            let entity_type = entity_type::get(self.client, &raw.entity_type).await?;
            self.types.insert(raw.entity_type.clone(), entity_type);
        }
        let entity_type = self
            .types
            .get(&raw.entity_type)
            .ok_or_else(|| refuse("unknown entity type".to_owned()))?;
        let line = raw.into_line(entity_type).map_err(refuse)?;
        let bytes = line.mutation.encoded_len();
        if !self.batch.has_room_for(&line, bytes) && !self.send().await {
            return Ok(false);
        }
        self.batch.system_time = line.system_time;
        self.batch.mutations.push(line.mutation);
        self.batch.lines.push(number);
        self.batch.bytes += bytes;
        Ok(true)
    }

    async fn send(&mut self) -> bool {
        let batch = std::mem::take(&mut self.batch);
        self.sender.send(batch).await
    }
}
