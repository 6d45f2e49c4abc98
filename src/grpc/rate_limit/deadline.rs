//! A call's deadline as patience: the answer must leave before the deadline comes, or the caller never reads it.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The part of a deadline that the way back gets, within bounds.
const MARGIN_DIVISOR: u32 = 10;
const MIN_MARGIN: Duration = Duration::from_millis(1);
const MAX_MARGIN: Duration = Duration::from_millis(200);

/// How long a call may wait, by its `grpc-timeout`; `None`: it has no deadline that can be read.
pub(super) fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let timeout = parse(metadata.get("grpc-timeout")?.to_str().ok()?)?;
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

/// **Source**: gRPC over HTTP/2, `Timeout`: up to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_the_protocol() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("", None),
            ("S", None),
            ("-1S", None),
            ("100000000S", None),
            ("1s", None),
            ("1é", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

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
