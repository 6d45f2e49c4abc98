//! A call's deadline as patience: the answer must leave before the deadline comes, or the caller never reads it.

use std::time::Duration;

use tonic::metadata::MetadataMap;

use crate::server::deadline::timeout;

/// The part of a deadline that the way back gets, within bounds.
const MARGIN_DIVISOR: u32 = 10;
const MIN_MARGIN: Duration = Duration::from_millis(1);
const MAX_MARGIN: Duration = Duration::from_millis(200);

/// How long a call may wait, by its `grpc-timeout`; `None`: it has no deadline that can be read.
pub(super) fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let timeout = timeout(metadata.as_ref())?;
    let margin = (timeout / MARGIN_DIVISOR).clamp(MIN_MARGIN, MAX_MARGIN);
    Some(timeout.saturating_sub(margin))
}

/// The shorter of two waits.
pub(super) fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_leaves_before_the_deadline() {
        let mut metadata = MetadataMap::new();
        assert_eq!(patience(&metadata), None);
        metadata.insert("grpc-timeout", "100m".parse().expect("ascii"));
        assert_eq!(patience(&metadata), Some(Duration::from_millis(90)));
        metadata.insert("grpc-timeout", "1n".parse().expect("ascii"));
        assert_eq!(patience(&metadata), Some(Duration::ZERO));
        let second = Some(Duration::from_secs(1));
        assert_eq!(earlier(second, None), second);
        assert_eq!(earlier(second, Some(Duration::ZERO)), Some(Duration::ZERO));
    }
}
