//! Where to cut what one page cannot hold: pure.

use std::ops::Range;

/// Something that goes into one piece whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    /// What it takes itself.
    pub(super) bytes: usize,
    /// Which shared thing it needs in its piece (a small number), and what that takes there, once.
    pub(super) shared: Option<(usize, usize)>,
}

/// Cuts items into as few pieces of at most `limit` bytes as their order allows, balanced: with as many pieces, the heaviest
/// one is as light as it can be. A last piece under `low` joins the one before it. Never empty; an item over `limit` is a
/// piece of its own.
///
/// **Cost**: a few passes over the items.
pub(super) fn balanced(items: &[Item], limit: usize, low: usize) -> Vec<Range<usize>> {
    let widest = starts(items, limit);
    let (mut least, mut most) = (0, limit);
    while most - least > limit / 64 {
        let middle = least.midpoint(most);
        if starts(items, middle).len() > widest.len() {
            least = middle;
        } else {
            most = middle;
        }
    }
    let mut starts = starts(items, most);
    if let [.., last] = starts[..]
        && starts.len() > 1
        && piece_bytes(&items[last..]) < low
    {
        starts.pop();
    }
    let ends = starts.iter().skip(1).copied().chain([items.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| start..end)
        .collect()
}

/// What a piece takes.
fn piece_bytes(items: &[Item]) -> usize {
    let mut piece = Piece::new(items);
    items
        .iter()
        .map(|item| {
            let bytes = piece.weigh(item);
            piece.take(item);
            bytes
        })
        .sum()
}

/// The starts of pieces that are filled one after the other.
fn starts(items: &[Item], limit: usize) -> Vec<usize> {
    let mut starts = vec![0];
    let mut piece = Piece::new(items);
    let mut filled = 0;
    for (index, item) in items.iter().enumerate() {
        let mut bytes = piece.weigh(item);
        if filled > 0 && filled + bytes > limit {
            starts.push(index);
            piece.number += 1;
            filled = 0;
            bytes = piece.weigh(item);
        }
        piece.take(item);
        filled += bytes;
    }
    starts
}

/// The piece being filled, and which piece last took each shared thing.
struct Piece {
    number: usize,
    taken_by: Vec<usize>,
}

impl Piece {
    fn new(items: &[Item]) -> Self {
        let shared = items.iter().filter_map(|item| item.shared);
        let count = shared.map(|(index, _)| index + 1).max().unwrap_or(0);
        Self {
            number: 1,
            taken_by: vec![0; count],
        }
    }

    fn weigh(&self, item: &Item) -> usize {
        let shared = item
            .shared
            .filter(|&(index, _)| self.taken_by[index] != self.number);
        item.bytes + shared.map_or(0, |(_, bytes)| bytes)
    }

    fn take(&mut self, item: &Item) {
        if let Some((index, _)) = item.shared {
            self.taken_by[index] = self.number;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let shared = prop::option::of((0..8usize).prop_map(|index| (index, 20 * (index + 1))));
        let item = (1..60usize, shared).prop_map(|(bytes, shared)| Item { bytes, shared });
        prop::collection::vec(item, 0..80)
    }

    proptest! {
        #[test]
        fn pieces_hold_all_items_in_order_within_the_limit(items in items()) {
            let pieces = balanced(&items, 300, 60);
            let mut reached = 0;
            for piece in &pieces {
                prop_assert_eq!(piece.start, reached);
                prop_assert!(piece.end > piece.start || items.is_empty());
                prop_assert!(piece_bytes(&items[piece.clone()]) <= 360);
                reached = piece.end;
            }
            prop_assert_eq!(reached, items.len());
            if let [.., last] = &pieces[..] && pieces.len() > 1 {
                prop_assert!(piece_bytes(&items[last.clone()]) >= 60);
            }
        }
    }

    #[test]
    fn equal_items_give_equal_pieces() {
        let items = vec![
            Item {
                bytes: 10,
                shared: None
            };
            45
        ];
        let lengths: Vec<_> = balanced(&items, 300, 60).iter().map(Range::len).collect();
        assert_eq!(lengths, [23, 22]);
    }
}
