//! A call's definition, checked and ready.

use std::{sync::Arc, time::Duration};

use reqwest::header::HeaderName;
use sha2::{Digest, Sha256};

use super::{
    column::Column,
    refusal::{Fault, Refused},
    secret::SecretText,
    template::{UrlTemplate, VALID_TIME, encoded},
};
use crate::{
    catalog::{CallSpec, TransformSpec, answers_of, call_type_name, check_name},
    store::{MAX_ENTITY_ID_BYTES, MAX_NAME_BYTES},
};

/// Most calls of one transform.
const MAX_CALLS: usize = 16;
/// Most columns of one call.
const MAX_COLUMNS: usize = 64;
/// Most headers of one call.
const MAX_HEADERS: usize = 32;
/// Most tries of one call after the first.
const MAX_RETRIES: u32 = 20;
/// Bounds of one request's time.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// When an answer came: an attribute of every answer.
pub(super) const ASKED_AT: &str = "asked_at";
/// Columns that answers have anyway.
const TAKEN_COLUMNS: [&str; 6] = [
    "entity_id",
    "valid_from",
    "valid_to",
    "system_from",
    "system_to",
    ASKED_AT,
];
/// Headers that the connection itself is made of.
const CONNECTION_HEADERS: [&str; 7] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
];

/// A call, checked and ready.
#[derive(Debug, Clone)]
pub struct Definition {
    pub(super) transform: Arc<str>,
    pub(super) spec: CallSpec,
    pub(super) url: UrlTemplate,
    pub(super) headers: Vec<(HeaderName, SecretText)>,
    pub(super) columns: Vec<Column>,
    digest: String,
}

impl Definition {
    /// The calls of a transform.
    ///
    /// # Errors
    /// The first mistake in them.
    pub fn all(spec: &TransformSpec) -> Result<Vec<Arc<Self>>, Refused> {
        if spec.calls.len() > MAX_CALLS {
            return Err(Refused::new(
                Fault::Bounds,
                "transform.calls",
                format!("there are {}, of {MAX_CALLS} at most", spec.calls.len()),
            ));
        }
        let mut definitions: Vec<Arc<Self>> = Vec::new();
        for (index, call) in spec.calls.iter().enumerate() {
            let field = format!("transform.calls[{index}]");
            check_call_name(spec, &format!("{field}.name"), call)?;
            if definitions.iter().any(|other| other.name() == call.name) {
                return Err(Refused::new(
                    Fault::Name,
                    format!("{field}.name"),
                    format!("there are two calls named {:?}", call.name),
                ));
            }
            definitions.push(Arc::new(Self::compile(&spec.name, &field, call)?));
        }
        Ok(definitions)
    }

    fn compile(transform: &str, field: &str, spec: &CallSpec) -> Result<Self, Refused> {
        check_bounds(field, spec)?;
        let url = UrlTemplate::parse(&format!("{field}.url"), &spec.url)?;
        let is_timed = url.placeholders().iter().any(|name| name == VALID_TIME);
        if !is_timed && !spec.allow_current_state {
            return Err(Refused::new(
                Fault::Time,
                format!("{field}.url"),
                "it names no {valid_time}, so it answers what is true now, whatever partition asks: name it, or say \
                 allow_current_state = true",
            ));
        }
        if is_timed && spec.allow_current_state {
            return Err(Refused::new(
                Fault::Time,
                format!("{field}.allow_current_state"),
                "its URL names {valid_time}: it does not ask for current state",
            ));
        }
        Ok(Self {
            transform: transform.into(),
            url,
            headers: headers(field, spec)?,
            columns: columns(field, spec)?,
            digest: digest(spec),
            spec: spec.clone(),
        })
    }

    /// The function's name in SQL.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The function's arguments, in order.
    pub fn arguments(&self) -> &[String] {
        self.url.placeholders()
    }

    /// The place of the instant among the arguments; `None`: it asks for what is true now.
    pub fn valid_time(&self) -> Option<usize> {
        self.arguments().iter().position(|name| name == VALID_TIME)
    }

    /// The entity type that keeps its answers.
    pub fn entity_type(&self) -> String {
        answers_of(&self.transform, &self.spec.name)
    }

    /// The names of its columns, in order.
    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// The rate limit.
    pub fn rate_limit(&self) -> &str {
        &self.spec.rate_limit
    }

    /// The entity that keeps the answer to `values`, one for each argument. Definitions that ask otherwise keep others.
    pub fn entity_id(&self, values: &[String]) -> String {
        let values: Vec<_> = values.iter().map(|value| encoded(value)).collect();
        let id = format!("{}/{}", self.digest, values.join("/"));
        if id.len() <= MAX_ENTITY_ID_BYTES {
            return id;
        }
        format!("{}/sha256:{}", self.digest, hex(&Sha256::digest(&id)))
    }
}

