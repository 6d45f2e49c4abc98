//! Rate limits over the wire: the service with its bad input, deadlines, streams, leases and restarts.

use std::{sync::Arc, time::Duration};

use hindcast::{
    pb::{
        self, rate_limit_service_client::RateLimitServiceClient, stream_permits_request::Message,
    },
    time::{Clock, SystemClock},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    limits_support::{SteppedClock, ask, client, create, per_second},
    support::{Service, micros},
};

/// Asserts a refusal's code, reason and field; gives its text.
fn refused<T: std::fmt::Debug>(
    outcome: Result<T, Status>,
    code: Code,
    reason: &str,
    field: &str,
) -> String {
    let status = outcome.expect_err(reason);
    let details = status.get_error_details();
    let info = details.error_info().expect("ErrorInfo");
    assert_eq!((status.code(), info.reason.as_str()), (code, reason));
    let fields = details.bad_request().map(|it| it.field_violations.clone());
    let fields = fields.unwrap_or_default();
    assert_eq!(fields.first().map_or("", |it| it.field.as_str()), field);
    status.message().to_owned()
}

async fn get(limits: &mut RateLimitServiceClient<Channel>, name: &str) -> pb::RateLimit {
    let request = pb::GetRateLimitRequest {
        name: name.to_owned(),
    };
    let got = limits.get_rate_limit(request).await.expect("there");
    got.into_inner().rate_limit.expect("it")
}

fn status(limit: pb::RateLimit) -> pb::RateLimitStatus {
    limit.status.expect("a status")
}

#[tokio::test]
async fn a_limit_is_created_changed_listed_and_deleted_and_survives_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = Service::open(folder.path(), SystemClock::shared()).await;
    let mut limits = client(&service).await;
    let limit = pb::RateLimit {
        description: "the sales team's".to_owned(),
        daily: Some(pb::PermitWindow {
            permits: 50_000,
            time_zone: "America/New_York".to_owned(),
        }),
        live_share_percent: 20,
        ..per_second("salesforce", 100, 20)
    };
    create(&mut limits, limit.clone()).await;
    let again = pb::CreateRateLimitRequest {
        rate_limit: Some(limit.clone()),
    };
    let again = limits.create_rate_limit(again).await.expect("the same");
    assert!(!again.into_inner().created);
    let other = pb::CreateRateLimitRequest {
        rate_limit: Some(per_second("salesforce", 1, 1)),
    };
    let other = limits.create_rate_limit(other).await;
    refused(other, Code::AlreadyExists, "RATE_LIMIT_EXISTS", "");
    limits
        .acquire_permits(ask("salesforce", 7))
        .await
        .expect("seven");
    let faster = pb::UpdateRateLimitRequest {
        rate_limit: Some(pb::RateLimit {
            concurrent: Some(9),
            ..limit
        }),
    };
    limits.update_rate_limit(faster).await.expect("updated");
    let before = get(&mut limits, "salesforce").await;
    assert_eq!(before.concurrent, Some(9));
    assert_eq!(before.rate.expect("a rate").permits, 100);
    let standing = status(before.clone());
    assert_eq!(standing.effective_permits_per_second, Some(100.0));
    assert_eq!(standing.day.expect("a day").used, 7);
    assert_eq!(standing.granted.expect("counts").live, 7);
    drop(limits);
    service.stop().await;

    let service = Service::open(folder.path(), SystemClock::shared()).await;
    let mut limits = client(&service).await;
    let listed = limits
        .list_rate_limits(pb::ListRateLimitsRequest {})
        .await
        .expect("listed")
        .into_inner()
        .rate_limits;
    assert_eq!(listed.len(), 1);
    let after = listed[0].clone();
    assert_eq!(status(after.clone()).day.expect("a day").used, 7);
    let bare = |limit: pb::RateLimit| pb::RateLimit {
        status: None,
        ..limit
    };
    assert_eq!(bare(after), bare(before));
    let delete = pb::DeleteRateLimitRequest {
        name: "salesforce".to_owned(),
    };
    limits
        .delete_rate_limit(delete.clone())
        .await
        .expect("gone");
    let gone = limits.delete_rate_limit(delete).await;
    refused(gone, Code::NotFound, "RATE_LIMIT_NOT_FOUND", "");
    service.stop().await;
}

