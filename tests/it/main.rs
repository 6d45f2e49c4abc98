//! One binary for all integration tests: every further one would link everything again.

mod conformance;
mod store_columns;
mod store_crash;
mod store_grpc;
mod store_model;
mod store_support;
mod store_write;
