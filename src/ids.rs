//! Where chance comes from: names and jitter. Everything else takes an [`IdSource`].

#![expect(
    clippy::disallowed_methods,
    reason = "the one place that may draw random numbers and ids that the lint forbids elsewhere"
)]

use std::sync::Arc;

/// A source of unique names and of jitter.
pub trait IdSource: Send + Sync + std::fmt::Debug + 'static {
    /// A name that is there once; later names sort after earlier ones, to the millisecond.
    fn unique(&self) -> String;

    /// A number in `[0, 1)`.
    fn fraction(&self) -> f64;

    /// Bytes that nobody can guess.
    fn secret(&self) -> [u8; 32];
}

/// The machine's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemIds;

impl SystemIds {
    /// The machine's randomness, shared.
    pub fn shared() -> Arc<dyn IdSource> {
        Arc::new(Self)
    }
}

impl IdSource for SystemIds {
    fn unique(&self) -> String {
        uuid::Uuid::now_v7().simple().to_string()
    }

    fn fraction(&self) -> f64 {
        rand::random()
    }

    fn secret(&self) -> [u8; 32] {
        rand::random()
    }
}