fn check_call_name(spec: &TransformSpec, field: &str, call: &CallSpec) -> Result<(), Refused> {
    let refused = |problem: String| Err(Refused::new(Fault::Name, field, problem));
    if let Err(violation) = check_name(field, &call.name) {
        return refused(violation.problem);
    }
    let answers = answers_of(&spec.name, &call.name);
    if answers.len() > MAX_NAME_BYTES {
        return refused(format!(
            "its answers are kept as entity type {answers:?}, whose name is {} bytes long, of {MAX_NAME_BYTES} at most",
            answers.len()
        ));
    }
    let mut lookups = spec.entities.iter();
    if lookups.any(|input| format!("{}_at", input.entity_type) == call.name) {
        return refused(format!(
            "{:?} is the function of an entity type that the transform reads",
            call.name
        ));
    }
    if spec.output.entity_type() == Some(answers.as_str()) {
        return refused(format!(
            "its answers would be kept as entity type {answers:?}, which the transform writes"
        ));
    }
    Ok(())
}

fn check_bounds(field: &str, spec: &CallSpec) -> Result<(), Refused> {
    let refused = |name: &str, problem: String| {
        Err(Refused::new(
            Fault::Bounds,
            format!("{field}.{name}"),
            problem,
        ))
    };
    if spec.rate_limit.is_empty() {
        return Err(Refused::new(
            Fault::Limit,
            format!("{field}.rate_limit"),
            "every call takes a permit of a rate limit: name one",
        ));
    }
    if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&spec.timeout) {
        return refused("timeout", "it must be from 1 ms to 10 minutes".to_owned());
    }
    if spec.retries > MAX_RETRIES {
        return refused(
            "retries",
            format!("{} is not in 0 to {MAX_RETRIES}", spec.retries),
        );
    }
    if spec.headers.len() > MAX_HEADERS {
        return refused(
            "headers",
            format!("there are {}, of {MAX_HEADERS} at most", spec.headers.len()),
        );
    }
    if !(1..=MAX_COLUMNS).contains(&spec.columns.len()) {
        return refused(
            "columns",
            format!(
                "there are {}: 1 to {MAX_COLUMNS} are possible",
                spec.columns.len()
            ),
        );
    }
    Ok(())
}

fn headers(field: &str, spec: &CallSpec) -> Result<Vec<(HeaderName, SecretText)>, Refused> {
    let mut headers = Vec::new();
    for (index, header) in spec.headers.iter().enumerate() {
        let at = format!("{field}.headers[{index}]");
        let refused = |problem: String| Refused::new(Fault::Header, format!("{at}.name"), problem);
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| refused(format!("{:?} is not a header's name", header.name)))?;
        if CONNECTION_HEADERS.contains(&name.as_str()) {
            return Err(refused(format!(
                "{:?} is a header of the connection",
                header.name
            )));
        }
        if headers.iter().any(|(other, _)| *other == name) {
            return Err(refused(format!("{:?} is there twice", header.name)));
        }
        let value = SecretText::parse(&format!("{at}.value"), &header.name, &header.value)?;
        headers.push((name, value));
    }
    Ok(headers)
}

fn columns(field: &str, spec: &CallSpec) -> Result<Vec<Column>, Refused> {
    let mut columns: Vec<Column> = Vec::new();
    for (index, column) in spec.columns.iter().enumerate() {
        let at = format!("{field}.columns[{index}]");
        let refused =
            |problem: String| Err(Refused::new(Fault::Column, format!("{at}.name"), problem));
        if let Err(violation) = check_name(&at, &column.name) {
            return refused(violation.problem);
        }
        if TAKEN_COLUMNS.contains(&column.name.as_str()) {
            return refused(format!("{:?} is a column of every answer", column.name));
        }
        if columns.iter().any(|other| other.name == column.name) {
            return refused(format!("there are two columns named {:?}", column.name));
        }
        columns.push(Column::compile(&at, column)?);
    }
    Ok(columns)
}

/// Names everything that an answer depends on.
fn digest(spec: &CallSpec) -> String {
    let mut digest = Sha256::new();
    let mut add = |text: &str| {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    };
    add(&spec.url);
    let mut headers: Vec<_> = spec
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), &header.value))
        .collect();
    headers.sort();
    for (name, value) in &headers {
        add(name);
        add(value);
    }
    let mut columns: Vec<_> = spec.columns.iter().collect();
    columns.sort_by(|a, b| a.name.cmp(&b.name));
    for column in columns {
        add(&column.name);
        add(&call_type_name(column.kind));
        add(&column.path);
    }
    hex(&digest.finalize()[..4])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
