//! The whole house, from outside: one binary, a module per behaviour.
#![expect(clippy::expect_used, reason = "a test that cannot go on says why")]

mod conformance;
mod store_columns;
mod store_crash;
mod store_grpc;
mod store_model;
mod store_support;
mod store_write;
