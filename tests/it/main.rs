//! The whole house, from outside: one binary, a module per behaviour.

// Says to clippy that helpers are test code too.
#![cfg(test)]

mod backfill_control;
mod backfill_crash;
mod backfill_determinism;
mod backfill_knowledge;
mod backfill_leakage;
mod backfill_matrix;
mod backfill_planning;
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
mod epidemic;
mod flights;
mod flights_year;
mod lake;
mod power_cut_journal;
mod quickstart;
mod store_adversarial;
mod store_backup;
mod store_changes;
mod store_check;
mod store_columns;
mod store_crash;
mod store_damage;
mod store_erase;
mod store_evolution;
mod store_grpc;
mod store_import;
mod store_import_times;
mod store_ingest;
mod store_kill;
mod store_lives;
mod store_lookup;
mod store_model;
mod store_mutations;
mod store_pages;
mod store_power_cut;
mod store_scan;
mod store_schema;
mod store_snapshot;
mod store_support;
mod store_wire;
mod store_write;
mod support;
