//! The whole house, from outside: one binary, a module per behaviour.

// Says to clippy that helpers are test code too.
#![cfg(test)]

mod backfill_crash;
mod backfill_knowledge;
mod backfill_leakage;
mod backfill_run;
mod backfill_sources;
mod backfill_support;
mod backfill_watch;
mod bad_definitions;
mod bad_input;
mod beside;
mod calendar;
mod cli;
mod conformance;
mod flights;
mod flights_year;
mod lake;
mod quickstart;
mod store_columns;
mod store_crash;
mod store_evolution;
mod store_grpc;
mod store_import;
mod store_model;
mod store_mutations;
mod store_schema;
mod store_support;
mod store_write;
mod support;
