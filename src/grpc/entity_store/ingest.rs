//! Bulk loads over the wire.
//!
//! A stream has one reader, which gives batches their places in the committer's queue, and one acknowledger, which waits for
//! each in turn: several batches share a flush, and are acknowledged in order. The first fault ends the stream; batches that
//! were on their way behind it are not applied, so that what is on disk is always a prefix. Batches that were on their way
//! when the client was cut off may be applied: the next stream of the same name tells.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{EntityStore, MAX_STREAM_NAME_BYTES, erasure::Caller};
use crate::{
    auth,
    error::{Classify, ErrorKind, Violation},
    grpc::{
        convert::{entity, time},
        status::to_status,
    },
    pb::{self, ingest_request::Message as Item},
    store::{Chain, Committed, Error as StoreError, IngestMark, MAX_BATCH_BYTES, Queued},
};

/// Batches of one stream that may be on their way to the disk.
const BATCHES_IN_FLIGHT: usize = 16;
/// Acknowledgements that wait for a slow client.
const ACKNOWLEDGEMENT_QUEUE: usize = 16;

/// The answers.
pub(super) type IngestStream = ReceiverStream<Result<pb::IngestResponse, Status>>;

/// Why a bulk load ends.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot ingest: {0}")]
    Request(Violation),
    #[error(
        "cannot ingest: stream {name:?} is open already; close it, or wait until the server notices that it is gone"
    )]
    Open { name: String },
    #[error(transparent)]
    Erasure(#[from] auth::Error),
    #[error("cannot ingest batch {offset}: {cause}")]
    Batch { offset: u64, cause: StoreError },
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Request(_) => ErrorKind::InvalidArgument,
            Self::Open { .. } => ErrorKind::Conflict,
            Self::Erasure(cause) => cause.kind(),
            Self::Batch { cause, .. } => cause.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) => "INVALID_REQUEST",
            Self::Open { .. } => "INGEST_OPEN",
            Self::Erasure(cause) => cause.reason(),
            Self::Batch { cause, .. } => cause.reason(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Request(violation) => vec![violation.clone()],
            Self::Open { .. } | Self::Erasure(_) => Vec::new(),
            Self::Batch { cause, .. } => {
                let violations = cause.violations().into_iter();
                violations
                    .map(|violation| violation.within("batch"))
                    .collect()
            }
        }
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Request(_) | Self::Erasure(_) => None,
            Self::Open { name } => Some(("ingest_stream", name.clone())),
            Self::Batch { cause, .. } => cause.resource(),
        }
    }
}

fn request(field: &str, problem: impl Into<String>) -> Error {
    Error::Request(Violation::new(field, problem))
}

/// The names of the streams that are open.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenStreams {
    names: Arc<Mutex<HashSet<String>>>,
}

/// Keeps a name taken while it lives.
struct OpenStream {
    streams: OpenStreams,
    name: String,
}

