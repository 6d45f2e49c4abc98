//! All metrics of one server.

use std::{fmt, sync::Arc};

use parking_lot::RwLock;
use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, encoding::text::encode, registry::Registry,
};

use super::instrument::Sheet;

/// Something that has metrics. It is asked at each scrape, and must not block for long.
pub trait Collect: fmt::Debug + Send + Sync + 'static {
    /// Writes all of them down, each family once.
    ///
    /// # Errors
    /// The sheet cannot be written on.
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result;
}

impl<C: Collect> Collect for Arc<C> {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        self.as_ref().collect(sheet)
    }
}

/// The metrics of one server. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Arc<RwLock<Registry>>,
}

impl Metrics {
    /// From now on scrapes ask `collector` too. Two collectors may not have a family of the same name.
    pub fn add(&self, collector: impl Collect) {
        let mut registry = self.registry.write();
        registry.register_collector(Box::new(Collected(collector)));
    }

    /// Everything, as OpenMetrics text.
    ///
    /// # Errors
    /// A collector failed.
    pub fn scrape(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.read())?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Collected<C>(C);

impl<C: Collect> Collector for Collected<C> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.collect(&mut Sheet(encoder))
    }
}
