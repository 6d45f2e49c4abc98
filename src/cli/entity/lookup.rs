//! `hindcast entity lookup`: the point-in-time join of a file of rows.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{read::describe, utc};
use crate::{
    cli::{
        client::Client,
        error::Error,
        json::{Json, enum_name},
        output::{self, Columns, Field, Format},
        times::{self, TimeArg},
        values,
    },
    pb::{self, EntityOutcome, lookup_request::Message, lookup_rows::Row},
};

/// Rows per message.
const MESSAGE_ROWS: usize = 2_000;
/// Messages that may be sent before their answers are read.
const MESSAGES_AHEAD: usize = 4;

/// Arguments of `entity lookup`.
#[derive(Debug, clap::Args)]
pub(crate) struct LookupArgs {
    /// The type's name
    #[arg(value_name = "TYPE")]
    entity_type: String,
    /// The file of rows; `-` is standard input
    #[arg(long, value_name = "FILE")]
    rows: PathBuf,
    /// The rows are CSV, whatever the file's name
    #[arg(long)]
    csv: bool,
    /// See what held just before the instant, not what begins at it
    #[arg(long)]
    strict: bool,
    /// Values that began to hold longer ago than this are too old (90s, 6h, 7d)
    #[arg(long, value_name = "DURATION")]
    max_age: Option<String>,
    /// What was known then, for rows that do not say; without it: what is known now
    #[arg(long, value_name = "TIME")]
    basis: Option<TimeArg>,
    /// Only these attributes, in this order
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    attributes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    entity_id: String,
    valid_time: String,
    basis: Option<String>,
}

pub(super) async fn lookup(
    args: &LookupArgs,
    client: &Client,
    format: Format,
) -> Result<(), Error> {
    let rows = read_rows(&args.rows, args.csv)?;
    let matching = if args.strict {
        pb::LookupMatch::Strict
    } else {
        pb::LookupMatch::Inclusive
    };
    let max_age = args.max_age.as_deref().map(times::parse_duration);
    let settings = pb::LookupSettings {
        entity_type: args.entity_type.clone(),
        basis: utc(args.basis.as_ref()),
        r#match: matching.into(),
        max_age: max_age.transpose()?.map(times::wire_duration),
        attributes: args.attributes.clone(),
    };
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    let batches: Vec<_> = rows.chunks(MESSAGE_ROWS).map(<[Row]>::to_vec).collect();
    let sending = tokio::spawn(async move {
        let messages = batches
            .into_iter()
            .map(|rows| Message::Rows(pb::LookupRows { rows }));
        for message in std::iter::once(Message::Settings(settings)).chain(messages) {
            let request = pb::LookupRequest {
                message: Some(message),
            };
            // The stream has ended: its status says why.
            if sender.send(request).await.is_err() {
                return;
            }
        }
    });
    let opened = client.store().lookup(ReceiverStream::new(receiver)).await;
    let mut stream = opened?.into_inner();
    let mut shown = Shown::new(format);
    let mut asked = rows.iter();
    while let Some(response) = stream.message().await? {
        if !response.attributes.is_empty() {
            shown.attributes(response.attributes);
        }
        for (row, result) in asked
            .by_ref()
            .take(response.results.len())
            .zip(&response.results)
        {
            shown.row(row, result)?;
        }
    }
    sending.abort();
    shown.finish()
}

/// Answers on their way to standard output.
struct Shown {
    format: Format,
    names: Vec<String>,
    columns: Columns,
}

impl Shown {
    fn new(format: Format) -> Self {
        Self {
            format,
            names: Vec::new(),
            columns: Columns::new(&["entity", "at", "valid from"]),
        }
    }

    fn attributes(&mut self, names: Vec<String>) {
        let headings = ["entity", "at", "valid from"];
        let headings: Vec<_> = headings
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .collect();
        self.columns = Columns::new(&headings);
        self.names = names;
    }

