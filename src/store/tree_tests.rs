//! Random commits on a page tree in memory and on a plain list of rectangles, compared at every basis; commits that are cut
//! off after any of their writes and replayed. Some commits have the system time of the one before, as imports may.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    edit::Edit,
    error::Error,
    history::known_versions,
    keys,
    page::{Row, RowHash},
    page_codec::{self, PageId},
    page_view::PageView,
    pages::{Head, Source, Write},
    path,
    read::{self, Seen},
    timeline::{self, OPEN, Rect, Span},
    tree::{LOW_BYTES, Node, PAGE_BYTES},
};
use crate::kv::Slice;

const KEY: &[u8] = b"entity";
const POINTS: i64 = 300;

/// One entity's pages.
#[derive(Debug, Clone, Default, PartialEq)]
struct Memory {
    head: Option<Slice>,
    roots: BTreeMap<i64, Slice>,
    pages: BTreeMap<PageId, Slice>,
    rows: BTreeMap<RowHash, Slice>,
}

impl Memory {
    fn write(&mut self, writes: &[Write]) {
        for write in writes {
            match write.clone() {
                Write::Row(hash, bytes) => drop(self.rows.insert(hash, bytes.into())),
                Write::Page(id, bytes) => drop(self.pages.insert(id, bytes.into())),
                Write::Archive(since, bytes) => drop(self.roots.insert(since, bytes.into())),
                Write::Head(bytes) => self.head = Some(bytes.into()),
                Write::Remove(id) => drop(self.pages.remove(&id)),
                Write::Wipe { at, sequence } => {
                    self.roots.retain(|&since, _| since >= at);
                    self.pages.retain(|id, _| id.made_by >= sequence);
                }
            }
        }
    }

    /// The writes of a commit.
    fn commit(&self, sequence: u64, at: i64, changes: &[Change]) -> Vec<Write> {
        let mut edit = Edit::open(self, KEY, sequence, at).expect("opens");
        for change in changes {
            match change {
                Change::Assert(span, row) => {
                    let row = row.map(row_bytes);
                    edit.assert_over(*span, row.as_deref()).expect("asserts");
                }
                Change::Erase => edit.erase(),
            }
        }
        edit.seal();
        edit.writes()
    }

    /// What recovery does after the replay.
    fn sweep(&mut self, at: i64) {
        for id in path::unreached(self, KEY, at).expect("reads") {
            self.pages.remove(&id);
        }
    }
}

fn view(key: &[u8], stored: &Slice) -> PageView {
    PageView::read(key, stored.clone()).expect("reads")
}

impl Source for Memory {
    fn head(&self, key: &[u8]) -> Result<Head, Error> {
        let root = self.head.as_ref();
        Ok(root.map_or(Head::Absent, |stored| Head::Root(view(key, stored))))
    }

    fn page(&self, key: &[u8], id: PageId) -> Result<PageView, Error> {
        match self.pages.get(&id) {
            Some(stored) => Ok(view(&keys::page_key(key, id), stored)),
            None => Err(Error::damaged(format!("{id:?}"), "it is not there")),
        }
    }

    fn earlier_root(&self, key: &[u8], basis: i64) -> Result<PageView, Error> {
        match self.roots.range(..=basis).next_back() {
            Some((_, stored)) => Ok(view(key, stored)),
            None => Err(Error::damaged("a root", "it is not there")),
        }
    }

    fn row(&self, key: &[u8], hash: &RowHash) -> Result<Slice, Error> {
        let stored = self.rows.get(hash).expect("there");
        Ok(page_codec::decode_row(&keys::row_key(key, hash), stored).expect("reads"))
    }

    fn leaves(&self, key: &[u8], basis: i64) -> Result<Vec<PageView>, Error> {
        let roots = self
            .roots
            .range(..=basis)
            .map(|(_, stored)| view(key, stored));
        let pages = self.pages.iter().filter(|(id, _)| id.since <= basis);
        let pages = pages.map(|(id, stored)| view(&keys::page_key(key, *id), stored));
        let leaves = roots.chain(pages);
        Ok(leaves.filter(|page| page.header.level == 0).collect())
    }

    fn made_at(&self, _: &[u8], since: i64) -> Result<Vec<PageId>, Error> {
        let ids = self.pages.keys().filter(|id| id.since == since);
        Ok(ids.copied().collect())
    }
}

#[derive(Debug, Clone)]
enum Change {
    /// `None`: ended.
    Assert(Span, Option<u8>),
    Erase,
}

/// Rows of several lengths, some of them too long for pages.
fn row_bytes(row: u8) -> Vec<u8> {
    vec![row; [3, 40, 90, 130][usize::from(row % 4)]]
}

fn time_of(sequence: u64) -> i64 {
    1_000 + 10 * i64::try_from(sequence).expect("small")
}

/// What the tree must say: a plain list of rectangles whose states are `row + 1`.
#[derive(Default)]
struct Model {
    rects: Vec<Rect>,
    erased_until: Option<i64>,
}

