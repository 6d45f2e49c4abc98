//! What fuzzing calls: bytes as they might come from a damaged disk, past the checksum too. Nothing here may panic.

use super::{keys, page_codec, page_view::PageView};

/// Reads bytes as a page: as they are, and with a checksum that holds.
///
/// # Panics
/// When what was read does not read the same after it is written again.
pub fn page(data: &[u8]) {
    drop(PageView::read(b"key", data.into()));
    let sealed = page_codec::sealed(b"key", data);
    let Ok(view) = PageView::read(b"key", sealed.into()) else {
        return;
    };
    let span = view.header.span;
    for point in [span.from, span.to, 0, i64::MIN, i64::MAX] {
        for basis in [view.header.since, 0, i64::MIN, i64::MAX] {
            let _ = (view.find(point, basis), view.child_at(point, basis));
        }
    }
    if let Ok(leaf) = view.leaf() {
        let again = page_codec::encode_leaf(b"key", &leaf, view.header.erased_until);
        let again = PageView::read(b"key", again.into()).and_then(|view| view.leaf());
        let told = again.map(|again| (again.rects, again.rows));
        assert_eq!(
            told,
            Ok((leaf.rects, leaf.rows)),
            "a leaf reads the same again"
        );
    }
    if let Ok(entries) = view.entries() {
        let again = page_codec::encode_inner(b"key", &view.header, &entries);
        let again = PageView::read(b"key", again.into()).and_then(|view| view.entries());
        assert_eq!(again, Ok(entries), "an inner page reads the same again");
    }
    drop(page_codec::decode_row(b"key", &data.into()));
}

/// Reads bytes as keys of every kind, with any cut as the entity's part.
pub fn key(data: &[u8]) {
    let cut = data.first().map_or(0, |&byte| usize::from(byte));
    let entity_key = data.get(..cut).unwrap_or(data);
    drop(keys::entity_id(data, cut));
    if let Some(id) = keys::parse_page_key(data, entity_key) {
        assert_eq!(keys::page_key(entity_key, id), data, "a page's key");
    }
    if let Some(since) = keys::parse_root_key(data, entity_key) {
        assert_eq!(keys::root_key(entity_key, since), data, "a root's key");
    }
    if let Some((time, id)) = keys::parse_request_time_key(data)
        && let Ok(id) = std::str::from_utf8(id)
    {
        assert_eq!(
            keys::request_time_key(time, id),
            data,
            "a request's time key"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Found by fuzzing: a child's beginning that adds up to the beginning of time without saying so.
    #[test]
    fn a_child_from_the_beginning_says_so() {
        super::page(&[
            0x09, 0xf1, 0x09, 0x09, 0x09, 0x09, 0x09, 0x23, 0xf9, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0xff, 0xff, 0x01, 0x7f, 0xff, 0x77, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01,
            0x01, 0x01, 0x01, 0x01, 0x3a, 0x01, 0x01, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xff, 0x06, 0xae, 0x01, 0xff, 0xff,
        ]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(data: Vec<u8>) {
            super::page(&data);
            super::key(&data);
        }

        #[test]
        fn pages_with_a_flipped_byte_never_panic(at in 5..300usize, by in 1..=255u8) {
            let mut data = include_bytes!("../../tests/fixtures/store-leaf-3.bin").to_vec();
            data[at] ^= by;
            super::page(&data[5..]);
        }
    }
}