impl OpenStreams {
    fn open(&self, name: String) -> Result<OpenStream, Error> {
        if self.names.lock().insert(name.clone()) {
            Ok(OpenStream {
                streams: self.clone(),
                name,
            })
        } else {
            Err(Error::Open { name })
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.streams.names.lock().remove(&self.name);
    }
}

/// A batch that has its place.
struct Flight {
    offset: u64,
    queued: Queued,
}

impl EntityStore {
    /// Opens a bulk load.
    pub(super) async fn ingest(
        &self,
        caller: Caller,
        mut incoming: Streaming<pb::IngestRequest>,
    ) -> Result<IngestStream, Status> {
        let first = incoming.message().await?;
        let name = start(first).map_err(|error| to_status(&error))?;
        let stream = self
            .open_streams
            .open(name)
            .map_err(|error| to_status(&error))?;
        let offset = self.store.ingest_offset(&stream.name).await;
        let offset = offset.map_err(|error| to_status(&error))?.unwrap_or(0);
        let (responses, receiver) = mpsc::channel(ACKNOWLEDGEMENT_QUEUE);
        let stands = pb::IngestResponse {
            acknowledged_offset: offset,
            system_time: None,
            versions_written: 0,
        };
        // The channel is empty: there is room.
        drop(responses.try_send(Ok(stands)));
        let reader = Reader {
            caller,
            incoming,
            chain: self.store.chain(),
            stream: stream.name.clone(),
            last_offset: 0,
        };
        // Ends by itself: at the stream's end, at a fault, or when the client goes away.
        tokio::spawn(async move {
            let carried = tokio::select! {
                carried = carry(reader, &responses) => carried,
                // Gone away, or past its deadline, which a client that says no more may leave to the server.
                () = responses.closed() => Ok(()),
            };
            if let Err(status) = carried {
                // Nobody to tell if the client has gone away.
                drop(responses.send(Err(status)).await);
            }
            drop(stream);
        });
        Ok(ReceiverStream::new(receiver))
    }
}

/// The name of the load, from the first message.
fn start(first: Option<pb::IngestRequest>) -> Result<String, Error> {
    let Some(Item::Start(pb::IngestStart { stream })) = first.and_then(|first| first.message)
    else {
        return Err(request("start", "the first message must be start"));
    };
    match stream.len() {
        1..=MAX_STREAM_NAME_BYTES if stream.starts_with('\0') => Err(request(
            "start.stream",
            "names that begin with a zero byte are the server's own",
        )),
        1..=MAX_STREAM_NAME_BYTES => Ok(stream),
        size_bytes => Err(request(
            "start.stream",
            format!("{size_bytes} bytes: 1 to {MAX_STREAM_NAME_BYTES} are possible"),
        )),
    }
}

/// Reads and acknowledges until one of both ends. A fault of an acknowledged batch comes before one of a later batch.
async fn carry(
    reader: Reader,
    responses: &mpsc::Sender<Result<pb::IngestResponse, Status>>,
) -> Result<(), Status> {
    let (flights, in_flight) = mpsc::channel(BATCHES_IN_FLIGHT);
    let acknowledging = acknowledge(in_flight, responses);
    tokio::pin!(acknowledging);
    tokio::select! {
        read = reader.run(flights) => {
            acknowledging.await?;
            read
        }
        acknowledged = &mut acknowledging => acknowledged,
    }
}

/// Waits for each batch in turn and tells the client.
async fn acknowledge(
    mut in_flight: mpsc::Receiver<Flight>,
    responses: &mpsc::Sender<Result<pb::IngestResponse, Status>>,
) -> Result<(), Status> {
    let mut versions_written = 0;
    while let Some(Flight { offset, queued }) = in_flight.recv().await {
        let committed = queued.committed().await;
        let committed = committed.map_err(|cause| to_status(&Error::Batch { offset, cause }))?;
        // Not applied: the batch that failed has ended the stream by then.
        let Some(Committed {
            system_time,
            versions_written: versions,
            replayed: _,
        }) = committed
        else {
            return Ok(());
        };
        versions_written += versions;
        let response = pb::IngestResponse {
            acknowledged_offset: offset,
            system_time: Some(time::to_wire(system_time)),
            versions_written,
        };
        if responses.send(Ok(response)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

struct Reader {
    caller: Caller,
    incoming: Streaming<pb::IngestRequest>,
    chain: Chain,
    stream: String,
    /// Of the batch before in this stream; 0: there is none.
    last_offset: u64,
}

impl Reader {
    /// Gives every batch its place, until the client has no more or one is at fault.
    async fn run(mut self, flights: mpsc::Sender<Flight>) -> Result<(), Status> {
        while let Some(item) = self.incoming.message().await? {
            // A place first: what waits for one is not read.
            let Ok(place) = flights.reserve().await else {
                return Ok(());
            };
            let flight = self.take(item).await.map_err(|error| to_status(&error))?;
            place.send(flight);
        }
        Ok(())
    }

    async fn take(&mut self, item: pb::IngestRequest) -> Result<Flight, Error> {
        let batch = match item.message {
            Some(Item::Batch(batch)) => batch,
            Some(Item::Start(_)) => {
                return Err(request("start", "only the first message may be start"));
            }
            None => return Err(request("batch", "it is required")),
        };
        let offset = batch.offset;
        if offset <= self.last_offset {
            return Err(request(
                "batch.offset",
                format!("{offset}: it must be greater than {}", self.last_offset),
            ));
        }
        let in_batch = |violation| Error::Batch {
            offset,
            cause: StoreError::Invalid {
                violations: vec![violation],
            },
        };
        let size_bytes = batch.encoded_len();
        if size_bytes > MAX_BATCH_BYTES {
            return Err(in_batch(Violation::new(
                "mutations",
                format!("{size_bytes} bytes in all: at most {MAX_BATCH_BYTES} are possible"),
            )));
        }
        self.caller.check(&batch.mutations)?;
        let mark = IngestMark {
            stream: self.stream.clone(),
            offset,
        };
        let batch = entity::ingest_batch(batch, mark).map_err(in_batch)?;
        let queued = self.chain.push(batch).await;
        let queued = queued.map_err(|cause| Error::Batch { offset, cause })?;
        self.last_offset = offset;
        Ok(Flight { offset, queued })
    }
}
