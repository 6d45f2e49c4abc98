//! Wire types to domain types, with the field path of what does not fit; domain to wire, which cannot fail.

pub mod entity;
pub mod page_token;
pub mod time;
pub mod value;
