//! Any bytes as the keys under which pages lie.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hindcast::store::fuzzing::key(data));
