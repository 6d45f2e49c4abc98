//! Stale partitions, and the token that a listing of them goes on from.
//!
//! **Layout** of the token, as hexadecimal digits: basis and start of the last partition told (i64 each), CRC-32 of the
//! request's other fields, all big-endian.

use prost::Message;

use super::{Invalid, knowledge_to_wire, micros, non_zero, time};
use crate::{
    backfill::{Differs, FileChange, StalePage, StalePartition, StaleQuery, StaleReason},
    error::Violation,
    pb::{self, stale_reason::Reason},
    time::{Interval, SysTime, ValidTime},
};

const TOKEN_BYTES: usize = 20;

/// What a request asks for, `limit` at most.
pub(in crate::grpc) fn stale_query(
    request: &pb::ListStalePartitionsRequest,
    limit: usize,
) -> Result<StaleQuery, Invalid> {
    let pb::ListStalePartitionsRequest {
        transform,
        range,
        revision,
        page_size: _,
        page_token: _,
    } = request;
    if transform.is_empty() {
        return Err(Violation::new("transform", "it is required").into());
    }
    let pb::TimeRange { from, to } = (*range).unwrap_or_default();
    let from: Option<ValidTime> = time::from_wire("range.from", from)?;
    let to: Option<ValidTime> = time::from_wire("range.to", to)?;
    let range = Interval {
        from: from.unwrap_or(ValidTime::MIN),
        to,
    };
    if range.is_empty() {
        return Err(Violation::new("range.to", "it must lie after range.from").into());
    }
    let place = Place::of_request(request)?;
    Ok(StaleQuery {
        transform: transform.clone(),
        revision: non_zero(*revision),
        range,
        after: place.as_ref().map(|place| place.start),
        basis: place.as_ref().map(|place| place.basis),
        limit,
    })
}

/// A page as the wire shows it.
pub(in crate::grpc) fn stale_page_to_wire(
    request: &pb::ListStalePartitionsRequest,
    page: StalePage,
) -> pb::ListStalePartitionsResponse {
    let StalePage {
        partitions,
        more,
        basis,
        published_count,
        commit_count,
        comparison_count,
    } = page;
    let next_page_token = match partitions.last() {
        Some(last) if more => {
            let start = last.partition.start;
            Place { basis, start }.to_token(request)
        }
        Some(_) | None => String::new(),
    };
    pb::ListStalePartitionsResponse {
        partitions: partitions.into_iter().map(partition_to_wire).collect(),
        next_page_token,
        basis: Some(time::to_wire(basis)),
        published_count,
        commit_count,
        comparison_count,
    }
}

fn partition_to_wire(stale: StalePartition) -> pb::StalePartition {
    let StalePartition {
        partition,
        backfill,
        revision,
        knowledge,
        basis,
        publish_micros,
        reasons,
    } = stale;
    pb::StalePartition {
        label: partition.label,
        start: Some(time::to_wire(partition.start)),
        end: Some(time::to_wire(partition.end)),
        backfill,
        publish_time: Some(micros(publish_micros)),
        revision,
        knowledge: knowledge_to_wire(knowledge).into(),
        basis: Some(time::to_wire(basis)),
        reasons: reasons.into_iter().map(reason_to_wire).collect(),
    }
}

