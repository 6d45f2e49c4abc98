//! Batches that are handed over without waiting for each other, and still applied in order: once one of them fails, none
//! that comes after it is.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::oneshot;

use super::{
    Result, Store,
    committer::Job,
    error::Error,
    model::{Batch, Committed},
    prepared::Prepared,
    validate,
};

/// Whether a batch of the chain has failed. Only the committer's thread reads and writes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Link {
    is_broken: Arc<AtomicBool>,
}

impl Link {
    /// Runs the step of one batch, unless one before it has failed.
    pub(super) fn next(
        &self,
        commit: impl FnOnce() -> Result<Committed>,
    ) -> Result<Option<Committed>> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let outcome = commit();
        self.is_broken.store(outcome.is_err(), Ordering::Relaxed);
        outcome.map(Some)
    }
}

/// A sequence of batches, each a commit of its own.
#[derive(Debug)]
pub struct Chain {
    store: Store,
    link: Link,
}

/// A batch that has its place in the order.
#[derive(Debug)]
pub struct Queued {
    answer: oneshot::Receiver<Result<Option<Committed>>>,
}

impl Store {
    /// A new sequence of batches.
    pub fn chain(&self) -> Chain {
        Chain {
            store: self.clone(),
            link: Link::default(),
        }
    }
}

impl Chain {
    /// Gives a batch its place after those that were pushed before; waits only for room in the committer's queue.
    ///
    /// # Errors
    /// As [`Store::write`], as far as the batch alone tells. Then it has no place, and later ones may still be pushed.
    pub async fn push(&self, batch: Batch) -> Result<Queued> {
        let prepared = validate::prepare(batch, |name| self.store.entity_type(name))?;
        let (reply, answer) = oneshot::channel();
        let jobs = self.store.inner.jobs.lock().clone().ok_or(Error::Closed)?;
        jobs.send(Job::WriteNext(prepared, self.link.clone(), reply))
            .await
            .map_err(|_| Error::Closed)?;
        Ok(Queued { answer })
    }
}

impl Chain {
    /// As [`Chain::push`], of a batch that is checked already. Blocks.
    pub(super) fn push_prepared(&self, prepared: Prepared) -> Result<Queued> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.store.inner.jobs.lock().clone().ok_or(Error::Closed)?;
        jobs.blocking_send(Job::WriteNext(prepared, self.link.clone(), reply))
            .map_err(|_| Error::Closed)?;
        Ok(Queued { answer })
    }
}

impl Queued {
    /// As [`Queued::committed`], for callers that block.
    pub(super) fn committed_blocking(self) -> Result<Option<Committed>> {
        self.answer.blocking_recv().map_err(|_| Error::Closed)?
    }

    /// Waits until the batch is on disk. `None`: a batch before it failed, and this one was not applied.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn committed(self) -> Result<Option<Committed>> {
        self.answer.await.map_err(|_| Error::Closed)?
    }
}
