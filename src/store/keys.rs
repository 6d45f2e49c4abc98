//! Keys of the store's keyspaces. Big-endian, order-preserving.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `heads` | entity key | head page: all versions of the entity, or the mark that they are in `leaves` |
//! | `leaves` | entity key, `valid_lo` (i64, sign bit flipped) | leaf page, or the mark that it is in `chains` |
//! | `chains` (large) | leaf key, generation (u64) | a page longer than one value |
//! | `log` (large) | sequence (u64) | commit record, or the generation of it in `redacted` |
//! | `redacted` (large) | sequence (u64), generation (u64) | commit record |
//! | `types` (large) | entity type's name | its declaration, with all revisions |
//! | `requests` | request id | the first answer |
//! | `request_times` | system time (i64, sign bit flipped), request id | empty |
//! | `ingests` | name of a bulk load | its last offset |
//! | `ingest_times` | system time (i64, sign bit flipped), name of a bulk load | empty |
//! | `meta` | `checkpoint`, `floor`, `first_known/` type, `import/` type | see `marks` |
//!
//! **Entity key**: `escape(type) 00 01 escape(id) 00 01`, where `escape` writes each `00` as `00 FF`: keys order as
//! (type, id) do, and no key is the start of another.

const TERMINATOR: [u8; 2] = [0, 1];
/// Above [`TERMINATOR`], below every longer name.
const AFTER_TERMINATOR: [u8; 2] = [0, 2];
const SIGN_BIT: u64 = 1 << 63;

/// The key of one entity's head.
pub(super) fn entity_key(entity_type: &str, entity_id: &str) -> Vec<u8> {
    let mut key = type_prefix(entity_type);
    escape_into(entity_id.as_bytes(), &mut key);
    key.extend_from_slice(&TERMINATOR);
    key
}

/// What all entity keys of a type start with.
pub(super) fn type_prefix(entity_type: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(entity_type.len() + 16);
    escape_into(entity_type.as_bytes(), &mut key);
    key.extend_from_slice(&TERMINATOR);
    key
}

/// The half-open range of keys of a type's entities whose ids come after `after` in byte order.
pub(super) fn type_range(entity_type: &str, after: Option<&str>) -> (Vec<u8>, Vec<u8>) {
    let start = match after {
        None => type_prefix(entity_type),
        Some(id) => {
            let mut key = entity_key(entity_type, id);
            key.push(0);
            key
        }
    };
    let mut end = Vec::with_capacity(entity_type.len() + 2);
    escape_into(entity_type.as_bytes(), &mut end);
    end.extend_from_slice(&AFTER_TERMINATOR);
    (start, end)
}

/// The entity id in a head's key whose type prefix has `prefix_bytes`; `None` if it is no such key.
pub(super) fn entity_id(key: &[u8], prefix_bytes: usize) -> Option<String> {
    let escaped = key.get(prefix_bytes..)?.strip_suffix(&TERMINATOR)?;
    let mut id = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        id.push(byte);
        if byte == 0 && bytes.next() != Some(&0xFF) {
            return None;
        }
    }
    String::from_utf8(id).ok()
}

/// The key of the leaf of an entity that starts at `valid_lo`.
pub(super) fn leaf_key(entity_key: &[u8], valid_lo: i64) -> Vec<u8> {
    let mut key = Vec::with_capacity(entity_key.len() + 8);
    key.extend_from_slice(entity_key);
    key.extend_from_slice(&ordered(valid_lo));
    key
}

/// The key of one generation of a chained leaf.
pub(super) fn chain_key(leaf_key: &[u8], generation: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(leaf_key.len() + 8);
    key.extend_from_slice(leaf_key);
    key.extend_from_slice(&generation.to_be_bytes());
    key
}

/// The key of a log record.
pub(super) fn sequence_key(sequence: u64) -> [u8; 8] {
    sequence.to_be_bytes()
}

/// The key of a log record that was replaced by a longer one than one value holds.
pub(super) fn redacted_key(sequence: u64, generation: u64) -> Vec<u8> {
    [sequence_key(sequence), generation.to_be_bytes()].concat()
}

/// The key by which remembered requests are pruned.
pub(super) fn request_time_key(system_time: i64, request_id: &str) -> Vec<u8> {
    let mut key = ordered(system_time).to_vec();
    key.extend_from_slice(request_id.as_bytes());
    key
}

/// The parts of a [`request_time_key`].
pub(super) fn parse_request_time_key(key: &[u8]) -> Option<(i64, &[u8])> {
    let (time, id) = key.split_first_chunk::<8>()?;
    Some(((u64::from_be_bytes(*time) ^ SIGN_BIT).cast_signed(), id))
}

/// Eight bytes that order as the number does.
fn ordered(value: i64) -> [u8; 8] {
    (value.cast_unsigned() ^ SIGN_BIT).to_be_bytes()
}

fn escape_into(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        out.push(byte);
        if byte == 0 {
            out.push(0xFF);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_order_as_ids_do_and_give_the_id_back(
            a in "[\\x00-\\x03a-c]{0,6}", b in "[\\x00-\\x03a-c]{0,6}",
        ) {
            let (key_a, key_b) = (entity_key("t", &a), entity_key("t", &b));
            prop_assert_eq!(key_a.cmp(&key_b), a.as_bytes().cmp(b.as_bytes()));
            prop_assert!(a == b || !key_b.starts_with(&key_a));
            prop_assert_eq!(entity_id(&key_a, type_prefix("t").len()), Some(a.clone()));
            let (start, end) = type_range("t", Some(&a));
            prop_assert_eq!((start..end).contains(&key_b), b.as_bytes() > a.as_bytes());
        }

        #[test]
        fn leaves_order_as_their_start_does(a: i64, b: i64) {
            prop_assert_eq!(leaf_key(b"e", a).cmp(&leaf_key(b"e", b)), a.cmp(&b));
            let key = request_time_key(a, "r");
            prop_assert_eq!(parse_request_time_key(&key), Some((a, &b"r"[..])));
        }
    }

    #[test]
    fn a_type_does_not_hold_the_entities_of_a_longer_name() {
        let (start, end) = type_range("air", None);
        assert!((start.clone()..end.clone()).contains(&entity_key("air", "x")));
        assert!(!(start..end).contains(&entity_key("aircraft", "x")));
    }
}
