//! Scans of a whole type over the wire.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{AsArray, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::TimestampMicrosecondType,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{EntityStore, RESPONSE_BYTES, refuse};
use crate::{
    engine::{self, EntityFilter},
    grpc::{
        blocking::{blocking, streaming},
        convert::{
            column::{AttributeColumn, attribute_indices},
            time,
        },
        status::to_status,
    },
    pb,
    store::{EntityType, Error, Store, columns},
    time::{SysTime, ValidTime},
};

/// Response messages of a scan that wait for a slow client.
const SCAN_QUEUE: usize = 4;
/// Versions in one response message of a scan at most.
const SCAN_VERSIONS: usize = 1_000;

type Told = Result<pb::ScanEntitiesResponse, Status>;

/// The messages of a scan.
pub(super) type ScanStream = ReceiverStream<Told>;

impl EntityStore {
    /// A whole type at one point.
    pub(super) async fn scan_entities(
        &self,
        request: pb::ScanEntitiesRequest,
    ) -> Result<ScanStream, Status> {
        let pb::ScanEntitiesRequest {
            entity_type,
            valid_time,
            basis,
            after_entity_id,
            filter,
            attributes,
        } = request;
        let entity_type = self.find("entity_type", &entity_type)?;
        let attributes =
            attribute_indices("attributes", &entity_type, &attributes).map_err(refuse)?;
        let filters = Arc::clone(&self.filters);
        let planned_type = Arc::clone(&entity_type);
        let scan = blocking(move || {
            let schema = columns::as_of_schema(&planned_type);
            let filter = match filter.as_str() {
                "" => None,
                text => Some(filters.plan("filter", text, &schema)?),
            };
            Scan::new(planned_type, attributes, filter)
        })
        .await?;
        let (valid, basis) = self.point(valid_time, basis).await?;
        let store = self.store.clone();
        Ok(streaming(SCAN_QUEUE, move |messages| {
            let after = (!after_entity_id.is_empty()).then_some(after_entity_id.as_str());
            scan.send(&store, after, (valid, basis), messages)
        }))
    }
}

/// What a scan reads and tells.
struct Scan {
    entity_type: Arc<EntityType>,
    /// The attributes that are told.
    attributes: Vec<usize>,
    /// Indices into [`columns::version_schema`]: the id, attributes, and three instants.
    projection: Vec<usize>,
    /// Over the projected columns.
    filter: Option<EntityFilter>,
}

impl Scan {
    fn new(
        entity_type: Arc<EntityType>,
        attributes: Vec<usize>,
        filter: Option<EntityFilter>,
    ) -> engine::Result<Self> {
        let count = entity_type.attributes().len();
        let is_read = |index: usize| {
            let read = filter
                .as_ref()
                .is_some_and(|filter| filter.columns().contains(&index));
            read || attributes.contains(&(index - 1))
        };
        let mut projection = vec![0];
        projection.extend((1..=count).filter(|&index| is_read(index)));
        projection.extend(count + 1..=count + 3);
        let schema = columns::version_schema(&entity_type).project(&projection);
        let schema = Arc::new(schema.map_err(Error::from)?);
        let filter = filter.map(|filter| filter.over(&schema)).transpose()?;
        Ok(Self {
            entity_type,
            attributes,
            projection,
            filter,
        })
    }

    /// Sends a scan in messages of some size; the first one always, so that an empty scan tells its point too.
    fn send(
        &self,
        store: &Store,
        after: Option<&str>,
        (valid, basis): (ValidTime, SysTime),
        messages: &mpsc::Sender<Told>,
    ) -> Result<(), Status> {
        let message = |versions| {
            Ok(pb::ScanEntitiesResponse {
                versions,
                valid_time: Some(time::to_wire(valid)),
                basis: Some(time::to_wire(basis)),
            })
        };
        let mut held = Vec::new();
        let mut size_bytes = 0;
        let mut is_first = true;
        let projection = self.projection.clone();
        let batches = store.scan_versions(
            &self.entity_type,
            after,
            valid,
            basis,
            projection,
            SCAN_VERSIONS,
        );
        for batch in batches {
            let batch = batch.map_err(|error| to_status(&error))?;
            // A filter may keep nothing for long.
            if messages.is_closed() {
                return Ok(());
            }
            let batch = match &self.filter {
                None => batch,
                Some(filter) => filter.retain(&batch).map_err(|error| to_status(&error))?,
            };
            let rows = self.rows(&batch).map_err(|error| to_status(&error))?;
            for version in (0..batch.num_rows()).map(|row| rows.version(row)) {
                size_bytes += version.encoded_len();
                held.push(version);
                if held.len() >= SCAN_VERSIONS || size_bytes >= RESPONSE_BYTES {
                    if messages
                        .blocking_send(message(std::mem::take(&mut held)))
                        .is_err()
                    {
                        return Ok(());
                    }
                    (size_bytes, is_first) = (0, false);
                }
            }
        }
        if is_first || !held.is_empty() {
            drop(messages.blocking_send(message(held)));
        }
        Ok(())
    }

    /// The columns of a batch by what they are.
    fn rows<'a>(&'a self, batch: &'a RecordBatch) -> Result<Rows<'a>, Error> {
        let missing = |index| Error::NoSuchColumn {
            index,
            count: batch.num_columns(),
        };
        let declared = self.entity_type.attributes();
        let place_of = |index: usize| {
            let place = self.projection.iter().position(|&column| column == index);
            place.ok_or(missing(index))
        };
        let instants = |index: usize| {
            let array = batch.column(place_of(index)?);
            array
                .as_primitive_opt::<TimestampMicrosecondType>()
                .ok_or(missing(index))
        };
        let attributes = self
            .attributes
            .iter()
            .map(|&index| {
                let array = batch.column(place_of(index + 1)?);
                let column = AttributeColumn::of(declared[index].kind, array.as_ref());
                let column = column.ok_or(missing(index + 1))?;
                Ok((declared[index].name.as_str(), column))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Rows {
            ids: batch.column(0).as_string_opt().ok_or(missing(0))?,
            attributes,
            valid_from: instants(declared.len() + 1)?,
            valid_to: instants(declared.len() + 2)?,
            system_from: instants(declared.len() + 3)?,
        })
    }
}

/// A batch, row by row.
struct Rows<'a> {
    ids: &'a StringArray,
    attributes: Vec<(&'a str, AttributeColumn<'a>)>,
    valid_from: &'a TimestampMicrosecondArray,
    valid_to: &'a TimestampMicrosecondArray,
    system_from: &'a TimestampMicrosecondArray,
}

impl Rows<'_> {
    fn version(&self, row: usize) -> pb::Version {
        let named = self.attributes.iter().filter_map(|(name, column)| {
            let value = column.value(row)?;
            Some(((*name).to_owned(), value))
        });
        let valid_from = ValidTime::from_micros(self.valid_from.value(row));
        let valid_to = self.valid_to.iter().nth(row).flatten();
        let system_from = SysTime::from_micros(self.system_from.value(row));
        pb::Version {
            entity_id: self.ids.value(row).to_owned(),
            attributes: HashMap::from_iter(named),
            valid_from: (valid_from != ValidTime::MIN).then(|| time::to_wire(valid_from)),
            valid_to: valid_to.map(|to| time::to_wire(ValidTime::from_micros(to))),
            system_from: Some(time::to_wire(system_from)),
            system_to: None,
            ended: false,
        }
    }
}