impl Model {
    fn commit(&mut self, at: i64, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Erase => {
                    self.rects.clear();
                    self.erased_until = Some(OPEN);
                }
                Change::Assert(span, row) => {
                    let state = row.map_or(0, |row| u32::from(row) + 1);
                    let changed = timeline::assert_over(&mut self.rects, *span, state, at);
                    if changed && self.erased_until == Some(OPEN) {
                        self.erased_until = Some(at);
                    }
                }
            }
        }
        timeline::coalesce(&mut self.rects);
    }
}

fn told(rect: &Rect) -> (Rect, Option<Vec<u8>>) {
    let row = u8::try_from(rect.state).expect("small").checked_sub(1);
    (Rect { state: 0, ..*rect }, row.map(row_bytes))
}

fn check_basis(memory: &Memory, model: &Model, basis: i64, step: usize) {
    let is_erased = model.erased_until.is_some_and(|until| basis < until);
    for point in (-1..=POINTS).step_by(step) {
        let head = memory.head(KEY).expect("reads");
        let (seen, _) = read::seen_at(memory, KEY, head, point, basis).expect("reads");
        match seen {
            Seen::Erased => assert!(is_erased, "erased at {basis}"),
            Seen::Nothing => {
                assert!(!is_erased, "not erased at {basis}");
                assert_eq!(timeline::as_of(&model.rects, point, basis), None);
            }
            Seen::Version(found) => {
                assert!(!is_erased, "not erased at {basis}");
                let expected = timeline::as_of(&model.rects, point, basis).expect("a version");
                let row = found.row().map(<[u8]>::to_vec);
                assert_eq!(
                    (
                        Rect {
                            state: 0,
                            ..found.rect
                        },
                        row
                    ),
                    told(&expected),
                    "at {point}, basis {basis}"
                );
            }
        }
    }
    let known = known_versions(memory, KEY, basis).expect("reads");
    let known: Vec<_> = known
        .iter()
        .map(|(rect, row)| {
            let row = row.as_ref().map(|row| row.to_vec());
            (Rect { state: 0, ..*rect }, row)
        })
        .collect();
    let expected: Vec<_> = if is_erased {
        Vec::new()
    } else {
        let known = timeline::known_at(&model.rects, basis);
        known.iter().map(told).collect()
    };
    assert_eq!(known, expected, "history at {basis}");
}

/// Checks the live pages below a page, and answers how many levels there are.
fn check_live(memory: &Memory, page: &PageView, has_siblings: bool) -> u8 {
    assert!(page.bytes().len() <= PAGE_BYTES, "a page fits");
    let live_bytes = Node::from_view(page).expect("reads").live_bytes();
    assert!(
        !has_siblings || live_bytes >= LOW_BYTES,
        "weak version condition: {live_bytes}"
    );
    if page.header.level == 0 {
        return 0;
    }
    let live: Vec<_> = page.entries().expect("reads");
    let live: Vec<_> = live.iter().filter(|entry| entry.until == OPEN).collect();
    let mut reached = page.header.span.from;
    for entry in &live {
        assert_eq!(entry.from, reached, "live children tile");
        let id = entry.id(page.header.level - 1);
        let child = memory.page(KEY, id).expect("there");
        assert_eq!(Node::from_view(&child).expect("reads").id(), id);
        reached = child.header.span.to;
        assert_eq!(
            check_live(memory, &child, live.len() > 1) + 1,
            page.header.level
        );
    }
    assert_eq!(reached, page.header.span.to, "live children tile");
    page.header.level
}

fn check_structure(memory: &Memory) -> u8 {
    match memory.head(KEY).expect("reads") {
        Head::Absent => 0,
        Head::Root(root) => check_live(memory, &root, false),
    }
}

fn an_assertion() -> impl Strategy<Value = Change> {
    let length = prop_oneof![6 => 1..4i64, 2 => 1..40i64, 1 => 1..POINTS];
    let row = prop_oneof![1 => Just(None), 9 => (0..24u8).prop_map(Some)];
    (0..POINTS, length, row, 0..12u8).prop_map(|(from, length, row, kind)| {
        let span = match kind {
            0 => Span { from, to: OPEN },
            1 => Span { from: 100, to: 103 },
            _ => Span {
                from,
                to: (from + length).min(POINTS),
            },
        };
        Change::Assert(span, row)
    })
}

/// A commit: scattered changes, a load of neighbouring ones, or (rarely, if asked for) an erasure among others.
fn a_commit(erasures: bool) -> impl Strategy<Value = Vec<Change>> {
    let load = (0..POINTS, 1..120i64, 0..24u8).prop_map(|(from, count, row)| {
        (from..(from + count).min(POINTS))
            .map(|point| {
                let row = (row + u8::try_from(point % 5).expect("small")) % 24;
                Change::Assert(
                    Span {
                        from: point,
                        to: point + 1,
                    },
                    Some(row),
                )
            })
            .collect()
    });
    let erasure = prop::collection::vec(
        prop_oneof![3 => an_assertion(), 1 => Just(Change::Erase)],
        1..4,
    );
    prop_oneof![
        12 => prop::collection::vec(an_assertion(), 1..5),
        2 => load,
        u32::from(erasures) => erasure,
    ]
}

