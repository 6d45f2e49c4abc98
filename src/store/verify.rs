//! Checks an entity's pages as they lie: what `store check` walks.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    Store,
    error::Error,
    page::{Page, Row},
    page_codec::{Entry, PageId},
    page_view::PageView,
    pages::{Head, Pages, Source},
    timeline::{OPEN, Span},
};

/// What is wrong with an entity's pages, as sentences.
type Problems = Vec<String>;

impl Store {
    /// Reads all pages of all entities, and hands each thing that is wrong with them to `problem`, as a sentence: a checksum or
    /// a form that does not hold, a page or row that is missing or that nothing leads to, children that do not tile, versions
    /// that overlap (`BT-1`). Returns how many entities there are. Blocks.
    ///
    /// Meant for a store that takes no writes meanwhile: what a commit is half done with looks wrong. **Cost**: all pages and
    /// long rows of the store.
    ///
    /// # Errors
    /// Storage faults; damage is handed to `problem`.
    pub fn check_pages(&self, mut problem: impl FnMut(&str)) -> super::Result<u64> {
        let pages = &self.inner.pages;
        let mut entities = 0;
        for key in pages.keys() {
            pages
                .verify_entity(&key?)?
                .iter()
                .for_each(|told| problem(told));
            entities += 1;
        }
        pages.strays()?.iter().for_each(|told| problem(told));
        Ok(entities)
    }
}

impl Pages {
    /// Reads every page of the entity at `key` and says what is wrong: a checksum or a form that does not hold, a child or row
    /// that is missing, children that do not tile at some system time, versions that overlap (`BT-1`) or lie outside of
    /// their page, pages that no root leads to. Empty: all is well.
    ///
    /// Meant for a store that takes no writes meanwhile. **Cost**: all pages and long rows of the entity.
    ///
    /// # Errors
    /// Storage faults; damage is among what is said.
    pub(super) fn verify_entity(&self, key: &[u8]) -> Result<Problems, Error> {
        let mut walk = Walk {
            pages: self,
            key,
            seen: BTreeSet::new(),
            problems: Vec::new(),
        };
        let head = match self.head(key) {
            Ok(head) => head,
            Err(error) => {
                walk.problems.push(damage(error)?);
                Head::Absent
            }
        };
        let mut roots: BTreeMap<i64, PageView> = BTreeMap::new();
        for (since, root) in self.earlier_roots(key)? {
            match root {
                Ok(root) if root.header.since != since => {
                    let its = root.header.since;
                    walk.say(format!("the root under {since} says that it is from {its}"));
                }
                Ok(root) => drop(roots.insert(since, root)),
                Err(error) => walk.problems.push(damage(error)?),
            }
        }
        if let Head::Root(head) = head
            && roots.insert(head.header.since, head).is_some()
        {
            walk.say("the head's root lies among earlier roots too".to_owned());
        }
        walk.check_ends(&roots);
        // The newest first: a page is met by the last of those that name it, which knows until when it lived.
        for root in roots.values().rev() {
            walk.check_page("root", root, Span::ALL, root.header.until)?;
        }
        for id in self.page_ids(key)? {
            if !walk.seen.contains(&id) {
                walk.say(format!("no root leads to page {id:?}"));
            }
        }
        Ok(walk.problems)
    }

    /// Pages, roots and rows of entities that have no head.
    ///
    /// **Cost**: the keys of all of them.
    ///
    /// # Errors
    /// Storage faults.
    pub(super) fn strays(&self) -> Result<Problems, Error> {
        let mut problems = Vec::new();
        self.each_part(|what, part_key, entity_key| {
            let is_stray = match entity_key {
                Some(key) => !self.has_head(key)?,
                None => true,
            };
            if is_stray {
                problems.push(format!("{what} {} has no head", part_key.escape_ascii()));
            }
            Ok(())
        })?;
        Ok(problems)
    }
}

/// The text of damage; any other error is passed on.
fn damage(error: Error) -> Result<String, Error> {
    if let Error::Damaged { what, cause } = error {
        return Ok(format!("{what}: {cause}"));
    }
    Err(error)
}