#[tokio::test]
async fn absurd_limits_are_refused_by_field_and_reason() {
    let service = Service::start(SystemClock::shared()).await;
    let mut limits = client(&service).await;
    let good = || per_second("l", 10, 5);
    let rate = |permits, per_seconds| {
        Some(pb::PermitRate {
            permits,
            per: Some(prost_types::Duration {
                seconds: per_seconds,
                nanos: 0,
            }),
        })
    };
    let window = |permits, time_zone: &str| {
        Some(pb::PermitWindow {
            permits,
            time_zone: time_zone.to_owned(),
        })
    };
    let cases = [
        (
            pb::RateLimit {
                name: "A b".to_owned(),
                ..good()
            },
            "INVALID_REQUEST",
            "rate_limit.name",
        ),
        (
            pb::RateLimit {
                rate: None,
                burst: None,
                ..good()
            },
            "RATE_LIMIT_EMPTY",
            "rate_limit.rate",
        ),
        (
            pb::RateLimit {
                rate: rate(0, 1),
                ..good()
            },
            "RATE_INVALID",
            "rate_limit.rate",
        ),
        (
            pb::RateLimit {
                rate: rate(5, 0),
                ..good()
            },
            "RATE_INVALID",
            "rate_limit.rate",
        ),
        (
            pb::RateLimit {
                rate: rate(5, 9_000_000),
                ..good()
            },
            "RATE_INVALID",
            "rate_limit.rate",
        ),
        (
            pb::RateLimit {
                rate: rate(2_000_000, 1),
                ..good()
            },
            "RATE_INVALID",
            "rate_limit.rate",
        ),
        (
            pb::RateLimit {
                rate: rate(5, -1),
                ..good()
            },
            "INVALID_REQUEST",
            "rate_limit.rate.per",
        ),
        (
            pb::RateLimit {
                burst: Some(0),
                ..good()
            },
            "BURST_INVALID",
            "rate_limit.burst",
        ),
        (
            pb::RateLimit {
                rate: None,
                ..good()
            },
            "BURST_INVALID",
            "rate_limit.burst",
        ),
        (
            pb::RateLimit {
                rate: rate(1, 86_400),
                burst: Some(31),
                ..good()
            },
            "BURST_INVALID",
            "rate_limit.burst",
        ),
        (
            pb::RateLimit {
                concurrent: Some(0),
                ..good()
            },
            "CONCURRENT_INVALID",
            "rate_limit.concurrent",
        ),
        (
            pb::RateLimit {
                hourly: window(0, ""),
                ..good()
            },
            "WINDOW_QUOTA_INVALID",
            "rate_limit.hourly",
        ),
        (
            pb::RateLimit {
                daily: window(u64::MAX, ""),
                ..good()
            },
            "WINDOW_QUOTA_INVALID",
            "rate_limit.daily",
        ),
        (
            pb::RateLimit {
                daily: window(5, "Mars/Olympus"),
                ..good()
            },
            "UNKNOWN_TIME_ZONE",
            "rate_limit.daily.time_zone",
        ),
        (
            pb::RateLimit {
                live_share_percent: 100,
                ..good()
            },
            "LIVE_SHARE_INVALID",
            "rate_limit.live_share_percent",
        ),
    ];
    for (limit, reason, field) in cases {
        let request = pb::CreateRateLimitRequest {
            rate_limit: Some(limit),
        };
        let outcome = limits.create_rate_limit(request).await;
        refused(outcome, Code::InvalidArgument, reason, field);
    }
    let listed = limits.list_rate_limits(pb::ListRateLimitsRequest {}).await;
    assert!(listed.expect("listed").into_inner().rate_limits.is_empty());
    service.stop().await;
}

