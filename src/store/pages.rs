//! Pages on disk: where an entity's versions lie, and in which order they are written so that readers need no lock.
//!
//! All versions of an ordinary entity are in its head page. When that outgrows [`PAGE_BYTES`], they move to leaves, each
//! covering a range of valid time; together the leaves cover all of it. A leaf that outgrows a page splits in two; one that
//! cannot (all its versions cover the same range) is chained over several values.
//!
//! **Readers** see one value at a time whole. What makes several agree:
//! - Leaves are written before the head says that they are there.
//! - Of a split leaf the right half is written first. Until the left half is, the old leaf and the right half overlap, and
//!   say the same about every basis that readers may ask for. A reader goes on at the end of the leaf it has read.
//! - A chained leaf's parts are written under a new generation before the leaf names it; the generation before stays.
//!
//! **Cost**: one `get` for an ordinary entity; one more seek per leaf. Correcting the same range over and over rewrites its
//! whole chain each time; the multiversion tree will replace this.

use super::{
    codec::Malformed,
    error::Error,
    keys,
    page::Page,
    page_codec::{self, Chain, Stored},
    timeline::Span,
};
use crate::kv::{self, Database, Entry, Keyspace};

/// The longest encoded page that is one value. Leaves room under [`kv::MAX_VALUE_BYTES`] for what a later format may add.
pub(super) const PAGE_BYTES: usize = 4000;

/// How often a reader follows a chain that the committer is rewriting.
const CHAIN_TRIES: usize = 1000;

/// An entity's head.
#[derive(Debug)]
pub(super) enum Head {
    Absent,
    Inline(Page),
    Spilled,
}

/// A page with where it lay.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) page: Page,
    pub(super) chain: Option<Chain>,
}

/// The keyspaces that hold versions. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pages {
    heads: Keyspace,
    leaves: Keyspace,
    chains: Keyspace,
}

impl Pages {
    pub(super) fn open(database: &Database) -> kv::Result<Self> {
        Ok(Self {
            heads: database.keyspace("heads")?,
            leaves: database.keyspace("leaves")?,
            chains: database.keyspace("chains")?,
        })
    }

    /// The head of the entity at `key`.
    pub(super) fn head(&self, key: &[u8]) -> Result<Head, Error> {
        match self.heads.get(key)? {
            None => Ok(Head::Absent),
            Some(stored) => decode_head(key, stored),
        }
    }