struct Walk<'a> {
    pages: &'a Pages,
    key: &'a [u8],
    seen: BTreeSet<PageId>,
    problems: Problems,
}

impl Walk<'_> {
    fn say(&mut self, problem: String) {
        let key = self.key.escape_ascii();
        self.problems.push(format!("entity {key}: {problem}"));
    }

    /// Each root ends where the next one begins, the first one is the entity's first or follows an erasure.
    fn check_ends(&mut self, roots: &BTreeMap<i64, PageView>) {
        let ends = roots.keys().skip(1).copied().chain([OPEN]);
        for (root, end) in roots.values().zip(ends) {
            let header = &root.header;
            if header.until != end {
                let (since, until) = (header.since, header.until);
                self.say(format!(
                    "the root from {since} ends at {until}, the next begins at {end}"
                ));
            }
        }
        if let Some(first) = roots.values().next()
            && first.header.since != i64::MIN
            && first.header.erased_until.is_none()
        {
            self.say("its first root is missing".to_owned());
        }
    }

    /// Checks a page that is to cover `span` until `until`, and what lies below.
    fn check_page(
        &mut self,
        name: &str,
        page: &PageView,
        span: Span,
        until: i64,
    ) -> Result<(), Error> {
        if page.header.span != span {
            let its = page.header.span;
            self.say(format!("{name} covers {its:?}, and its place is {span:?}"));
        }
        if page.header.level == 0 {
            return match page.leaf() {
                Ok(leaf) => self.check_leaf(name, &leaf),
                Err(malformed) => {
                    self.say(format!("{name}: {}", malformed.0));
                    Ok(())
                }
            };
        }
        match page.entries() {
            Ok(entries) => self.check_children(name, page, &entries, until),
            Err(malformed) => {
                self.say(format!("{name}: {}", malformed.0));
                Ok(())
            }
        }
    }

    fn check_leaf(&mut self, name: &str, leaf: &Page) -> Result<(), Error> {
        for rect in &leaf.rects {
            let is_sound = rect.from < rect.to
                && rect.system_from < rect.system_to
                && leaf.since < rect.system_to
                && leaf.span.from <= rect.from
                && rect.to <= leaf.span.to;
            if !is_sound {
                self.say(format!("{name} has the impossible version {rect:?}"));
            }
        }
        if !leaf
            .rects
            .is_sorted_by_key(|rect| (rect.from, rect.system_from))
        {
            self.say(format!("{name} has versions out of order"));
        }
        for (index, rect) in leaf.rects.iter().enumerate() {
            for other in leaf.rects[index + 1..]
                .iter()
                .take_while(|other| other.from < rect.to)
            {
                if rect.system_from < other.system_to && other.system_from < rect.system_to {
                    self.say(format!("{name}: versions {rect:?} and {other:?} overlap"));
                }
            }
        }
        for hash in leaf.rows.iter().filter_map(Row::hash) {
            if let Err(error) = self.pages.row(self.key, hash) {
                self.problems.push(damage(error)?);
            }
        }
        Ok(())
    }

    fn check_children(
        &mut self,
        name: &str,
        page: &PageView,
        entries: &[Entry],
        until: i64,
    ) -> Result<(), Error> {
        let header = &page.header;
        // At every system time of the page's life at which something changes, the visible children tile its span.
        let mut times: Vec<i64> = entries
            .iter()
            .flat_map(|entry| [entry.since, entry.until])
            .filter(|&time| header.since < time && time < until)
            .chain([header.since])
            .collect();
        times.sort_unstable();
        times.dedup();
        let level = header.level - 1;
        let mut ends: BTreeMap<PageId, i64> = BTreeMap::new();
        for basis in times {
            let visible: Vec<_> = entries
                .iter()
                .filter(|entry| entry.is_visible(basis))
                .collect();
            if visible.first().map(|entry| entry.from) != Some(header.span.from) {
                self.say(format!("{name} has no first child at {basis}"));
            }
            let tos = visible.iter().skip(1).map(|entry| entry.from);
            for (entry, to) in visible.iter().zip(tos.chain([header.span.to])) {
                let known = *ends.entry(entry.id(level)).or_insert(to);
                if entry.from >= to || known != to {
                    self.say(format!("{name}: its children do not tile at {basis}"));
                }
            }
        }
        // The newest first, as with roots. Of what began when this page ended (the first of several commits of one system time
        // put it there, a later one ended the page) nobody knows through it.
        let mut entries: Vec<_> = entries.iter().filter(|entry| entry.since < until).collect();
        entries.sort_by_key(|entry| Reverse(entry.since));
        for entry in entries {
            let Some(&to) = ends.get(&entry.id(level)) else {
                self.say(format!("{name} has the entry {entry:?}, which no one sees"));
                continue;
            };
            let span = Span {
                from: entry.from,
                to,
            };
            self.check_child(entry.id(level), span, until.min(entry.until))?;
        }
        Ok(())
    }

    fn check_child(&mut self, id: PageId, span: Span, until: i64) -> Result<(), Error> {
        if !self.seen.insert(id) {
            return Ok(());
        }
        let child = match self.pages.stored_page(self.key, id) {
            Ok(child) => child,
            Err(error) => {
                self.problems.push(damage(error)?);
                return Ok(());
            }
        };
        let name = format!("page {id:?}");
        let header = &child.header;
        if (header.level, header.since, header.made_by) != (id.level, id.since, id.made_by) {
            self.say(format!("{name} says that it is another"));
        }
        self.check_page(&name, &child, span, until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kv::Database,
        store::{keys, log::Change, workspace::Workspace},
    };

    fn filled() -> (tempfile::TempDir, Database, Pages) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), 1 << 22).expect("opens");
        let pages = Pages::open(&database).expect("opens");
        for sequence in 1..=200u64 {
            let step = i64::try_from(sequence).expect("small");
            // Several commits of one system time, as an import may have.
            let mut workspace = Workspace::new(&pages, sequence, step / 3);
            for from in (0..20).map(|nth| (step * 37 + nth * 11) % 400) {
                let change = Change {
                    entity_type: "t".to_owned(),
                    entity_id: "e".to_owned(),
                    span: Span { from, to: from + 3 },
                    row: Some(vec![step.to_be_bytes()[7]; 20 + sequence as usize]),
                };
                workspace.apply(&change).expect("applies");
            }
            workspace.seal();
            workspace.write().expect("writes");
        }
        (folder, database, pages)
    }

    #[test]
    fn sound_pages_have_no_problems_and_each_lost_or_damaged_one_has() {
        let (_folder, database, pages) = filled();
        let key = keys::entity_key("t", "e");
        assert_eq!(pages.verify_entity(&key).expect("reads"), Problems::new());
        assert_eq!(pages.strays().expect("reads"), Problems::new());
        for (name, least) in [("pages", 50), ("roots", 3), ("heads", 1), ("rows", 50)] {
            let keyspace = database.keyspace(name).expect("keyspace");
            let entries: Vec<_> = keyspace
                .prefix(&[])
                .collect::<Result<_, _>>()
                .expect("reads");
            assert!(entries.len() >= least, "{} {name}", entries.len());
            for (part_key, value) in entries.iter().step_by(entries.len() / 8 + 1) {
                let mut damaged = value.to_vec();
                let middle = damaged.len() / 2;
                damaged[middle] ^= 1;
                keyspace.insert(part_key, &damaged).expect("insert");
                let told = pages.verify_entity(&key).expect("reads");
                assert!(
                    !told.is_empty(),
                    "damaged {name} {}",
                    part_key.escape_ascii()
                );
                keyspace.remove(part_key).expect("remove");
                let told = pages.verify_entity(&key).expect("reads");
                let strays = pages.strays().expect("reads");
                assert!(
                    !(told.is_empty() && strays.is_empty()),
                    "lost {name} {}",
                    part_key.escape_ascii()
                );
                keyspace.insert(part_key, value).expect("insert");
            }
        }
        assert_eq!(pages.verify_entity(&key).expect("reads"), Problems::new());
    }
}
