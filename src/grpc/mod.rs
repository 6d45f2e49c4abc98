//! The wire boundary: services over the domain, conversions, and the one place that makes a `Status`.

pub mod convert;
pub mod entity_store;
pub mod status;