    /// The heads with keys in `[from, to)`, in order.
    pub(super) fn heads(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = Result<(kv::Slice, Head), Error>> + Send + use<> {
        self.heads.range(from, to).map(|entry| {
            let (key, stored) = entry?;
            let head = decode_head(&key, stored)?;
            Ok((key, head))
        })
    }

    /// The page that covers `point`, of an entity with a spilled head.
    pub(super) fn leaf(&self, key: &[u8], point: i64) -> Result<Leaf, Error> {
        for _ in 0..CHAIN_TRIES {
            let (leaf_key, stored) = self.leaf_entry(key, point)?;
            let (page, chain) = match decode(&leaf_key, stored)? {
                Stored::Page(page) => (page, None),
                Stored::Chained(chain) => match self.chained(&leaf_key, chain)? {
                    Some(page) => (page, Some(chain)),
                    // The committer has moved on to a newer generation: look again.
                    None => continue,
                },
                Stored::Spilled => {
                    return Err(damaged(
                        &leaf_key,
                        Malformed("a leaf says that it is a head"),
                    ));
                }
            };
            if !page.span.contains(point) {
                return Err(damaged(&leaf_key, Malformed("no leaf covers a point")));
            }
            return Ok(Leaf { page, chain });
        }
        Err(damaged(
            key,
            Malformed("a chained leaf names a page that is not there"),
        ))
    }

    fn leaf_entry(&self, key: &[u8], point: i64) -> Result<Entry, Error> {
        self.leaves
            .at_or_before(&keys::leaf_key(key, point))?
            .filter(|(leaf_key, _)| leaf_key.len() == key.len() + 8 && leaf_key.starts_with(key))
            .ok_or_else(|| damaged(key, Malformed("its leaves are not there")))
    }

    /// The page of a chained leaf; `None` when its generation is gone or half removed.
    fn chained(&self, leaf_key: &[u8], chain: Chain) -> Result<Option<Page>, Error> {
        let stored = match self
            .chains
            .get_large(&keys::chain_key(leaf_key, chain.generation))
        {
            Ok(stored) => stored,
            Err(kv::Error::Corrupt { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        match stored {
            None => Ok(None),
            Some(bytes) => match decode(leaf_key, bytes.into())? {
                Stored::Page(page) => Ok(Some(page)),
                Stored::Spilled | Stored::Chained(_) => Err(damaged(
                    leaf_key,
                    Malformed("a chain holds something else than a page"),
                )),
            },
        }
    }

    /// Writes the only page of an entity: to its head if it fits, else to leaves.
    pub(super) fn write_inline(&self, key: &[u8], page: &Page) -> Result<(), Error> {
        let bytes = page_codec::encode_page(key, page);
        if bytes.len() <= PAGE_BYTES {
            self.heads.insert(key, &bytes)?;
            return Ok(());
        }
        self.remove_leaves(key)?;
        self.write_leaf(key, page, None)?;
        self.heads.insert(key, &page_codec::encode_spilled(key))?;
        Ok(())
    }

    /// Writes a changed leaf, in as many as it needs. `chain`: where it lay, if it was chained.
    pub(super) fn write_leaf(
        &self,
        key: &[u8],
        page: &Page,
        chain: Option<Chain>,
    ) -> Result<(), Error> {
        let leaf_key = keys::leaf_key(key, page.span.from);
        let bytes = page_codec::encode_page(&leaf_key, page);
        if bytes.len() > PAGE_BYTES {
            if let Some((left, right)) = page.halves() {
                self.write_leaf(key, &right, None)?;
                return self.write_leaf(key, &left, chain);
            }
            return self.write_chain(&leaf_key, page, &bytes, chain);
        }
        self.leaves.insert(&leaf_key, &bytes)?;
        for generation in chain
            .iter()
            .flat_map(|chain| chain.previous.into_iter().chain([chain.generation]))
        {
            self.chains
                .remove_large(&keys::chain_key(&leaf_key, generation))?;
        }
        Ok(())
    }

    fn write_chain(
        &self,
        leaf_key: &[u8],
        page: &Page,
        bytes: &[u8],
        chain: Option<Chain>,
    ) -> Result<(), Error> {
        let generation = page.applied_sequence;
        let (previous, outdated) = match chain {
            None => (None, None),
            // The same commit again, after a restart.
            Some(chain) if chain.generation == generation => (chain.previous, None),
            Some(chain) => (Some(chain.generation), chain.previous),
        };
        self.chains
            .insert_large(&keys::chain_key(leaf_key, generation), bytes)?;
        let chain = Chain {
            span: page.span,
            generation,
            previous,
        };
        self.leaves
            .insert(leaf_key, &page_codec::encode_chained(leaf_key, chain))?;
        if let Some(outdated) = outdated {
            self.chains
                .remove_large(&keys::chain_key(leaf_key, outdated))?;
        }
        Ok(())
    }

    /// Removes leaves that a torn write has left behind: all of them when the head does not say that there are any, else
    /// right halves whose left half was not yet cut. Only for recovery, before anyone reads.
    pub(super) fn mend(&self, key: &[u8]) -> Result<(), Error> {
        if !matches!(self.head(key)?, Head::Spilled) {
            return self.remove_leaves(key);
        }
        let mut covered_to = i64::MIN;
        for entry in self.leaves.prefix(key).collect::<kv::Result<Vec<_>>>()? {
            let (leaf_key, stored) = entry;
            let span = match decode(&leaf_key, stored)? {
                Stored::Page(page) => page.span,
                Stored::Chained(chain) => chain.span,
                Stored::Spilled => {
                    return Err(damaged(
                        &leaf_key,
                        Malformed("a leaf says that it is a head"),
                    ));
                }
            };
            if span.from < covered_to {
                self.leaves.remove(&leaf_key)?;
            } else {
                covered_to = span.to;
            }
        }
        Ok(())
    }

    /// Removes all that is held of an entity.
    pub(super) fn remove(&self, key: &[u8]) -> Result<(), Error> {
        self.heads.remove(key)?;
        for entry in self.leaves.prefix(key).collect::<kv::Result<Vec<_>>>()? {
            let (leaf_key, stored) = entry;
            if let Stored::Chained(chain) = decode(&leaf_key, stored)? {
                for generation in chain.previous.into_iter().chain([chain.generation]) {
                    self.chains
                        .remove_large(&keys::chain_key(&leaf_key, generation))?;
                }
            }
            self.leaves.remove(&leaf_key)?;
        }
        Ok(())
    }

    fn remove_leaves(&self, key: &[u8]) -> Result<(), Error> {
        for entry in self.leaves.prefix(key).collect::<kv::Result<Vec<_>>>()? {
            self.leaves.remove(&entry.0)?;
        }
        Ok(())
    }
}

fn decode_head(key: &[u8], stored: kv::Slice) -> Result<Head, Error> {
    match decode(key, stored)? {
        Stored::Page(page) if page.span == Span::ALL => Ok(Head::Inline(page)),
        Stored::Spilled => Ok(Head::Spilled),
        Stored::Page(_) | Stored::Chained(_) => {
            Err(damaged(key, Malformed("a head says that it is a leaf")))
        }
    }
}

fn decode(key: &[u8], stored: kv::Slice) -> Result<Stored, Error> {
    page_codec::decode(key, stored).map_err(|malformed| damaged(key, malformed))
}

fn damaged(key: &[u8], malformed: Malformed) -> Error {
    Error::damaged(format!("page {}", key.escape_ascii()), malformed.0)
}
