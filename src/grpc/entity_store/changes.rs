//! What commits changed, over the wire.
//!
//! The walk goes on only while its client reads: a slow client holds up nobody but itself, and costs one message of memory.

use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{EntityStore, RESPONSE_BYTES, refuse};
use crate::{
    error::Violation,
    grpc::{
        blocking::blocking,
        convert::{change_token, entity, invalid, time},
        status::to_status,
    },
    pb,
    store::{Change, ChangePosition, Changes, Error, Step, Store, WithinCommit},
    time::{SysTime, ValidTime},
};

/// Changes in one response message at most.
const MAX_CHANGES: usize = 256;
/// Response messages that wait for a slow client.
const CHANGES_QUEUE: usize = 2;
/// How long a client that follows is left without a message.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

type Told = Result<pb::ListChangesResponse, Status>;

/// The answers.
pub(super) type ChangesStream = ReceiverStream<Told>;

impl EntityStore {
    /// What commits changed, one after the other.
    pub(super) async fn list_changes(
        &self,
        request: pb::ListChangesRequest,
    ) -> Result<ChangesStream, Status> {
        let pb::ListChangesRequest {
            from_basis,
            to_basis,
            follow,
            entity_types,
            resume_token,
        } = request;
        let resume = change_token::decode(&resume_token, &entity_types).map_err(refuse)?;
        for (index, name) in entity_types.iter().enumerate() {
            invalid::named(&format!("entity_types[{index}]"), name).map_err(refuse)?;
        }
        let from = self.named_basis("from_basis", from_basis).await?;
        let to = self.named_basis("to_basis", to_basis).await?;
        check_range(from.filter(|_| resume.is_none()), to, follow).map_err(refuse)?;
        let store = self.store.clone();
        let types = entity_types.clone();
        let to = to.or_else(|| (!follow).then(|| store.latest_basis()));
        let walk = blocking(move || store.changes(from, to, &types, resume)).await?;
        let (messages, receiver) = mpsc::channel(CHANGES_QUEUE);
        let listing = Listing {
            store: self.store.clone(),
            types: entity_types,
            follow,
            messages: messages.clone(),
        };
        let store = self.store.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = listing.tell(walk) => outcome,
                () = messages.closed() => return,
                () = store.streams_ended() => Err(to_status(&Error::Closed)),
            };
            if let Err(status) = outcome {
                // Nobody to tell if the client has gone away.
                drop(messages.send(Err(status)).await);
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    async fn named_basis(
        &self,
        field: &str,
        basis: Option<prost_types::Timestamp>,
    ) -> Result<Option<SysTime>, Status> {
        let Some(basis) = time::from_wire(field, basis).map_err(refuse)? else {
            return Ok(None);
        };
        let pinned = self.store.pin(Some(basis)).await;
        pinned.map(Some).map_err(|error| to_status(&error))
    }
}

fn check_range(from: Option<SysTime>, to: Option<SysTime>, follow: bool) -> Result<(), Violation> {
    match (from, to) {
        (_, Some(_)) if follow => Err(Violation::new(
            "to_basis",
            "a listing that follows has no end: leave out to_basis or follow",
        )),
        (Some(from), Some(to)) if to < from => Err(Violation::new(
            "to_basis",
            format!("{to} is before from_basis {from}"),
        )),
        _ => Ok(()),
    }
}

/// One listing on its way to a client.
struct Listing {
    store: Store,
    types: Vec<String>,
    follow: bool,
    messages: mpsc::Sender<Told>,
}

impl Listing {
    async fn tell(&self, mut walk: Changes) -> Result<(), Status> {
        let clock = self.store.clock();
        let interval = i64::try_from(HEARTBEAT_INTERVAL.as_micros()).unwrap_or(i64::MAX);
        let mut told_micros: Option<i64> = None;
        loop {
            let (went_on, step) = blocking(move || {
                let step = walk.next(MAX_CHANGES)?;
                Ok::<_, Error>((walk, step))
            })
            .await?;
            walk = went_on;
            match step {
                Step::Searching => {}
                Step::Told {
                    sequence,
                    system_time,
                    changes,
                } => {
                    for message in self.responses(sequence, system_time, changes, walk.position()) {
                        self.send(message).await?;
                    }
                    told_micros = Some(clock.monotonic_micros());
                }
                Step::UpToDate(basis) => {
                    let now = clock.monotonic_micros();
                    let is_due = told_micros.is_none_or(|at| now.saturating_sub(at) >= interval);
                    if is_due || !self.follow {
                        self.send(self.heartbeat(basis, walk.position())).await?;
                        told_micros = Some(now);
                    }
                    if !self.follow {
                        return Ok(());
                    }
                    tokio::select! {
                        waited = self.store.commit_after(walk.position().sequence) => {
                            waited.map_err(|error| to_status(&error))?;
                        }
                        () = clock.sleep(HEARTBEAT_INTERVAL) => {}
                    }
                }
            }
        }
    }

    /// Sends one message; a client that has gone away is found by the task around this.
    async fn send(&self, message: pb::ListChangesResponse) -> Result<(), Status> {
        let sent = self.messages.send(Ok(message)).await;
        sent.map_err(|_| Status::cancelled("the client has gone away"))
    }

    fn heartbeat(&self, basis: SysTime, position: &ChangePosition) -> pb::ListChangesResponse {
        pb::ListChangesResponse {
            system_time: Some(time::to_wire(basis)),
            changes: Vec::new(),
            resume_token: change_token::encode(position, &self.types),
            heartbeat: true,
        }
    }

    /// Changes of one commit as messages of some size; the last one's token is `position`.
    fn responses(
        &self,
        sequence: u64,
        system_time: SysTime,
        changes: Vec<Change>,
        position: &ChangePosition,
    ) -> Vec<pb::ListChangesResponse> {
        let response = |changes, position: &ChangePosition| pb::ListChangesResponse {
            system_time: Some(time::to_wire(system_time)),
            changes,
            resume_token: change_token::encode(position, &self.types),
            heartbeat: false,
        };
        let mut responses = Vec::new();
        let mut held = Vec::new();
        let mut size_bytes = 0;
        let mut rest = changes.into_iter().peekable();
        while let Some(change) = rest.next() {
            let reached = ChangePosition {
                sequence: sequence.saturating_sub(1),
                within: Some(WithinCommit {
                    entity_type: change.entity_type.name().to_owned(),
                    entity_id: change.entity_id.clone(),
                    valid_to: change.valid.to.unwrap_or(ValidTime::from_micros(i64::MAX)),
                }),
            };
            let wire = entity::change(change);
            size_bytes += wire.encoded_len();
            held.push(wire);
            if size_bytes >= RESPONSE_BYTES && rest.peek().is_some() {
                responses.push(response(std::mem::take(&mut held), &reached));
                size_bytes = 0;
            }
        }
        responses.push(response(held, position));
        responses
    }
}
