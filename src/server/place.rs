//! A call's place: one of those that its class has.
//!
//! Work that blocks cannot be cancelled. A call that is cut off ends at once, but what it has under way on another thread goes
//! on, and keeps the place until it is done: a client that gives up and asks again gets no more threads than there are places.

use std::{future::Future, sync::Arc};

use tokio::sync::OwnedSemaphorePermit;

/// Free again when the last clone is dropped.
pub(crate) type Place = Arc<OwnedSemaphorePermit>;

tokio::task_local! {
    static PLACE: Option<Place>;
}

/// `work`, which finds the place of its call by [`own`].
pub(super) fn holding<F: Future>(place: Option<Place>, work: F) -> impl Future<Output = F::Output> {
    PLACE.scope(place, work)
}

/// The place of the call that this task works for, for threads that outlast it; `None`: it works for none.
pub(crate) fn own() -> Option<Place> {
    PLACE.try_with(Clone::clone).ok().flatten()
}