#[tokio::test]
async fn impossible_requests_say_the_most_that_can_be_had() {
    let service = Service::start(SystemClock::shared()).await;
    let mut limits = client(&service).await;
    let limit = pb::RateLimit {
        live_share_percent: 50,
        ..per_second("l", 10, 5)
    };
    create(&mut limits, limit).await;
    let calls = pb::RateLimit {
        name: "calls".to_owned(),
        concurrent: Some(3),
        daily: Some(pb::PermitWindow {
            permits: 2,
            time_zone: String::new(),
        }),
        ..Default::default()
    };
    create(&mut limits, calls).await;
    let outcome = limits.acquire_permits(ask("l", 6)).await;
    let text = refused(
        outcome,
        Code::InvalidArgument,
        "PERMITS_ABOVE_BURST",
        "permits",
    );
    assert!(text.contains("at most 5 at once"), "{text}");
    let backfill = pb::AcquirePermitsRequest {
        caller_class: pb::CallerClass::Backfill.into(),
        ..ask("l", 3)
    };
    let outcome = limits.acquire_permits(backfill).await;
    let text = refused(
        outcome,
        Code::InvalidArgument,
        "PERMITS_ABOVE_BURST",
        "permits",
    );
    assert!(
        text.contains("a backfill caller can have at most 2"),
        "{text}"
    );
    let outcome = limits.acquire_permits(ask("calls", 3)).await;
    refused(
        outcome,
        Code::InvalidArgument,
        "PERMITS_ABOVE_QUOTA",
        "permits",
    );
    let outcome = limits.acquire_permits(ask("l", 0)).await;
    refused(outcome, Code::InvalidArgument, "NO_PERMITS", "permits");
    let outcome = limits.acquire_permits(ask("nobody", 1)).await;
    refused(outcome, Code::NotFound, "RATE_LIMIT_NOT_FOUND", "");
    let nobody = pb::AcquirePermitsRequest {
        caller_class: 0,
        ..ask("l", 1)
    };
    let outcome = limits.acquire_permits(nobody).await;
    refused(
        outcome,
        Code::InvalidArgument,
        "INVALID_REQUEST",
        "caller_class",
    );
    let outcome = limits
        .report_outcome(pb::ReportOutcomeRequest {
            limit: "l".to_owned(),
            ..Default::default()
        })
        .await;
    refused(outcome, Code::InvalidArgument, "INVALID_REQUEST", "outcome");
    service.stop().await;
}

#[tokio::test]
async fn a_deadline_takes_nothing_and_says_the_wait() {
    let service = Service::start(SystemClock::shared()).await;
    let mut limits = client(&service).await;
    let slow = pb::RateLimit {
        rate: Some(pb::PermitRate {
            permits: 1,
            per: Some(prost_types::Duration {
                seconds: 3_600,
                nanos: 0,
            }),
        }),
        ..per_second("l", 1, 2)
    };
    create(&mut limits, slow).await;
    limits
        .acquire_permits(ask("l", 2))
        .await
        .expect("the burst");
    let mut request = Request::new(ask("l", 1));
    request.set_timeout(Duration::from_secs(1));
    let outcome = limits.acquire_permits(request).await;
    let text = refused(outcome, Code::DeadlineExceeded, "PERMITS_NOT_IN_TIME", "");
    assert!(
        text.contains("59m 59s") || text.contains("59m 58s"),
        "{text}"
    );
    let impatient = pb::AcquirePermitsRequest {
        max_wait: Some(prost_types::Duration::default()),
        ..ask("l", 1)
    };
    let outcome = limits.acquire_permits(impatient).await;
    refused(outcome, Code::DeadlineExceeded, "PERMITS_NOT_IN_TIME", "");
    let standing = status(get(&mut limits, "l").await);
    assert_eq!(standing.granted.expect("counts").live, 2);
    assert_eq!(standing.waiting.expect("counts").live, 0);
    service.stop().await;
}

/// An open stream of permits.
struct Lots {
    messages: mpsc::Sender<pb::StreamPermitsRequest>,
    answers: Streaming<pb::StreamPermitsResponse>,
}

