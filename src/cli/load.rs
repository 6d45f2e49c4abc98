//! Loading entities from NDJSON: one mutation per line, sent in batches, with errors that name the line.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{client::Client, entity_type, error::Error, output, times, values};
use crate::{
    pb::{self, end, mutation::Operation, put},
    time::ValidTime,
};

/// Mutations per batch; the server takes 10,000.
const BATCH_MUTATIONS: usize = 5_000;
/// Bytes per batch; the server takes 4 MiB.
const BATCH_BYTES: usize = 3 << 20;
/// How often the progress bar moves by itself.
const TICK: Duration = Duration::from_millis(100);

/// What a load did.
#[derive(Debug, Default, Serialize)]
pub(crate) struct LoadReport {
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
        if self.versions_written == 0 {
            return format!("{mutations}, nothing to write: all of it is known already");
        }
        let batches = if self.batches == 1 {
            "1 batch".to_owned()
        } else {
            format!("{} batches", self.batches)
        };
        format!(
            "{mutations} in {batches}, {} written",
            output::counted(self.versions_written, "version")
        )
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    Put,
    End,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Until {
    Forever,
    NextChange,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    op: Option<Op>,
    entity_type: String,
    entity_id: String,
    #[serde(alias = "value")]
    attributes: Option<serde_json::Map<String, Json>>,
    valid_from: Option<String>,
    valid_to: Option<String>,
    until: Option<Until>,
}

/// Where a line's range ends.
enum RangeEnd {
    NextChange,
    At(prost_types::Timestamp),
    Forever,
}

/// Loads the file at `path` (`-`: standard input). Each batch is all or nothing; batches before a failed one stay.
///
/// # Errors
/// The file, a line of it, or the server's refusal of a batch.
pub(crate) async fn load(client: &Client, path: &Path) -> Result<LoadReport, Error> {
    let (reader, bar) = open(path).map_err(|cause| Error::File {
        path: path.to_owned(),
        cause,
    })?;
    let mut loader = Loader {
        client,
        path,
        types: HashMap::new(),
        batch: Batch::default(),
        report: LoadReport::default(),
    };
    for (index, text) in reader.lines().enumerate() {
        let text = text.map_err(|cause| Error::File {
            path: path.to_owned(),
            cause,
        })?;
        bar.inc(text.len() as u64 + 1);
        if !text.trim().is_empty() {
            loader.line(index + 1, &text).await?;
        }
    }
    loader.send().await?;
    bar.finish_and_clear();
    Ok(loader.report)
}

fn open(path: &Path) -> io::Result<(Box<dyn BufRead>, ProgressBar)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), ProgressBar::new_spinner()));
    }
    let file = File::open(path)?;
    let bar = ProgressBar::new(file.metadata()?.len());
    let template = "   [{bar:28.cyan/dim}] {bytes} of {total_bytes}";
    bar.set_style(
        ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars(output::BAR_CHARS),
    );
    bar.enable_steady_tick(TICK);
    Ok((Box::new(BufReader::new(file)), bar))
}

#[derive(Default)]
struct Batch {
    mutations: Vec<pb::Mutation>,
    /// Line of every mutation.
    lines: Vec<usize>,
    bytes: usize,
}

struct Loader<'a> {
    client: &'a Client,
    path: &'a Path,
    types: HashMap<String, pb::EntityType>,
    batch: Batch,
    report: LoadReport,
}

impl Loader<'_> {
    async fn line(&mut self, line: usize, text: &str) -> Result<(), Error> {
        let refuse = |problem: String| Error::Line {
            path: self.path.to_owned(),
            line,
            problem,
        };
        let raw: RawLine = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        if !self.types.contains_key(&raw.entity_type) {
            let entity_type = entity_type::get(self.client, &raw.entity_type).await?;
            self.types.insert(raw.entity_type.clone(), entity_type);
        }
        let entity_type = self
            .types
            .get(&raw.entity_type)
            .ok_or_else(|| refuse("unknown entity type".to_owned()))?;
        let mutation = mutation(raw, entity_type).map_err(refuse)?;
        let bytes = mutation.encoded_len();
        if self.batch.mutations.len() == BATCH_MUTATIONS || self.batch.bytes + bytes > BATCH_BYTES {
            self.send().await?;
        }
        self.batch.mutations.push(mutation);
        self.batch.lines.push(line);
        self.batch.bytes += bytes;
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Error> {
        let Batch {
            mutations,
            lines,
            bytes: _,
        } = std::mem::take(&mut self.batch);
        let (Some(first_line), Some(last_line)) = (lines.first().copied(), lines.last().copied())
        else {
            return Ok(());
        };
        self.report.mutations += mutations.len() as u64;
        let request = pb::WriteRequest {
            mutations,
            request_id: String::new(),
            ..Default::default()
        };
        let response = self
            .client
            .store()
            .write(request)
            .await
            .map_err(|status| Error::Batch {
                path: self.path.to_owned(),
                first_line,
                last_line,
                status: Box::new(status),
                lines,
            })?;
        let response = response.into_inner();
        self.report.batches += 1;
        self.report.versions_written += response.versions_written;
        self.report.basis = response.system_time.as_ref().map(times::show);
        Ok(())
    }
}

