//! The wire: one file per service. A handler reads: convert, one domain call, convert. Wire types stop here.

pub mod admin;
pub mod backfill;
mod blocking;
pub mod catalog;
mod convert;
pub mod entity_store;
pub mod opening;
mod room;
pub mod status;
