//! The point-in-time join over the wire.
//!
//! One message of rows is worked on at a time, on a thread that may block. A client that does not read its answers, or sends
//! no rows, holds up nobody but itself.

use std::sync::Arc;

use arrow::array::{StringArray, TimestampMicrosecondArray};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{EntityStore, RESPONSE_BYTES, refuse};
use crate::{
    error::{Classify, ErrorKind, Violation},
    grpc::{
        blocking::blocking,
        convert::{
            column::{AttributeColumn, attribute_indices},
            duration, time,
        },
        status::to_status,
    },
    pb::{self, lookup_request::Message as Asked, lookup_response, lookup_rows::Row},
    store::{EntityType, Error, MAX_ENTITY_ID_BYTES, Outcome, States, Store},
    time::{SysTime, ValidTime},
};

/// The most rows of one message.
pub const MAX_LOOKUP_ROWS: usize = 10_000;

/// Response messages that wait for a slow client.
const LOOKUP_QUEUE: usize = 2;

type Answered = Result<pb::LookupResponse, Status>;

/// The answers.
pub(super) type LookupStream = ReceiverStream<Answered>;

impl EntityStore {
    /// Answers rows until the client ends its stream, goes away, or sends something malformed.
    pub(super) fn lookup(&self, requests: Streaming<pb::LookupRequest>) -> LookupStream {
        let (messages, receiver) = mpsc::channel(LOOKUP_QUEUE);
        let service = self.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = service.answer_rows(requests, &messages) => outcome,
                () = messages.closed() => return,
                () = service.store.streams_ended() => Err(to_status(&Error::Closed)),
            };
            if let Err(status) = outcome {
                // Nobody to tell if the client has gone away.
                drop(messages.send(Err(status)).await);
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn answer_rows(
        &self,
        mut requests: Streaming<pb::LookupRequest>,
        messages: &mpsc::Sender<Answered>,
    ) -> Result<(), Status> {
        let settings = match requests.message().await?.and_then(|first| first.message) {
            Some(Asked::Settings(settings)) => self.settings(settings).await?,
            Some(Asked::Rows(_)) | None => {
                return Err(refuse(Violation::new(
                    "settings",
                    "the first message must hold them",
                )));
            }
        };
        let settings = Arc::new(settings);
        if messages.send(Ok(settings.told())).await.is_err() {
            return Ok(());
        }
        while let Some(request) = requests.message().await? {
            let rows = match request.message {
                Some(Asked::Rows(rows)) => settings.rows(rows).map_err(refuse)?,
                Some(Asked::Settings(_)) => {
                    return Err(refuse(Violation::new(
                        "settings",
                        "only the first message may hold them",
                    )));
                }
                None => return Err(refuse(Violation::new("rows", "they are required"))),
            };
            self.pin_rows(&rows).await?;
            let (store, settings) = (self.store.clone(), Arc::clone(&settings));
            let messages = messages.clone();
            blocking(move || settings.answer(&store, &rows, &messages)).await?;
        }
        Ok(())
    }

    async fn settings(&self, settings: pb::LookupSettings) -> Result<Settings, Status> {
        let pb::LookupSettings {
            entity_type,
            basis,
            r#match,
            max_age,
            attributes,
        } = settings;
        let entity_type = self.find("settings.entity_type", &entity_type)?;
        let is_strict = is_strict(r#match).map_err(refuse)?;
        let max_age_micros = duration::from_wire("settings.max_age", max_age)
            .and_then(|age| {
                age.map(|age| duration::to_micros("settings.max_age", age))
                    .transpose()
            })
            .map_err(refuse)?;
        let attributes =
            attribute_indices("settings.attributes", &entity_type, &attributes).map_err(refuse)?;
        let basis = time::from_wire("settings.basis", basis).map_err(refuse)?;
        let basis = self.store.pin(basis).await.map_err(|cause| {
            to_status(&BadBasis {
                field: "settings.basis".to_owned(),
                cause,
            })
        })?;
        Ok(Settings {
            entity_type,
            basis,
            is_strict,
            max_age_micros,
            attributes,
        })
    }

    /// Makes the bases that rows name readable: the latest one, and with it all before.
    async fn pin_rows(&self, rows: &[Wanted]) -> Result<(), Status> {
        let latest = rows.iter().enumerate().max_by_key(|(_, row)| row.basis);
        let Some((index, latest)) = latest else {
            return Ok(());
        };
        let pinned = self.store.pin(Some(latest.basis)).await;
        pinned.map(drop).map_err(|cause| {
            to_status(&BadBasis {
                field: format!("rows[{index}].basis"),
                cause,
            })
        })
    }
}

fn is_strict(wire: i32) -> Result<bool, Violation> {
    match pb::LookupMatch::try_from(wire) {
        Ok(pb::LookupMatch::Unspecified | pb::LookupMatch::Inclusive) => Ok(false),
        Ok(pb::LookupMatch::Strict) => Ok(true),
        Err(_) => Err(Violation::new(
            "settings.match",
            format!("{wire} is no match"),
        )),
    }
}

/// A basis that cannot be read, with the field that names it.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {cause}")]
struct BadBasis {
    field: String,
    cause: Error,
}

impl Classify for BadBasis {
    fn kind(&self) -> ErrorKind {
        self.cause.kind()
    }

    fn reason(&self) -> &'static str {
        self.cause.reason()
    }

    fn violations(&self) -> Vec<Violation> {
        vec![Violation::new(self.field.clone(), self.cause.to_string())]
    }
}

/// What holds for all rows of a stream.
struct Settings {
    entity_type: Arc<EntityType>,
    basis: SysTime,
    is_strict: bool,
    max_age_micros: Option<i64>,
    attributes: Vec<usize>,
}

/// One row, with its basis.
struct Wanted {
    entity_id: String,
    valid: ValidTime,
    basis: SysTime,
}

impl Settings {
    /// The first response.
    fn told(&self) -> pb::LookupResponse {
        let attributes = self.entity_type.attributes();
        let names = self.attributes.iter().map(|&index| &attributes[index].name);
        pb::LookupResponse {
            attributes: names.cloned().collect(),
            ..self.response(Vec::new())
        }
    }

