//! Any bytes as a stored page.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hindcast::store::fuzzing::page(data));