/// One of the commits of an import, and its place in their order.
#[derive(Debug, Clone)]
struct Imported {
    sequence: u64,
    at: i64,
    changes: Vec<Change>,
}

/// Commits of which a third, but for the first, has the system time of the one before.
fn an_import(
    commits: impl Into<prop::collection::SizeRange>,
) -> impl Strategy<Value = Vec<Imported>> {
    let commit = (a_commit(true), prop::bool::weighted(0.35));
    prop::collection::vec(commit, commits).prop_map(|commits| {
        let mut at = 1_000;
        (1..)
            .zip(commits)
            .map(|(sequence, (changes, repeats))| {
                if sequence == 1 || !repeats {
                    at += 10;
                }
                Imported {
                    sequence,
                    at,
                    changes,
                }
            })
            .collect()
    })
}

/// Pages that were made and buried at one system time are gone, and all others are reached.
fn check_reached(memory: &Memory, at: i64) {
    assert_eq!(path::unreached(memory, KEY, at).expect("reads"), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_says_what_a_list_of_rectangles_says(commits in an_import(1..120)) {
        let (mut memory, mut model) = (Memory::default(), Model::default());
        for Imported { sequence, at, changes } in &commits {
            let writes = memory.commit(*sequence, *at, changes);
            memory.write(&writes);
            model.commit(*at, changes);
            check_structure(&memory);
            check_reached(&memory, *at);
        }
        for imported in commits.iter().rev().step_by(commits.len() / 12 + 1) {
            check_reached(&memory, imported.at);
            check_basis(&memory, &model, imported.at, 7);
            check_basis(&memory, &model, imported.at + 3, 29);
        }
        check_basis(&memory, &model, 1_003, 7);
    }

    /// Wherever a crash cuts a commit off, replay makes the pages that the commit would have made.
    #[test]
    fn a_commit_that_was_cut_off_is_replayed(commits in an_import(1..50)) {
        let mut memory = Memory::default();
        for (index, Imported { sequence, at, changes }) in commits.iter().enumerate() {
            let writes = memory.commit(*sequence, *at, changes);
            let mut whole = memory.clone();
            whole.write(&writes);
            for cut in 0..=writes.len() {
                let mut torn = memory.clone();
                torn.write(&writes[..cut]);
                // Replay starts at an earlier commit than the torn one.
                let replayed = &commits[index.saturating_sub(3)..=index];
                for Imported { sequence, at, changes } in replayed {
                    let again = torn.commit(*sequence, *at, changes);
                    torn.write(&again);
                }
                for imported in replayed {
                    torn.sweep(imported.at);
                }
                prop_assert_eq!(&torn, &whole, "cut after {} of {}", cut, writes.len());
            }
            memory = whole;
        }
    }
}

/// Many versions side by side make a tree of several levels; one wide change makes it low again.
#[test]
fn trees_grow_and_shrink() {
    let (mut memory, mut model) = (Memory::default(), Model::default());
    let mut sequence = 0;
    let mut commit = |memory: &mut Memory, changes: &[Change]| {
        sequence += 1;
        let at = time_of(sequence);
        let writes = memory.commit(sequence, at, changes);
        memory.write(&writes);
        model.commit(at, changes);
        check_structure(memory)
    };
    let narrow = |from: i64, row: i64| {
        let row = u8::try_from(row % 23).expect("small");
        Change::Assert(Span { from, to: from + 1 }, Some(row))
    };
    let spread: Vec<_> = (0..6_000).map(|point| narrow(point, point)).collect();
    let high = commit(&mut memory, &spread);
    assert!(high >= 2, "{high} levels");
    let wide = Change::Assert(Span { from: 1, to: 5_999 }, Some(23));
    let low = commit(&mut memory, &[wide]);
    assert_eq!(low, 0);
    for round in 0..40 {
        let again: Vec<_> = (0..200)
            .map(|step| narrow(step * 28, step + round))
            .collect();
        commit(&mut memory, &again);
    }
    for basis in [1_009, 1_015, 1_025, 1_200, 1_500] {
        check_basis(&memory, &model, basis, 7);
    }
}

/// A long row is stored once per entity, and goes with an erasure.
#[test]
fn long_rows_lie_outside() {
    let mut memory = Memory::default();
    let long = Change::Assert(Span { from: 0, to: 9 }, Some(3));
    assert!(matches!(Row::of(&row_bytes(3)), Row::Outside(_)));
    let writes = memory.commit(1, 10, std::slice::from_ref(&long));
    memory.write(&writes);
    assert_eq!(memory.rows.len(), 1);
    assert!(
        memory.commit(2, 20, &[long]).is_empty(),
        "it is there already"
    );
}