impl Lots {
    async fn open(limits: &mut RateLimitServiceClient<Channel>, limit: &str) -> Self {
        let (messages, requests) = mpsc::channel(64);
        let open = pb::stream_permits_request::Open {
            limit: limit.to_owned(),
            caller_class: pb::CallerClass::Backfill.into(),
            client: "lots".to_owned(),
        };
        let first = pb::StreamPermitsRequest {
            message: Some(Message::Open(open)),
        };
        messages.send(first).await.expect("open");
        let answers = limits.stream_permits(ReceiverStream::new(requests)).await;
        Self {
            messages,
            answers: answers.expect("a stream").into_inner(),
        }
    }

    async fn say(&self, message: Message) {
        let message = Some(message);
        let said = self.messages.send(pb::StreamPermitsRequest { message });
        said.await.expect("the stream is open");
    }

    async fn take(&self, permits: u32) {
        let take = pb::stream_permits_request::Take {
            permits,
            max_wait: None,
        };
        self.say(Message::Take(take)).await;
    }

    async fn granted(&mut self) -> u32 {
        let answer = self.answers.message().await.expect("goes on");
        answer.expect("an answer").permits
    }
}

#[tokio::test]
async fn a_stream_takes_lots_and_frees_its_places_when_it_is_cut() {
    let service = Service::start(SystemClock::shared()).await;
    let mut limits = client(&service).await;
    let limit = pb::RateLimit {
        name: "l".to_owned(),
        concurrent: Some(10),
        daily: Some(pb::PermitWindow {
            permits: 100,
            time_zone: String::new(),
        }),
        ..Default::default()
    };
    create(&mut limits, limit).await;
    let mut lots = Lots::open(&mut limits, "l").await;
    lots.take(6).await;
    lots.take(4).await;
    assert_eq!((lots.granted().await, lots.granted().await), (6, 4));
    // The next lot waits for places that the stream itself holds.
    lots.take(5).await;
    lots.say(Message::Done(3)).await;
    lots.say(Message::GiveBack(2)).await;
    assert_eq!(lots.granted().await, 5);
    let standing = status(get(&mut limits, "l").await);
    assert_eq!(standing.in_flight.expect("counts").backfill, 10);
    assert_eq!(standing.day.expect("a day").used, 13, "two came back");
    drop(lots);
    let all = limits
        .acquire_permits(ask("l", 10))
        .await
        .expect("all places");
    let lease_id = all.into_inner().lease_id;
    let standing = status(get(&mut limits, "l").await);
    assert_eq!(standing.in_flight.expect("counts").total(), 10);
    assert_eq!(standing.day.expect("a day").used, 23, "what was cut counts");
    let release = pb::ReleasePermitsRequest {
        lease_id,
        unused_permits: 4,
    };
    limits
        .release_permits(release.clone())
        .await
        .expect("released");
    let standing = status(get(&mut limits, "l").await);
    assert_eq!(standing.in_flight.expect("counts").total(), 0);
    assert_eq!(standing.day.expect("a day").used, 19);
    let again = limits.release_permits(release).await;
    refused(again, Code::NotFound, "LEASE_NOT_FOUND", "");
    service.stop().await;
}

#[tokio::test]
async fn a_stream_that_makes_no_sense_is_told_why() {
    let service = Service::start(SystemClock::shared()).await;
    let mut limits = client(&service).await;
    create(&mut limits, per_second("l", 10, 5)).await;
    let mut lots = Lots::open(&mut limits, "l").await;
    lots.say(Message::GiveBack(1)).await;
    let outcome = lots.answers.message().await;
    refused(
        outcome,
        Code::InvalidArgument,
        "INVALID_REQUEST",
        "give_back",
    );
    let mut lots = Lots::open(&mut limits, "l").await;
    lots.take(6).await;
    let outcome = lots.answers.message().await;
    refused(
        outcome,
        Code::InvalidArgument,
        "PERMITS_ABOVE_BURST",
        "take.permits",
    );
    let mut lots = Lots::open(&mut limits, "nobody").await;
    let outcome = lots.answers.message().await;
    refused(outcome, Code::NotFound, "RATE_LIMIT_NOT_FOUND", "");
    // An open stream does not keep the server from stopping.
    let mut lots = Lots::open(&mut limits, "l").await;
    lots.take(1).await;
    assert_eq!(lots.granted().await, 1);
    service.stop().await;
    let outcome = lots.answers.message().await;
    refused(outcome, Code::Unavailable, "SERVER_STOPPING", "");
}

