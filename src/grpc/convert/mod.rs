//! Wire types to domain types and back.
//!
//! Wire to domain may fail, naming the field; domain to wire never does. Messages are destructured fully, so that a new field
//! does not compile before it is dealt with.

pub(super) mod backfill;
mod call;
pub(super) mod catalog;
pub(super) mod change_token;
pub(super) mod column;
pub(super) mod duration;
pub(super) mod entity;
pub(super) mod invalid;
pub(super) mod page_token;
pub(super) mod range;
pub(super) mod rate_limit;
pub(super) mod table;
pub(super) mod time;
pub(super) mod value;
