//! Keys of the store's keyspaces. Big-endian, order-preserving.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `heads` | entity key | the root of the entity's page tree: for the ordinary entity, all of it |
//! | `roots` | entity key, `since` (i64, sign bit flipped) | an earlier root, as it last lay in `heads` |
//! | `pages` | entity key, level (u8), `since`, sequence of the commit that made it (u64), start of its span | a page that is no root |
//! | `rows` | entity key, first 16 bytes of the row's SHA-256 | a row too long for pages |
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

use super::{page::RowHash, page_codec::PageId};

const TERMINATOR: [u8; 2] = [0, 1];
/// Above [`TERMINATOR`], below every longer name.
const AFTER_TERMINATOR: [u8; 2] = [0, 2];
const SIGN_BIT: u64 = 1 << 63;

/// The key of one entity's head.
pub(super) fn entity_key(entity_type: &str, entity_id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(entity_type.len() + entity_id.len() + 2 * TERMINATOR.len());
    for name in [entity_type, entity_id] {
        escape_into(name.as_bytes(), &mut key);
        key.extend_from_slice(&TERMINATOR);
    }
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

/// The type and id of the entity with this key; `None` if it is no such key.
pub(super) fn parse_entity_key(key: &[u8]) -> Option<(String, String)> {
    let type_bytes = key.windows(2).position(|pair| pair == TERMINATOR)?;
    let (prefix, _) = key.split_at_checked(type_bytes + TERMINATOR.len())?;
    let entity_type = entity_id(prefix, 0)?;
    Some((entity_type, entity_id(key, prefix.len())?))
}

/// What a [`root_key`] has more than the entity's.
pub(super) const ROOT_SUFFIX_BYTES: usize = 8;
/// What a [`page_key`] has more than the entity's.
pub(super) const PAGE_SUFFIX_BYTES: usize = 25;
/// What a [`row_key`] has more than the entity's.
pub(super) const ROW_SUFFIX_BYTES: usize = 16;

/// The key of an earlier root that was made at `since`.
pub(super) fn root_key(entity_key: &[u8], since: i64) -> Vec<u8> {
    [entity_key, &ordered(since)].concat()
}

/// The key of a page that is no root.
pub(super) fn page_key(entity_key: &[u8], id: PageId) -> Vec<u8> {
    [
        entity_key,
        &[id.level],
        &ordered(id.since),
        &sequence_key(id.made_by),
        &ordered(id.from),
    ]
    .concat()
}

/// The page in a [`page_key`] of this entity.
pub(super) fn parse_page_key(key: &[u8], entity_key: &[u8]) -> Option<PageId> {
    let (&level, rest) = key.strip_prefix(entity_key)?.split_first()?;
    let (since, rest) = rest.split_first_chunk::<8>()?;
    let (made_by, from) = rest.split_first_chunk::<8>()?;
    Some(PageId {
        level,
        since: number(*since),
        made_by: u64::from_be_bytes(*made_by),
        from: number(from.try_into().ok()?),
    })
}

/// The system time in a [`root_key`] of this entity.
pub(super) fn parse_root_key(key: &[u8], entity_key: &[u8]) -> Option<i64> {
    let since = key.strip_prefix(entity_key)?;
    Some(number(since.try_into().ok()?))
}

/// The half-open range of keys of the leaves that were made at or before `basis`.
pub(super) fn leaves_until(entity_key: &[u8], basis: i64) -> (Vec<u8>, Vec<u8>) {
    let start = [entity_key, &[0]].concat();
    let end = [&start[..], &ordered(basis.saturating_add(1))].concat();
    (start, end)
}

/// What the keys of all pages of `level` that were made at `since` start with.
pub(super) fn pages_made_at(entity_key: &[u8], level: u8, since: i64) -> Vec<u8> {
    [entity_key, &[level], &ordered(since)].concat()
}

/// The key of a row that lies outside of pages.
pub(super) fn row_key(entity_key: &[u8], hash: &RowHash) -> Vec<u8> {
    [entity_key, hash].concat()
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
    Some((number(*time), id))
}

/// The number that [`ordered`] wrote.
fn number(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ SIGN_BIT).cast_signed()
}

/// Eight bytes that order as the number does.
fn ordered(value: i64) -> [u8; 8] {
    (value.cast_unsigned() ^ SIGN_BIT).to_be_bytes()
}

#[inline]
fn escape_into(bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.contains(&0) {
        return out.extend_from_slice(bytes);
    }
    let mut parts = bytes.split(|&byte| byte == 0);
    out.extend_from_slice(parts.next().unwrap_or_default());
    for part in parts {
        out.extend_from_slice(&[0, 0xFF]);
        out.extend_from_slice(part);
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
            prop_assert_eq!(parse_entity_key(&key_a), Some(("t".to_owned(), a.clone())));
            prop_assert_eq!(parse_entity_key(&entity_key(&b, &a)), Some((b.clone(), a.clone())));
            let (start, end) = type_range("t", Some(&a));
            prop_assert_eq!((start..end).contains(&key_b), b.as_bytes() > a.as_bytes());
        }

        #[test]
        fn pages_order_by_level_then_since_then_start(a: (u8, i64, u64, i64), b: (u8, i64, u64, i64)) {
            let [id_a, id_b] = [a, b].map(|(level, since, made_by, from)| PageId { level, since, made_by, from });
            let (key_a, key_b) = (page_key(b"e", id_a), page_key(b"e", id_b));
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
            prop_assert_eq!(parse_page_key(&key_a, b"e"), Some(id_a));
            prop_assert_eq!(parse_root_key(&root_key(b"e", a.1), b"e"), Some(a.1));
            prop_assert_eq!(key_a.starts_with(&pages_made_at(b"e", b.0, b.1)), (a.0, a.1) == (b.0, b.1));
            let (start, end) = leaves_until(b"e", b.1);
            prop_assert_eq!((start..end).contains(&key_a), a.0 == 0 && a.1 <= b.1 && b.1 < i64::MAX);
            let key = request_time_key(a.1, "r");
            prop_assert_eq!(parse_request_time_key(&key), Some((a.1, &b"r"[..])));
        }
    }

    #[test]
    fn a_type_does_not_hold_the_entities_of_a_longer_name() {
        let (start, end) = type_range("air", None);
        assert!((start.clone()..end.clone()).contains(&entity_key("air", "x")));
        assert!(!(start..end).contains(&entity_key("aircraft", "x")));
    }
}
