//! One binary for all integration tests: every further one would link everything again.
#![expect(missing_docs, reason = "tests are named, not documented")]

mod conformance;
mod store_columns;
mod store_crash;
mod store_model;
mod store_support;
mod store_write;
