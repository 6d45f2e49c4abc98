//! The whole house, from outside: one binary, a module per behaviour.

// Says to clippy that helpers are test code too.
#![cfg(test)]

mod calendar;
mod lake;
