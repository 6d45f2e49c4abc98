//! An entity's versions over the wire.

use std::collections::HashMap;

use prost::Message;
use tonic::Status;

use super::{EntityStore, RESPONSE_BYTES, refuse};
use crate::{
    error::Violation,
    grpc::{
        blocking::blocking,
        convert::{entity, page_token::HistoryPosition, range, time},
        status::to_status,
    },
    pb,
    store::{EntityType, Error, Version},
    time::{SysTime, ValidTime},
};

/// The largest page of ListHistory.
pub const MAX_PAGE_SIZE: u32 = 10_000;
/// The page of a ListHistory that names no size.
pub const DEFAULT_PAGE_SIZE: u32 = 1_000;

impl EntityStore {
    /// The versions in a rectangle.
    pub(super) async fn list_history(
        &self,
        request: pb::ListHistoryRequest,
    ) -> Result<pb::ListHistoryResponse, Status> {
        let after = HistoryPosition::of_request(&request).map_err(refuse)?;
        let valid = range::valid("valid_range", request.valid_range).map_err(refuse)?;
        let system = range::system("system_range", request.system_range).map_err(refuse)?;
        let page_size = page_size(request.page_size).map_err(refuse)?;
        let entity_type = self.find("entity_type", &request.entity_type)?;
        let basis = match after {
            // A token's basis was pinned for the first page; pinning again refuses one that was made up.
            Some(position) => self
                .store
                .pin(Some(position.basis))
                .await
                .map_err(|error| to_status(&error))?,
            None => self.basis(request.basis).await?,
        };
        let store = self.store.clone();
        let response = blocking(move || {
            let mut versions =
                store.history(&entity_type, &request.entity_id, valid, system, basis)?;
            if request.coalesce {
                versions = coalesced(versions);
            }
            Ok::<_, Error>(history_page(
                &entity_type,
                versions,
                after,
                basis,
                page_size,
                &request,
            ))
        })
        .await?;
        Ok(response)
    }
}

fn page_size(asked: u32) -> Result<usize, Violation> {
    match asked {
        0 => Ok(DEFAULT_PAGE_SIZE as usize),
        1..=MAX_PAGE_SIZE => Ok(asked as usize),
        _ => Err(Violation::new(
            "page_size",
            format!("{asked}: at most {MAX_PAGE_SIZE} is possible"),
        )),
    }
}

/// Joins versions that follow each other in valid time, say the same and have the same end in system time. The joined one
/// begins in system time where the later of them does: from then on both were held.
fn coalesced(versions: Vec<Version>) -> Vec<Version> {
    let mut joined: Vec<Version> = Vec::with_capacity(versions.len());
    // By where a version ends: those that another may follow. No two that meet there have the same end in system time.
    let mut ending: HashMap<(ValidTime, Option<SysTime>), usize> = HashMap::new();
    for version in versions {
        let before = ending.remove(&(version.valid.from, version.system.to));
        let place = match before {
            Some(place) if says_the_same(&joined[place], &version) => {
                joined[place].valid.to = version.valid.to;
                joined[place].system.from = joined[place].system.from.max(version.system.from);
                place
            }
            _ => {
                joined.push(version);
                joined.len() - 1
            }
        };
        let last = &joined[place];
        if let Some(valid_to) = last.valid.to {
            ending.insert((valid_to, last.system.to), place);
        }
    }
    joined.sort_by_key(|version| (version.valid.from, version.system.from));
    joined
}

fn says_the_same(a: &Version, b: &Version) -> bool {
    a.ended == b.ended && a.attributes == b.attributes
}

/// The versions after a position, as many as fit.
fn history_page(
    entity_type: &EntityType,
    versions: Vec<Version>,
    after: Option<HistoryPosition>,
    basis: SysTime,
    page_size: usize,
    request: &pb::ListHistoryRequest,
) -> pb::ListHistoryResponse {
    let mut rest = versions
        .into_iter()
        .filter(|version| {
            after.is_none_or(|after| {
                (version.valid.from, version.system.from) > (after.valid_from, after.system_from)
            })
        })
        .peekable();
    let mut told = Vec::new();
    let mut size_bytes = 0;
    let mut last = None;
    while told.len() < page_size
        && size_bytes < RESPONSE_BYTES
        && let Some(version) = rest.next()
    {
        last = Some(HistoryPosition {
            basis,
            valid_from: version.valid.from,
            system_from: version.system.from,
        });
        let wire = entity::version(entity_type, version);
        size_bytes += wire.encoded_len();
        told.push(wire);
    }
    let next = last.filter(|_| rest.peek().is_some());
    pb::ListHistoryResponse {
        versions: told,
        next_page_token: next.map(|next| next.to_token(request)).unwrap_or_default(),
        basis: Some(time::to_wire(basis)),
    }
}