    fn row(&mut self, row: &Row, result: &pb::lookup_response::Result) -> Result<(), Error> {
        if self.format == Format::Json {
            let values = self.names.iter().zip(result.values.iter().map(Json));
            let attributes = values
                .map(|(name, value)| Ok((name.clone(), serde_json::to_value(value)?)))
                .collect::<Result<serde_json::Map<_, _>, serde_json::Error>>()
                .map_err(io::Error::from)?;
            return output::json_value_line(&json!({
                "entity_id": row.entity_id,
                "valid_time": row.valid_time.as_ref().map(times::show),
                "outcome": enum_name::<EntityOutcome>(result.outcome),
                "valid_from": result.valid_from.as_ref().map(times::show),
                "attributes": attributes,
            }));
        }
        let mut fields = vec![
            Field::from(row.entity_id.clone()),
            Field::from(times::show_or_dash(row.valid_time.as_ref())),
            Field::from(times::show_or_dash(result.valid_from.as_ref())),
        ];
        if result.outcome() == EntityOutcome::Value {
            let shown = result.values.iter().map(|value| match &value.kind {
                None => "-".to_owned(),
                Some(_) => values::show(value),
            });
            fields.extend(shown.map(Field::from));
        } else {
            fields.push(Field::from(describe(result.outcome())));
            fields.extend((1..self.names.len()).map(|_| Field::from("")));
        }
        self.columns.row(fields);
        Ok(())
    }

    fn finish(self) -> Result<(), Error> {
        match self.format {
            Format::Json => Ok(()),
            Format::Table => self.columns.print("no rows"),
        }
    }
}

/// The rows of a file.
fn read_rows(path: &Path, csv: bool) -> Result<Vec<Row>, Error> {
    let file_error = |cause| Error::File {
        path: path.to_owned(),
        cause,
    };
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(file_error)?))
    };
    let is_csv = csv || path.extension().is_some_and(|extension| extension == "csv");
    let mut heading: Option<Vec<String>> = None;
    let mut rows = Vec::new();
    for (index, line) in reader.lines().enumerate() {
        let line = line.map_err(file_error)?;
        let refuse = |problem: String| Error::Line {
            path: path.to_owned(),
            line: index + 1,
            problem,
        };
        if line.trim().is_empty() {
            continue;
        }
        let raw = match (&heading, is_csv) {
            (_, false) => serde_json::from_str(&line).map_err(|error| refuse(error.to_string()))?,
            (None, true) => {
                heading = Some(csv_fields(&line).map_err(refuse)?);
                continue;
            }
            (Some(heading), true) => csv_row(heading, &line).map_err(refuse)?,
        };
        rows.push(wire_row(raw).map_err(|error| refuse(error.to_string()))?);
    }
    Ok(rows)
}

fn wire_row(raw: RawRow) -> Result<Row, times::Error> {
    let instant = |text: &str| {
        text.parse::<TimeArg>()
            .map(|time| times::timestamp(time.utc()))
    };
    Ok(Row {
        entity_id: raw.entity_id,
        valid_time: Some(instant(&raw.valid_time)?),
        basis: raw.basis.as_deref().map(instant).transpose()?,
    })
}

fn csv_row(heading: &[String], line: &str) -> Result<RawRow, String> {
    let fields = csv_fields(line)?;
    if fields.len() != heading.len() {
        return Err(format!(
            "it has {} fields, the heading {}",
            fields.len(),
            heading.len()
        ));
    }
    let field = |name: &str| {
        let place = heading.iter().position(|heading| heading == name)?;
        fields.get(place).filter(|field| !field.is_empty()).cloned()
    };
    let required = |name: &str| field(name).ok_or_else(|| format!("{name} is missing"));
    Ok(RawRow {
        entity_id: required("entity_id")?,
        valid_time: required("valid_time")?,
        basis: field("basis"),
    })
}

/// The fields of a line of CSV (RFC 4180, without line breaks inside of quotes).
fn csv_fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        let is_empty = fields.last().is_none_or(String::is_empty);
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_none() => quoted = false,
            '"' if !quoted && is_empty => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            _ => {
                if let Some(field) = fields.last_mut() {
                    field.push(character);
                }
            }
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_lines_are_read() {
        let fields = |line| csv_fields(line).expect("reads");
        assert_eq!(fields("a,b,"), ["a", "b", ""]);
        assert_eq!(fields(r#""a,b","say ""x""",c"#), ["a,b", r#"say "x""#, "c"]);
        assert!(csv_fields(r#"a,"b"#).is_err());
        let heading = fields("basis,entity_id,extra,valid_time");
        let row = csv_row(&heading, "2013-01-02,JFK,x,2013-01-01").expect("reads");
        assert_eq!(
            (row.entity_id.as_str(), row.valid_time.as_str()),
            ("JFK", "2013-01-01")
        );
        assert_eq!(row.basis.as_deref(), Some("2013-01-02"));
        assert!(csv_row(&heading, "2013-01-02,,x,2013-01-01").is_err());
        assert!(csv_row(&heading, "JFK,2013-01-01").is_err());
    }
}