fn mutation(raw: RawLine, entity_type: &pb::EntityType) -> Result<pb::Mutation, String> {
    let instant = |name: &str, text: String| {
        ValidTime::parse(&text)
            .map(times::timestamp)
            .map_err(|error| format!("{name}: {error}"))
    };
    let valid_from = raw
        .valid_from
        .map(|text| instant("valid_from", text))
        .transpose()?;
    let range_end = match (raw.valid_to, raw.until) {
        (Some(_), Some(_)) => return Err("give either valid_to or until".to_owned()),
        (Some(text), None) => RangeEnd::At(instant("valid_to", text)?),
        (None, Some(Until::Forever)) => RangeEnd::Forever,
        (None, Some(Until::NextChange) | None) => RangeEnd::NextChange,
    };
    let operation = match (raw.op.unwrap_or(Op::Put), raw.attributes) {
        (Op::Put, Some(attributes)) => {
            let attributes = values::from_json_object(entity_type, &attributes)
                .map_err(|error| error.to_string())?;
            Operation::Put(pb::Put {
                attributes,
                valid_from,
                until: Some(put_until(&range_end)),
            })
        }
        (Op::Put, None) => return Err("a put needs attributes".to_owned()),
        (Op::End, None) => Operation::End(pb::End {
            valid_from,
            until: Some(end_until(&range_end)),
        }),
        (Op::End, Some(_)) => return Err("an end has no attributes".to_owned()),
    };
    Ok(pb::Mutation {
        entity_type: raw.entity_type,
        entity_id: raw.entity_id,
        operation: Some(operation),
        ..Default::default()
    })
}

fn put_until(range_end: &RangeEnd) -> put::Until {
    match range_end {
        RangeEnd::NextChange => put::Until::UntilNextChange(pb::UntilNextChange {}),
        RangeEnd::At(instant) => put::Until::ValidTo(*instant),
        RangeEnd::Forever => put::Until::Forever(pb::Forever {}),
    }
}

fn end_until(range_end: &RangeEnd) -> end::Until {
    match range_end {
        RangeEnd::NextChange => end::Until::UntilNextChange(pb::UntilNextChange {}),
        RangeEnd::At(instant) => end::Until::ValidTo(*instant),
        RangeEnd::Forever => end::Until::Forever(pb::Forever {}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Operation, String> {
        let seats = pb::Attribute {
            name: "seats".to_owned(),
            kind: pb::AttributeKind::Int64.into(),
            ..Default::default()
        };
        let aircraft = pb::EntityType {
            name: "aircraft".to_owned(),
            attributes: vec![seats],
            ..Default::default()
        };
        let raw: RawLine = serde_json::from_str(text).map_err(|error| error.to_string())?;
        mutation(raw, &aircraft)?
            .operation
            .ok_or_else(|| "no operation".to_owned())
    }

    #[test]
    fn lines_become_mutations() {
        let line = r#"{"entity_type":"aircraft","entity_id":"N1","value":{"seats":55},"valid_from":"2013-01-01T00:00:00Z"}"#;
        let Ok(Operation::Put(put)) = parse(line) else {
            panic!("no put")
        };
        assert_eq!(
            put.until,
            Some(put::Until::UntilNextChange(pb::UntilNextChange {}))
        );
        assert_eq!(put.attributes.len(), 1);
        let line = r#"{"op":"end","entity_type":"aircraft","entity_id":"N1","until":"forever"}"#;
        let Ok(Operation::End(end)) = parse(line) else {
            panic!("no end")
        };
        assert_eq!(
            (end.valid_from, end.until),
            (None, Some(end::Until::Forever(pb::Forever {})))
        );
    }

    #[test]
    fn bad_lines_say_why() {
        for (rest, part) in [
            (
                r#""attributes":{"seats":"x"}"#,
                "seats: cannot read \"x\" as an int64",
            ),
            (
                r#""attributes":{},"validfrom":"2013""#,
                "unknown field `validfrom`",
            ),
            (
                r#""attributes":{},"valid_from":"2013""#,
                "valid_from: cannot read \"2013\"",
            ),
            (
                r#""attributes":{},"valid_to":"2013-01-01T00:00:00Z","until":"forever""#,
                "either valid_to or until",
            ),
            (r#""op":"end","attributes":{}"#, "an end has no attributes"),
            (r#""op":"put""#, "a put needs attributes"),
            (r#""op":"erase""#, "unknown variant"),
        ] {
            let line = format!(r#"{{"entity_type":"aircraft","entity_id":"N1",{rest}}}"#);
            let message = parse(&line).expect_err(rest);
            assert!(message.contains(part), "{message}");
        }
    }
}
