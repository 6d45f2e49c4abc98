//! The opaque token of `ListChanges`: where the listing goes on, and of which entity types.
//!
//! **Layout**, as hexadecimal digits: sequence (u64); then, within a commit, `valid_to` (i64), the bytes of the entity type's
//! name (u16) and the name, and the entity id; CRC-32 of that and of the listing's entity types. All big-endian.

use crate::{
    error::Violation,
    store::{ChangePosition, WithinCommit},
    time::ValidTime,
};

const CRC_BYTES: usize = 4;

/// The token that goes on from a place in the listing of these types.
pub(in crate::grpc) fn encode(position: &ChangePosition, types: &[String]) -> String {
    let mut bytes = position.sequence.to_be_bytes().to_vec();
    if let Some(within) = &position.within {
        bytes.extend_from_slice(&within.valid_to.micros().to_be_bytes());
        let name = within.entity_type.as_bytes();
        // A type's name has 64 bytes at most.
        let name_bytes = u16::try_from(name.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&name_bytes.to_be_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(within.entity_id.as_bytes());
    }
    let checksum = checksum(&bytes, types);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The place that a token names; `None` for an empty one.
///
/// # Errors
/// The token is not one of ours, or of a listing of other types.
pub(in crate::grpc) fn decode(
    token: &str,
    types: &[String],
) -> Result<Option<ChangePosition>, Violation> {
    if token.is_empty() {
        return Ok(None);
    }
    parse(token, types)
        .map(Some)
        .ok_or_else(|| Violation::new("resume_token", "it does not belong to this listing"))
}

fn parse(token: &str, types: &[String]) -> Option<ChangePosition> {
    let bytes = digits(token)?;
    let (body, stored) = bytes.split_last_chunk::<CRC_BYTES>()?;
    if checksum(body, types) != u32::from_be_bytes(*stored) {
        return None;
    }
    let (sequence, rest) = body.split_first_chunk::<8>()?;
    let within = if rest.is_empty() {
        None
    } else {
        Some(within(rest)?)
    };
    Some(ChangePosition {
        sequence: u64::from_be_bytes(*sequence),
        within,
    })
}

fn within(bytes: &[u8]) -> Option<WithinCommit> {
    let (valid_to, rest) = bytes.split_first_chunk::<8>()?;
    let (name_bytes, rest) = rest.split_first_chunk::<2>()?;
    let (name, id) = rest.split_at_checked(usize::from(u16::from_be_bytes(*name_bytes)))?;
    Some(WithinCommit {
        entity_type: String::from_utf8(name.to_vec()).ok()?,
        entity_id: String::from_utf8(id.to_vec()).ok()?,
        valid_to: ValidTime::from_micros(i64::from_be_bytes(*valid_to)),
    })
}

fn digits(token: &str) -> Option<Vec<u8>> {
    if !token.is_ascii() || !token.len().is_multiple_of(2) {
        return None;
    }
    (0..token.len() / 2)
        .map(|index| u8::from_str_radix(token.get(index * 2..index * 2 + 2)?, 16).ok())
        .collect()
}

fn checksum(body: &[u8], types: &[String]) -> u32 {
    let mut types: Vec<_> = types.iter().collect();
    types.sort_unstable();
    types.dedup();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    for name in types {
        hasher.update(b"\0");
        hasher.update(name.as_bytes());
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_belong_to_their_types() {
        let types = ["b".to_owned(), "a".to_owned()];
        let swapped = ["a".to_owned(), "b".to_owned(), "a".to_owned()];
        for within in [
            None,
            Some(WithinCommit {
                entity_type: "a".to_owned(),
                entity_id: "é\0".to_owned(),
                valid_to: ValidTime::from_micros(-7),
            }),
        ] {
            let position = ChangePosition {
                sequence: 258,
                within,
            };
            let token = encode(&position, &types);
            assert_eq!(decode(&token, &swapped), Ok(Some(position)));
            assert!(decode(&token, &[]).is_err(), "other types");
            assert!(decode(&token[2..], &types).is_err());
            assert!(decode(&token.replace('0', "1"), &types).is_err());
        }
        assert!(decode("zz", &[]).is_err());
        assert!(decode("é", &[]).is_err());
        assert_eq!(decode("", &types), Ok(None));
    }
}