#[tokio::test]
async fn a_lease_ends_by_itself() {
    let clock = SteppedClock::starting_at(micros("2026-03-01T12:00:00Z"));
    let service = Service::start(Arc::clone(&clock) as Arc<dyn Clock>).await;
    let mut limits = client(&service).await;
    let limit = pb::RateLimit {
        name: "l".to_owned(),
        concurrent: Some(1),
        ..Default::default()
    };
    create(&mut limits, limit).await;
    let short = pb::AcquirePermitsRequest {
        hold: Some(prost_types::Duration {
            seconds: 0,
            nanos: 50_000_000,
        }),
        ..ask("l", 1)
    };
    limits.acquire_permits(short.clone()).await.expect("one");
    let mut second = limits.clone();
    let waits = tokio::spawn(async move { second.acquire_permits(short).await });
    while status(get(&mut limits, "l").await)
        .waiting
        .is_none_or(|waiting| waiting.live == 0)
    {
        tokio::task::yield_now().await;
    }
    clock.pass(Duration::from_millis(49)).await;
    let standing = status(get(&mut limits, "l").await);
    assert_eq!(standing.in_flight.expect("counts").total(), 1);
    assert!(!waits.is_finished(), "its place is held");
    clock.pass(Duration::from_millis(1)).await;
    let granted = waits.await.expect("no panic").expect("after the first");
    let waited = granted.into_inner().waited.expect("told");
    assert_eq!((waited.seconds, waited.nanos), (0, 50_000_000));
    let too_long = pb::AcquirePermitsRequest {
        hold: Some(prost_types::Duration {
            seconds: 3_601,
            nanos: 0,
        }),
        ..ask("l", 1)
    };
    let outcome = limits.acquire_permits(too_long).await;
    refused(outcome, Code::InvalidArgument, "INVALID_REQUEST", "hold");
    service.stop().await;
}

#[tokio::test]
async fn where_nothing_is_held_there_is_no_lease() {
    let service = Service::start(SystemClock::shared()).await;
    let mut limits = client(&service).await;
    create(&mut limits, per_second("l", 10, 5)).await;
    let request = pb::AcquirePermitsRequest {
        hold: Some(prost_types::Duration {
            seconds: 3_600,
            nanos: 0,
        }),
        ..ask("l", 1)
    };
    let granted = limits.acquire_permits(request).await.expect("one");
    assert_eq!(granted.into_inner().lease_id, "");
    service.stop().await;
}

#[tokio::test]
async fn reports_show_in_the_limit() {
    let service = Service::start(SystemClock::shared()).await;
    let mut limits = client(&service).await;
    create(&mut limits, per_second("l", 100, 5)).await;
    let report = pb::ReportOutcomeRequest {
        limit: "l".to_owned(),
        outcome: pb::CallOutcome::Throttled.into(),
        retry_after: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
    };
    let standing = limits.report_outcome(report).await.expect("taken in");
    let standing = standing.into_inner().status.expect("a status");
    assert_eq!(standing.effective_permits_per_second, Some(50.0));
    assert_eq!(standing.throttled_count, 1);
    assert!(standing.blocked.expect("blocked").seconds >= 58);
    // Nothing keeps the server from stopping, a caller that waits least of all.
    let mut waiting = limits.clone();
    let waits = tokio::spawn(async move { waiting.acquire_permits(ask("l", 1)).await });
    while status(get(&mut limits, "l").await)
        .waiting
        .is_none_or(|waiting| waiting.live == 0)
    {
        tokio::task::yield_now().await;
    }
    service.stop().await;
    let outcome = waits.await.expect("no panic");
    refused(outcome, Code::Unavailable, "SERVER_STOPPING", "");
}

trait Total {
    fn total(&self) -> u64;
}

impl Total for pb::CountByClass {
    fn total(&self) -> u64 {
        self.live + self.backfill
    }
}
