//! What metrics are made of: a histogram of atomics, and the sheet that a scrape is written on.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet},
    metrics::MetricType,
};

/// Counts of values up to each of some bounds.
///
/// **Cost**: a search among the bounds and three atomic additions; nobody waits for anybody. (The client library's own has a
/// lock.) A scrape may see a value's bucket before its sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One more than bounds: the last is of what lies above all of them.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// What one of the units that are exposed is in those that are recorded.
    scale: f64,
}

/// Upper bounds of durations, in microseconds: from 50 µs, which an as-of read takes, to 5 minutes.
const DURATION_BOUNDS: &[u64] = &[
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];
/// Upper bounds of counts: from one to what a batch may hold.
const COUNT_BOUNDS: &[u64] = &[
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000,
];
/// Upper bounds of sizes in bytes: from 256 B to 16 MiB.
const SIZE_BOUNDS: &[u64] = &[
    1 << 8,
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
];

impl Histogram {
    /// Of durations: recorded in microseconds, exposed in seconds.
    pub fn durations() -> Self {
        Self::new(DURATION_BOUNDS, 1e6)
    }

    /// Of counts.
    pub fn counts() -> Self {
        Self::new(COUNT_BOUNDS, 1.0)
    }

    /// Of sizes in bytes.
    pub fn sizes() -> Self {
        Self::new(SIZE_BOUNDS, 1.0)
    }

    fn new(bounds: &'static [u64], scale: f64) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            scale,
        }
    }

    /// Records a value.
    pub fn record(&self, value: u64) {
        // A bound is the last value of its bucket.
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Records the time from `start_micros` to `end_micros`, both monotonic.
    pub fn record_span(&self, start_micros: i64, end_micros: i64) {
        self.record(u64::try_from(end_micros - start_micros).unwrap_or(0));
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        let buckets = self.buckets.iter();
        buckets.map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    fn read(&self) -> Reading {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / self.scale);
        let counts = self.buckets.iter();
        let counts = counts.map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds
            .chain(std::iter::once(f64::INFINITY))
            .zip(counts)
            .collect();
        Reading {
            sum: self.sum.load(Ordering::Relaxed) as f64 / self.scale,
            // Of the same reading as the buckets: the two must agree.
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

struct Reading {
    sum: f64,
    count: u64,
    buckets: Vec<(f64, u64)>,
}

/// What one scrape is written on: names, explanations and values, family by family.
#[derive(Debug)]
pub struct Sheet<'a>(pub(super) DescriptorEncoder<'a>);

/// Names and values of labels.
pub type Labels<'l> = Vec<(&'static str, &'l str)>;

impl Sheet<'_> {
    /// A value that goes up and down.
    ///
    /// # Errors
    /// The sheet cannot be written on.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        let mut metric = (self.0).encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    /// As [`Sheet::gauge`], one value for each set of labels.
    ///
    /// # Errors
    /// The sheet cannot be written on.
    pub fn gauges<'l, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let mut metric = (self.0).encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A value that only grows. `name` is without `_total`, which is added.
    ///
    /// # Errors
    /// The sheet cannot be written on.
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        let mut metric = (self.0).encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// As [`Sheet::counter`], one value for each set of labels.
    ///
    /// # Errors
    /// The sheet cannot be written on.
    pub fn counters<'l, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let mut metric = (self.0).encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    /// A distribution.
    ///
    /// # Errors
    /// The sheet cannot be written on.
    pub fn histogram(&mut self, name: &str, help: &str, values: &Histogram) -> fmt::Result {
        let mut metric = (self.0).encode_descriptor(name, help, None, MetricType::Histogram)?;
        let read = values.read();
        metric.encode_histogram::<NoLabelSet>(read.sum, read.count, &read.buckets, None)
    }

    /// As [`Sheet::histogram`], one distribution for each set of labels.
    ///
    /// # Errors
    /// The sheet cannot be written on.
    pub fn histograms<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l>, &'l Histogram)>,
    ) -> fmt::Result {
        let mut metric = (self.0).encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in values {
            let read = histogram.read();
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(read.sum, read.count, &read.buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::durations();
        for micros in [0, 50, 51, 300_000_000, 300_000_001] {
            histogram.record(micros);
        }
        histogram.record_span(9, 4);
        let read = histogram.read();
        let filled: Vec<_> = read
            .buckets
            .iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(
            filled,
            [
                &(0.00005, 3),
                &(0.0001, 1),
                &(300.0, 1),
                &(f64::INFINITY, 1)
            ]
        );
        assert_eq!((read.count, histogram.count()), (6, 6));
        assert!((read.sum - 600.000_102).abs() < 1e-9, "{}", read.sum);
    }
}
