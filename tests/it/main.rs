//! The whole house, from outside: one binary, a module per behaviour.

mod calendar;
mod lake;
