//! The whole house, from outside: one binary, a module per behaviour.

// Says to clippy that helpers are test code too.
#![cfg(test)]

mod calendar;
mod cli;
mod conformance;
mod lake;
mod store_columns;
mod store_crash;
mod store_grpc;
mod store_model;
mod store_support;
mod store_write;