fn reason_to_wire(reason: StaleReason) -> pb::StaleReason {
    let message = reason.to_string();
    let reason = match reason {
        StaleReason::Revision { published, current } => {
            Reason::RevisionChanged(pb::RevisionChanged { published, current })
        }
        StaleReason::Entity {
            entity_type,
            entity_id,
            differs,
            valid_time,
            learned_at,
        } => {
            let (difference, attribute) = match differs {
                Differs::Column(name) => (pb::EntityDifference::Attribute, name),
                Differs::Existence => (pb::EntityDifference::Existence, String::new()),
                Differs::Erased => (pb::EntityDifference::Erased, String::new()),
            };
            Reason::EntityChanged(pb::EntityChanged {
                entity_type,
                entity_id,
                difference: difference.into(),
                attribute,
                valid_time: valid_time.map(time::to_wire),
                learned_at: Some(time::to_wire(learned_at)),
            })
        }
        StaleReason::Files {
            source,
            path,
            change,
            count,
        } => Reason::SourceFilesChanged(pb::SourceFilesChanged {
            source,
            path: path.display().to_string(),
            change: match change {
                FileChange::Added => pb::FileChange::Added,
                FileChange::Removed => pb::FileChange::Removed,
                FileChange::Changed => pb::FileChange::Changed,
            }
            .into(),
            file_count: u32::try_from(count).unwrap_or(u32::MAX),
        }),
        StaleReason::Prior { republished } => {
            let (partition, backfill) = republished.unzip();
            Reason::PriorRepublished(pb::PriorRepublished {
                start: partition.as_ref().map(|it| time::to_wire(it.start)),
                label: partition.map(|it| it.label).unwrap_or_default(),
                backfill: backfill.unwrap_or_default(),
            })
        }
        StaleReason::Upstream { table, republished } => {
            let (partition, backfill) = republished.unzip();
            Reason::UpstreamRepublished(pb::UpstreamRepublished {
                table,
                start: partition.as_ref().map(|it| time::to_wire(it.start)),
                label: partition.map(|it| it.label).unwrap_or_default(),
                backfill: backfill.unwrap_or_default(),
            })
        }
    };
    pb::StaleReason {
        reason: Some(reason),
        message,
    }
}

/// Where a listing goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Of the listing's first page.
    basis: SysTime,
    /// Of the last partition told.
    start: ValidTime,
}

impl Place {
    fn to_token(self, request: &pb::ListStalePartitionsRequest) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.extend_from_slice(&self.basis.micros().to_be_bytes());
        bytes.extend_from_slice(&self.start.micros().to_be_bytes());
        bytes.extend_from_slice(&listing(request).to_be_bytes());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Where the request's token says to go on; `None` for the first page.
    fn of_request(request: &pb::ListStalePartitionsRequest) -> Result<Option<Self>, Violation> {
        if request.page_token.is_empty() {
            return Ok(None);
        }
        let place = parse(&request.page_token, listing(request));
        place
            .map(Some)
            .ok_or_else(|| Violation::new("page_token", "it does not belong to this listing"))
    }
}

fn parse(token: &str, listing: u32) -> Option<Place> {
    if token.len() != 2 * TOKEN_BYTES || !token.is_ascii() {
        return None;
    }
    let mut bytes = [0; TOKEN_BYTES];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(token.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    let (basis, rest) = bytes.split_first_chunk()?;
    let (start, rest) = rest.split_first_chunk()?;
    (rest == listing.to_be_bytes()).then(|| Place {
        basis: SysTime::from_micros(i64::from_be_bytes(*basis)),
        start: ValidTime::from_micros(i64::from_be_bytes(*start)),
    })
}

/// What must not change from page to page: everything but the page's own fields.
fn listing(request: &pb::ListStalePartitionsRequest) -> u32 {
    let same = pb::ListStalePartitionsRequest {
        page_size: 0,
        page_token: String::new(),
        ..request.clone()
    };
    crc32fast::hash(&same.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_on_in_its_own_listing_only() {
        let mut request = pb::ListStalePartitionsRequest {
            transform: "t".to_owned(),
            page_size: 3,
            ..pb::ListStalePartitionsRequest::default()
        };
        let place = Place {
            basis: SysTime::from_micros(-7),
            start: ValidTime::from_micros(1 << 50),
        };
        request.page_token = place.to_token(&request);
        assert_eq!(Place::of_request(&request), Ok(Some(place)));
        request.page_size = 9;
        assert_eq!(Place::of_request(&request), Ok(Some(place)));
        let token = std::mem::take(&mut request.page_token);
        assert_eq!(Place::of_request(&request), Ok(None));
        for foreign in ["x", "é", &token[2..], &format!("{token}00")] {
            request.page_token = foreign.to_owned();
            assert!(Place::of_request(&request).is_err(), "{foreign}");
        }
        request.page_token = token;
        request.transform = "u".to_owned();
        assert!(Place::of_request(&request).is_err());
    }
}