    fn response(&self, results: Vec<lookup_response::Result>) -> pb::LookupResponse {
        pb::LookupResponse {
            results,
            attributes: Vec::new(),
            basis: Some(time::to_wire(self.basis)),
        }
    }

    fn rows(&self, rows: pb::LookupRows) -> Result<Vec<Wanted>, Violation> {
        let count = rows.rows.len();
        if count == 0 || count > MAX_LOOKUP_ROWS {
            return Err(Violation::new(
                "rows",
                format!("{count} rows: 1 to {MAX_LOOKUP_ROWS} are possible"),
            ));
        }
        rows.rows
            .into_iter()
            .enumerate()
            .map(|(index, row)| self.row(index, row))
            .collect()
    }

    fn row(&self, index: usize, row: Row) -> Result<Wanted, Violation> {
        let Row {
            entity_id,
            valid_time,
            basis,
        } = row;
        let size_bytes = entity_id.len();
        if !(1..=MAX_ENTITY_ID_BYTES).contains(&size_bytes) {
            return Err(Violation::new(
                format!("rows[{index}].entity_id"),
                format!("{size_bytes} bytes: 1 to {MAX_ENTITY_ID_BYTES} are possible"),
            ));
        }
        let field = format!("rows[{index}].valid_time");
        let valid = time::from_wire(&field, valid_time)?
            .ok_or_else(|| Violation::new(field, "it is required"))?;
        let basis = time::from_wire(&format!("rows[{index}].basis"), basis)?;
        Ok(Wanted {
            entity_id,
            valid,
            basis: basis.unwrap_or(self.basis),
        })
    }

