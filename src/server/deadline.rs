//! How long a call may last, as its client says.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderMap, Request};
use tonic::{Status, body::Body};

use super::{gate::Refusals, protection};
use crate::{grpc::status::to_status, time::Clock};

/// The client's timeout; a malformed one is none.
///
/// **Source**: gRPC over HTTP/2, `Timeout`: up to eight digits and a unit.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// A call's deadline, which runs.
pub(super) struct Deadline {
    method: String,
    timeout: Duration,
    refusals: Arc<Refusals>,
    sleep: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Deadline {
    /// `None`: the client sets none.
    pub(super) fn of(
        request: &Request<Body>,
        refusals: &Arc<Refusals>,
        clock: &dyn Clock,
    ) -> Option<Self> {
        let timeout = timeout(request.headers())?;
        Some(Self {
            method: request.uri().path().to_owned(),
            timeout,
            refusals: Arc::clone(refusals),
            sleep: clock.sleep(timeout),
        })
    }

    pub(super) async fn passed(&mut self) {
        self.sleep.as_mut().await;
    }

    /// What the client is told once it has passed; counts.
    pub(super) fn refuse(self) -> Status {
        let error = protection::Error::Deadline {
            method: self.method,
            deadline: self.timeout,
        };
        self.refusals.count(&error);
        to_status(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            let value = http::HeaderValue::from_bytes(text.as_bytes());
            headers.insert("grpc-timeout", value.expect("a header"));
            timeout(&headers)
        };
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7_200))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for malformed in [
            "",
            "5",
            "m",
            "S",
            "123456789n",
            "-1S",
            "+1S",
            "1x",
            "1s",
            "1é",
        ] {
            assert_eq!(read(malformed), None, "{malformed:?}");
        }
    }
}
