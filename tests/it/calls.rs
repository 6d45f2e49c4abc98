//! External calls in SQL: what they ask, that they ask it once, and what becomes of answers that are none.

use std::time::Duration;

use hindcast::{
    limits::LimitSpec,
    pb::{self, BackfillState, PartitionState, rate_limit_service_client::RateLimitServiceClient},
    time::SystemClock,
};

use crate::{
    backfill_support::{Ended, Rig, days, micros, seconds},
    calls_support::{ASK, Reply, Upstream, asking, column, length, per_second, rig, value_call},
};

async fn usual(days: u32, ids: u32) -> Rig {
    rig(per_second("usual", 1_000, 100), days, ids).await
}

/// The message of the only partition, which failed.
fn failure(ended: &Ended) -> &str {
    assert_eq!(ended.backfill.state(), BackfillState::Failed);
    &ended.partitions[0].message
}

async fn attempts(rig: &mut Rig, ended: &Ended) -> Vec<pb::Partition> {
    let request = pb::ListPartitionsRequest {
        backfill: ended.backfill.name.clone(),
        include_attempts: true,
        ..Default::default()
    };
    let response = rig.clients.backfills.list_partitions(request).await;
    response.expect("listed").into_inner().partitions
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_not_asked_again_unless_it_is_to_be() {
    let upstream = Upstream::start(|path, _| length(path)).await;
    let mut rig = usual(2, 3).await;
    let call = value_call(&upstream);
    let sql = "SELECT a.id, value(a.id, a.ts)['value'] AS value FROM asks a \
               JOIN asks b ON a.ts = b.ts";
    rig.clients
        .register(asking("asked", sql, call))
        .await
        .expect("registered");
    let both = days("asked", "2013-01-01", "2013-01-03");
    let ended = rig.clients.run_well(both.clone()).await;
    let rows = rig.clients.rows("asked").await;
    // `/v/1?at=2013-01-01T12%3A00%3A00Z`.
    assert_eq!(rows.len(), 18);
    assert_eq!(rows[0], "2013-01-01 id=1 value=32");
    let mut paths: Vec<_> = upstream.seen().into_iter().map(|it| it.path).collect();
    paths.sort();
    assert_eq!(paths.len(), 6, "each once, though three rows ask it");
    assert_eq!(paths[0], "/v/1?at=2013-01-01T12%3A00%3A00Z");
    let counts = ended.partitions[0].calls.expect("calls");
    assert_eq!((counts.request_count, counts.answer_count), (3, 3));

    // Again, also after a restart: nothing is asked.
    rig.stop().await;
    rig.start().await;
    let again = rig.clients.run_well(both.clone()).await;
    assert_eq!(upstream.count(), 6);
    assert_eq!(rig.clients.rows("asked").await, rows);
    let partitions = attempts(&mut rig, &again).await;
    let counts = partitions[0].attempts[0].calls.expect("calls");
    assert_eq!((counts.request_count, counts.remembered_count), (0, 3));

    // The outside system says something else now.
    rig.clock.set(micros("2014-12-31T01:00:00Z"));
    upstream.answers(|_, _| Reply::of(200, r#"{"value": 7}"#));
    let mut fresh = both.clone();
    fresh.refresh_calls = true;
    let refreshed = rig.clients.run_well(fresh).await;
    assert_eq!(upstream.count(), 12, "each once");
    assert_eq!(
        rig.clients.rows("asked").await[0],
        "2013-01-01 id=1 value=7"
    );
    let spec = refreshed.backfill.spec.expect("a spec");
    assert!(spec.refresh_calls);
    rig.clients.run_well(both).await;
    assert_eq!(upstream.count(), 12, "what was refreshed is what is known");
    assert_eq!(
        rig.clients.rows("asked").await[0],
        "2013-01-01 id=1 value=7"
    );

    // Nobody else writes what is remembered.
    let put = pb::Mutation {
        entity_type: "asked_value".to_owned(),
        entity_id: "x".to_owned(),
        operation: Some(pb::mutation::Operation::Put(pb::Put::default())),
        ..Default::default()
    };
    let write = pb::WriteRequest {
        mutations: vec![put],
        ..Default::default()
    };
    let refused = rig.clients.entities.write(write).await.expect_err("owned");
    assert!(refused.message().contains("asked"), "{refused}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_about_what_comes_after_the_partition() {
    let upstream = Upstream::start(|path, _| length(path)).await;
    let mut rig = usual(1, 2).await;
    for (name, instant, well) in [
        ("at_end", "$partition_end", false),
        ("before", "$partition_end - INTERVAL '1 microsecond'", true),
    ] {
        let sql = format!("SELECT id, value(id, {instant})['value'] AS value FROM asks");
        let transform = asking(name, &sql, value_call(&upstream));
        rig.clients.register(transform).await.expect("registered");
        let ended = rig
            .clients
            .run(days(name, "2013-01-01", "2013-01-02"))
            .await;
        if well {
            assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
            assert_eq!(upstream.count(), 2);
        } else {
            let message = failure(&ended);
            assert!(
                message
                    .contains("look-ahead: value(id, valid_time) asks about 2013-01-02T00:00:00Z"),
                "{message}"
            );
            assert_eq!(upstream.count(), 0);
        }
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn current_state_is_asked_for_only_where_it_is_allowed_and_plans_say_so() {
    let upstream = Upstream::start(|path, _| length(path)).await;
    let mut rig = usual(3, 2).await;
    let sql = "SELECT id, value(id)['value'] AS value FROM asks";
    let mut call = value_call(&upstream);
    call.url = upstream.url("/now/{id}");
    let refused = rig.clients.register(asking("now", sql, call.clone())).await;
    let refused = refused.expect_err("no time").message().to_owned();
    assert!(refused.contains("allow_current_state"), "{refused}");
    call.allow_current_state = true;
    rig.clients
        .register(asking("now", sql, call))
        .await
        .expect("registered");
    let mut spec = days("now", "2013-01-01", "2013-01-04");
    let plan = rig.clients.plan(spec.clone()).await.expect("planned");
    let loud = plan
        .warnings
        .iter()
        .any(|it| it.starts_with("CURRENT STATE: value()"));
    assert!(loud, "{:?}", plan.warnings);
    spec.max_active_partitions = 1;
    rig.clients.run_well(spec).await;
    assert_eq!(upstream.count(), 2, "all partitions ask the same");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_ask_the_same_at_once_ask_it_once() {
    let upstream = Upstream::start(|path, _| length(path)).await;
    let one = LimitSpec {
        concurrent: Some(1),
        ..LimitSpec::new("usual")
    };
    let mut rig = rig(one, 4, 1).await;
    let sql = "SELECT id, value(id, TIMESTAMP '2013-01-01T00:00:00')['value'] AS value FROM asks";
    rig.clients
        .register(asking("same", sql, value_call(&upstream)))
        .await
        .expect("registered");
    // No request can leave before all partitions have found that there is no answer.
    let address = rig.server.as_ref().expect("it runs").local_addr();
    let mut limits = RateLimitServiceClient::connect(format!("http://{address}"))
        .await
        .expect("connects");
    let place = pb::AcquirePermitsRequest {
        limit: "usual".to_owned(),
        permits: 1,
        caller_class: pb::CallerClass::Live.into(),
        hold: Some(seconds(3_600)),
        ..Default::default()
    };
    let place = limits.acquire_permits(place).await.expect("the only one");
    let mut spec = days("same", "2013-01-01", "2013-01-05");
    spec.max_active_partitions = 4;
    let backfill = rig.clients.create(spec).await.expect("created");
    let clock = SystemClock::shared();
    loop {
        let request = pb::ListPartitionsRequest {
            backfill: backfill.name.clone(),
            ..Default::default()
        };
        let listed = rig.clients.backfills.list_partitions(request).await;
        let partitions = listed.expect("listed").into_inner().partitions;
        let waits = |it: &&pb::Partition| it.waits_for_limit == "usual";
        if partitions.iter().filter(waits).count() == 4 {
            break;
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
    let release = pb::ReleasePermitsRequest {
        lease_id: place.into_inner().lease_id,
        unused_permits: 0,
    };
    limits.release_permits(release).await.expect("released");
    let ended = rig.clients.ended(&backfill.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    assert_eq!(upstream.count(), 1);
    let counts = ended.partitions.iter().filter_map(|it| it.calls.as_ref());
    let counts = counts.map(|it| (it.request_count, it.remembered_count));
    let (requests, remembered): (Vec<_>, Vec<_>) = counts.unzip();
    assert_eq!(
        (requests.iter().sum::<u64>(), remembered.iter().sum::<u64>()),
        (1, 3)
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_ask_nothing_and_404_is_an_answer() {
    let upstream = Upstream::start(|path, _| {
        if path.starts_with("/v/2?") {
            Reply::of(404, "no such thing")
        } else {
            length(path)
        }
    })
    .await;
    let mut rig = usual(1, 3).await;
    let sql = "SELECT id, answer['value'] AS value, answer IS NULL AS nothing FROM \
               (SELECT id, value(CASE WHEN id < 3 THEN id END, ts) AS answer FROM asks)";
    rig.clients
        .register(asking("some", sql, value_call(&upstream)))
        .await
        .expect("registered");
    let spec = days("some", "2013-01-01", "2013-01-02");
    for _ in 0..2 {
        rig.clients.run_well(spec.clone()).await;
        assert_eq!(upstream.count(), 2);
        assert_eq!(
            rig.clients.rows("some").await,
            [
                "2013-01-01 id=1 value=32 nothing=false",
                "2013-01-01 id=2 value=null nothing=false",
                "2013-01-01 id=3 value=null nothing=true",
            ]
        );
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_may_stand_in_a_condition_and_an_aggregate_over_it() {
    let upstream = Upstream::start(|path, _| length(path)).await;
    let mut rig = usual(1, 12).await;
    let sql = "WITH asked AS (SELECT id, value(id, ts) AS answer FROM asks WHERE id > 8) \
               SELECT answer['value'] AS value, count(*) AS n FROM asked \
               WHERE answer['value'] > 0 GROUP BY answer['value']";
    rig.clients
        .register(asking("counted", sql, value_call(&upstream)))
        .await
        .expect("registered");
    rig.clients
        .run_well(days("counted", "2013-01-01", "2013-01-02"))
        .await;
    assert_eq!(
        rig.clients.rows("counted").await,
        ["2013-01-01 value=32 n=1", "2013-01-01 value=33 n=3"]
    );
    assert_eq!(upstream.count(), 4);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_none_fail_the_partition_and_say_why() {
    let upstream = Upstream::start(|path, _| length(path)).await;
    let mut rig = usual(1, 1).await;
    let secret = rig.folder.path().join("secrets/token");
    std::fs::create_dir(rig.folder.path().join("secrets")).expect("made");
    std::fs::write(&secret, "s3cr3t-t0k3n\n").expect("written");
    let mut call = value_call(&upstream);
    call.headers = vec![pb::CallHeader {
        name: "X-Token".to_owned(),
        value: "${file:token}".to_owned(),
    }];
    call.retries = Some(1);
    rig.clients
        .register(asking("failing", ASK, call))
        .await
        .expect("registered");
    let spec = days("failing", "2013-01-01", "2013-01-02");
    let mut messages = Vec::new();
    for (reply, part, requests) in [
        (Reply::of(400, "no"), "answered 400", 1),
        (Reply::of(403, "no"), "answered 403: look at the secrets", 1),
        (
            Reply::of(302, ""),
            "answered 302: redirects are not followed",
            1,
        ),
        (
            Reply::of(500, "no"),
            "did not answer in 2 tries: it answered 500",
            2,
        ),
        (Reply::of(200, "<html>"), "the response is not JSON", 1),
        (
            Reply::of(200, "{}"),
            "the response has nothing at $.value (column \"value\")",
            1,
        ),
        (
            Reply::of(200, r#"{"value": "x"}"#),
            "column \"value\" is int64",
            1,
        ),
    ] {
        let before = upstream.count();
        upstream.answers(move |_, _| reply.clone());
        let ended = rig.clients.run(spec.clone()).await;
        let message = failure(&ended);
        assert!(message.contains(part), "{message}");
        assert!(message.contains("value(id = \"1\""), "{message}");
        assert!(!message.contains("at="), "{message}");
        assert_eq!(upstream.count() - before, requests, "{part}");
        messages.push(message.to_owned());
    }
    assert!(upstream.seen().iter().all(|it| it.token == "s3cr3t-t0k3n"));
    // The secret is gone: that is said before anything is sent.
    let before = upstream.count();
    std::fs::remove_file(&secret).expect("removed");
    let ended = rig.clients.run(spec.clone()).await;
    let message = failure(&ended);
    assert!(
        message.contains("header \"x-token\": cannot read secret file"),
        "{message}"
    );
    assert_eq!(upstream.count(), before);
    // It passes: the attempt fails, and the next one does not.
    std::fs::write(&secret, "s3cr3t-t0k3n").expect("written");
    upstream.answers(|path, seen| match seen.last() {
        Some(last) if last.status == 503 => length(path),
        _ => Reply {
            headers: vec![("retry-after", "1".to_owned())],
            ..Reply::of(503, "")
        },
    });
    rig.clients.run_well(spec).await;
    let listed = rig
        .clients
        .catalog
        .list_transforms(pb::ListTransformsRequest {})
        .await;
    messages.push(format!("{listed:?}"));
    assert!(!messages.concat().contains("s3cr3t"), "{messages:?}");
    rig.stop().await;
    assert_secret_nowhere(&rig, "s3cr3t-t0k3n");
}

/// No stored file holds it.
fn assert_secret_nowhere(rig: &Rig, secret: &str) {
    let mut folders = vec![rig.folder.path().join("data")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).expect("read");
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{path:?}");
        }
    }
    assert!(files > 3, "{files} files");
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_make_no_sense_are_refused_each_with_its_reason() {
    let upstream = Upstream::start(|path, _| length(path)).await;
    let mut rig = usual(1, 1).await;
    let good = value_call(&upstream);
    let with = |change: &dyn Fn(&mut pb::Call)| {
        let mut call = good.clone();
        change(&mut call);
        asking("bad", ASK, call)
    };
    let twice = pb::Transform {
        calls: vec![good.clone(), good.clone()],
        ..with(&|_| {})
    };
    let sql = |sql: &str| asking("bad", sql, good.clone());
    let header = |name: &str, value: &str| pb::CallHeader {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    for (transform, reason) in [
        (
            with(&|it| it.name = "Value".to_owned()),
            "CALL_NAME_INVALID",
        ),
        (
            with(&|it| it.name = "lower".to_owned()),
            "CALL_NAME_INVALID",
        ),
        (with(&|it| it.name = "a".repeat(61)), "CALL_NAME_INVALID"),
        (twice, "CALL_NAME_INVALID"),
        (
            with(&|it| it.url = "http://h/{now}".to_owned()),
            "CALL_PLACEHOLDER_INVALID",
        ),
        (
            with(&|it| it.url = "ftp://h/{id}".to_owned()),
            "CALL_URL_INVALID",
        ),
        (
            with(&|it| it.url = "http://169.254.169.254/{id}?t={valid_time}".to_owned()),
            "CALL_ADDRESS_REFUSED",
        ),
        (
            with(&|it| it.headers = vec![header("Host", "x")]),
            "CALL_HEADER_INVALID",
        ),
        (
            with(&|it| it.headers = vec![header("Authorization", "Bearer x")]),
            "CALL_SECRET_INVALID",
        ),
        (
            with(&|it| it.headers = vec![header("X", "${vault:x}")]),
            "CALL_SECRET_INVALID",
        ),
        (
            with(&|it| it.columns[0].path = "$.[".to_owned()),
            "CALL_PATH_INVALID",
        ),
        (
            with(&|it| it.columns[0].name = "asked_at".to_owned()),
            "CALL_COLUMN_INVALID",
        ),
        (
            with(&|it| it.columns[0].r#type = "int".to_owned()),
            "INVALID_REQUEST",
        ),
        (with(&|it| it.columns.clear()), "CALL_OUT_OF_RANGE"),
        (
            with(&|it| it.timeout = Some(seconds(601))),
            "CALL_OUT_OF_RANGE",
        ),
        (with(&|it| it.retries = Some(21)), "CALL_OUT_OF_RANGE"),
        (with(&|it| it.rate_limit.clear()), "CALL_LIMIT_REQUIRED"),
        (
            with(&|it| it.rate_limit = "other".to_owned()),
            "CALL_LIMIT_REQUIRED",
        ),
        (
            with(&|it| it.url = "http://h/{id}".to_owned()),
            "CALL_WITHOUT_TIME",
        ),
        (
            with(&|it| it.allow_current_state = true),
            "CALL_WITHOUT_TIME",
        ),
        (
            sql("SELECT sum(value(id, ts)['value']) AS v FROM asks"),
            "CALL_MISPLACED",
        ),
        (
            sql("SELECT a.id FROM asks a JOIN asks b ON value(a.id, b.ts)['value'] = b.id"),
            "CALL_MISPLACED",
        ),
        (
            sql("SELECT value(value(id, ts)['value'], ts)['value'] AS v FROM asks"),
            "CALL_MISPLACED",
        ),
        (
            sql("SELECT value(id)['value'] AS v FROM asks"),
            "INVALID_DEFINITION",
        ),
        (
            sql("SELECT value(ts, ts)['value'] AS v FROM asks"),
            "INVALID_DEFINITION",
        ),
        (
            sql("SELECT value(id, ts)['other'] AS v FROM asks"),
            "INVALID_DEFINITION",
        ),
        (
            sql("SELECT value(id, id)['value'] AS v FROM asks"),
            "INVALID_DEFINITION",
        ),
    ] {
        let shown = format!("{} {:?}", transform.sql, transform.calls);
        let refused = rig.clients.register(transform).await;
        let refused = refused.expect_err(&shown);
        let found = tonic_types::StatusExt::get_error_details(&refused);
        let found = found.error_info().map_or("", |info| &info.reason);
        assert_eq!(found, reason, "{shown}: {refused:?}");
    }
    let types = rig
        .clients
        .entities
        .list_entity_types(pb::ListEntityTypesRequest::default());
    let types = types.await.expect("listed").into_inner().entity_types;
    assert!(
        types.is_empty(),
        "what was refused leaves nothing behind: {types:?}"
    );
    // A later revision may add a column, not change one.
    rig.clients
        .register(with(&|_| {}))
        .await
        .expect("registered");
    let more = with(&|it| it.columns.push(column("note", "string", "$.note")));
    rig.clients.register(more).await.expect("registered");
    let other = with(&|it| it.columns[0].r#type = "float64".to_owned());
    let refused = rig.clients.register(other).await.expect_err("another type");
    assert!(
        refused.message().contains("name the column otherwise"),
        "{refused}"
    );
    assert_eq!(upstream.count(), 0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_permits_uses_up_no_time_and_is_told() {
    let upstream = Upstream::start(|path, _| length(path)).await;
    let mut rig = rig(per_second("usual", 2, 1), 1, 12).await;
    let mut transform = asking("slow", ASK, value_call(&upstream));
    // Twelve permits take more than five seconds, all else much less than four.
    if let Some(retry) = &mut transform.retry {
        retry.attempt_timeout = Some(prost_types::Duration {
            seconds: 4,
            nanos: 0,
        });
    }
    rig.clients.register(transform).await.expect("registered");
    let ended = rig
        .clients
        .run_well(days("slow", "2013-01-01", "2013-01-02"))
        .await;
    let told: Vec<_> = ended
        .changes("2013-01-01")
        .into_iter()
        .filter(|change| !change.waits_for_limit.is_empty())
        .collect();
    assert!(!told.is_empty(), "{:?}", ended.events);
    assert_eq!(told[0].waits_for_limit, "usual");
    assert_eq!(told[0].state(), PartitionState::Running);
    assert_eq!(ended.partitions[0].attempt_count, 1);
    assert!(ended.partitions[0].waits_for_limit.is_empty(), "it is over");
    let partitions = attempts(&mut rig, &ended).await;
    let counts = partitions[0].attempts[0].calls.expect("calls");
    assert_eq!((counts.request_count, counts.answer_count), (12, 12));
    let waited = counts.limit_wait.expect("it waited");
    assert!(waited.seconds >= 1, "{waited:?}");
    rig.stop().await;
}