    /// Looks rows up, basis by basis, and sends the answers in their order.
    fn answer(
        &self,
        store: &Store,
        rows: &[Wanted],
        messages: &mpsc::Sender<Answered>,
    ) -> Result<(), Error> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&row| rows[row].basis);
        let mut found = Vec::new();
        // By row: in which of `found`, and at which place in it.
        let mut places = vec![(0, 0); rows.len()];
        for group in order.chunk_by(|&a, &b| rows[a].basis == rows[b].basis) {
            for (place, &row) in group.iter().enumerate() {
                places[row] = (found.len(), place);
            }
            found.push(self.look_up(store, group.iter().map(|&row| &rows[row]))?);
        }
        let columns = found
            .iter()
            .map(|states| self.columns(states))
            .collect::<Result<Vec<_>, _>>()?;
        let mut results = Vec::new();
        let mut size_bytes = 0;
        for (row, (group, place)) in rows.iter().zip(places) {
            let result = self.result(row, &found[group], &columns[group], place);
            size_bytes += result.encoded_len();
            results.push(result);
            if size_bytes >= RESPONSE_BYTES {
                let full = self.response(std::mem::take(&mut results));
                size_bytes = 0;
                if messages.blocking_send(Ok(full)).is_err() {
                    return Ok(());
                }
            }
        }
        if !results.is_empty() {
            // Nobody to tell if the client has gone away: the stream's task sees it too.
            drop(messages.blocking_send(Ok(self.response(results))));
        }
        Ok(())
    }

    /// The states of rows of one basis.
    fn look_up<'a>(
        &self,
        store: &Store,
        rows: impl Iterator<Item = &'a Wanted> + Clone,
    ) -> Result<States, Error> {
        let basis = rows.clone().next().map_or(self.basis, |row| row.basis);
        let ids = StringArray::from_iter_values(rows.clone().map(|row| &row.entity_id));
        // Instants are whole microseconds: just before one is at the one before.
        let earlier = i64::from(self.is_strict);
        let at = TimestampMicrosecondArray::from_iter_values(
            rows.map(|row| row.valid.micros().saturating_sub(earlier)),
        );
        store.look_up(&self.entity_type, &ids, &at, basis, &self.attributes)
    }

    fn columns<'a>(&self, states: &'a States) -> Result<Vec<AttributeColumn<'a>>, Error> {
        self.attributes
            .iter()
            .zip(states.columns())
            .map(|(&index, array)| {
                let kind = self.entity_type.attributes()[index].kind;
                AttributeColumn::of(kind, array.as_ref()).ok_or(Error::NoSuchColumn {
                    index,
                    count: states.columns().len(),
                })
            })
            .collect()
    }

    fn result(
        &self,
        row: &Wanted,
        states: &States,
        columns: &[AttributeColumn<'_>],
        place: usize,
    ) -> lookup_response::Result {
        let valid_from = states.valid_from(place);
        let is_too_old = self.max_age_micros.is_some_and(|limit| {
            valid_from.is_some_and(|from| row.valid.micros().saturating_sub(from.micros()) > limit)
        });
        let outcome = match states.outcomes()[place] {
            Outcome::Value if is_too_old => pb::EntityOutcome::TooOld,
            Outcome::Value => pb::EntityOutcome::Value,
            Outcome::Ended => pb::EntityOutcome::Ended,
            Outcome::NotKnown => pb::EntityOutcome::NotKnown,
            Outcome::Erased => pb::EntityOutcome::Erased,
        };
        let values = match states.positions()[place] {
            None => Vec::new(),
            Some(position) => columns
                .iter()
                .map(|column| column.value(position as usize).unwrap_or_default())
                .collect(),
        };
        lookup_response::Result {
            outcome: outcome.into(),
            values,
            valid_from: valid_from
                .filter(|from| *from != ValidTime::MIN)
                .map(time::to_wire),
        }
    }
}
