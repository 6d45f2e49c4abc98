//! What a partition may know: the three knowledge modes.

use hindcast::pb::{self, Knowledge, PartitionState};
use tonic::Code;

use crate::backfill_support::{
    Clients, Rig, at, at_basis, daily, days, entity_input, micros, seconds, then,
};

/// `n` stations and the sum of their temperatures.
async fn register_stations(clients: &mut Clients) {
    let sql = "SELECT count(*) AS n, sum(temp) AS temp FROM station";
    let transform = pb::Transform {
        entities: vec![entity_input("station")],
        ..daily("seen", sql)
    };
    clients.register(transform).await.expect("registered");
}

#[tokio::test]
async fn what_was_loaded_today_was_not_known_then() {
    let mut rig = Rig::at("2026-01-01T00:00:00Z").await;
    let clients = &mut rig.clients;
    clients.create_stations().await;
    clients.put_station("s1", "2012-01-01T00:00:00Z", 5.0).await;
    register_stations(clients).await;

    let plan = clients
        .plan(then("seen", "2013-01-01", "2013-01-04"))
        .await
        .expect("planned");
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    assert!(
        plan.warnings[0].starts_with("station: nothing was known before 2026-01-01")
            && plan.warnings[0].ends_with("3 of 3 partitions would read no entity"),
        "{:?}",
        plan.warnings
    );
    let bases: Vec<_> = plan.partitions.iter().map(|it| it.basis).collect();
    let ends: Vec<_> = plan.partitions.iter().map(|it| it.end).collect();
    assert_eq!(bases, ends);

    clients
        .run_well(then("seen", "2013-01-01", "2013-01-04"))
        .await;
    assert_eq!(
        clients.rows("seen").await,
        [
            "2013-01-01 n=0 temp=null",
            "2013-01-02 n=0 temp=null",
            "2013-01-03 n=0 temp=null"
        ]
    );
    let plan = clients
        .plan(days("seen", "2013-01-01", "2013-01-03"))
        .await
        .expect("planned");
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    clients
        .run_well(days("seen", "2013-01-01", "2013-01-03"))
        .await;
    assert_eq!(
        clients.rows("seen").await,
        [
            "2013-01-01 n=1 temp=5",
            "2013-01-02 n=1 temp=5",
            "2013-01-03 n=0 temp=null"
        ]
    );
}

#[tokio::test]
async fn an_empty_entity_type_is_warned_of() {
    let mut rig = Rig::at("2026-01-01T00:00:00Z").await;
    rig.clients.create_stations().await;
    register_stations(&mut rig.clients).await;
    let plan = rig
        .clients
        .plan(days("seen", "2013-01-01", "2013-01-02"))
        .await
        .expect("planned");
    assert_eq!(
        plan.warnings,
        ["station: it holds nothing yet: 1 of 1 partitions would read no entity"]
    );
}

#[tokio::test]
async fn a_correction_is_known_from_its_commit_on() {
    let mut rig = Rig::at("2013-01-01T00:00:00Z").await;
    rig.clients.create_stations().await;
    rig.clients
        .put_station("s1", "2013-01-01T00:00:00Z", 1.0)
        .await;
    rig.clock.set(micros("2013-01-03T06:00:00Z"));
    let corrected = rig
        .clients
        .put_station("s1", "2013-01-01T00:00:00Z", 2.0)
        .await;
    assert_eq!(corrected, at("2013-01-03T06:00:00Z"));
    rig.clock.set(micros("2013-02-01T00:00:00Z"));
    register_stations(&mut rig.clients).await;

    let delayed = |hours: i64| pb::BackfillSpec {
        availability_delay: Some(seconds(hours * 3600)),
        ..then("seen", "2013-01-02", "2013-01-04")
    };
    // The night of 2 January ends at midnight; the correction comes six hours later.
    for (hours, second) in [(0, "1"), (5, "1"), (6, "2"), (7, "2")] {
        rig.clients.run_well(delayed(hours)).await;
        assert_eq!(
            rig.clients.rows("seen").await,
            [
                format!("2013-01-02 n=1 temp={second}"),
                "2013-01-03 n=1 temp=2".to_owned()
            ],
            "after {hours} hours"
        );
    }
}

#[tokio::test]
async fn a_rerun_at_its_basis_gives_the_rows_of_before_a_correction() {
    let mut rig = Rig::at("2013-01-01T00:00:00Z").await;
    rig.clients.create_stations().await;
    rig.clients
        .put_station("s1", "2013-01-01T00:00:00Z", 1.0)
        .await;
    register_stations(&mut rig.clients).await;
    rig.clock.set(micros("2013-02-01T00:00:00Z"));
    let now = days("seen", "2013-01-01", "2013-01-03");
    let first = rig.clients.run_well(now.clone()).await;
    let before = rig.clients.rows("seen").await;
    assert_eq!(before, ["2013-01-01 n=1 temp=1", "2013-01-02 n=1 temp=1"]);
    let basis = first.partitions[0].basis.expect("a basis");

    rig.clients
        .put_station("s1", "2013-01-02T00:00:00Z", 7.0)
        .await;
    rig.clients.run_well(now.clone()).await;
    let after = rig.clients.rows("seen").await;
    assert_eq!(after, ["2013-01-01 n=1 temp=1", "2013-01-02 n=1 temp=7"]);

    let again = rig.clients.run_well(at_basis(&now, basis)).await;
    assert_eq!(rig.clients.rows("seen").await, before);
    assert!(again.partitions.iter().all(|it| it.basis == Some(basis)));
    rig.clients.run_well(now).await;
    assert_eq!(rig.clients.rows("seen").await, after);
}

#[tokio::test]
async fn knowledge_must_be_said_and_must_not_lie_ahead() {
    let mut rig = Rig::at("2013-02-01T00:00:00Z").await;
    rig.clients.create_stations().await;
    register_stations(&mut rig.clients).await;
    let now = days("seen", "2013-01-01", "2013-01-03");
    let ahead = at_basis(&now, at("2013-02-01T00:00:00.000001Z"));
    let refused = rig.clients.plan(ahead.clone()).await.expect_err("refused");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let refused = rig.clients.create(ahead).await.expect_err("refused");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");

    let silent = pb::BackfillSpec {
        knowledge: Knowledge::Unspecified.into(),
        ..now.clone()
    };
    let refused = rig.clients.plan(silent).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("knowledge"), "{refused}");
    let without = pb::BackfillSpec {
        knowledge: Knowledge::AtBasis.into(),
        ..now
    };
    let refused = rig.clients.plan(without).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("basis"), "{refused}");
}

#[tokio::test]
async fn partitions_whose_basis_is_to_come_are_skipped() {
    let mut rig = Rig::at("2013-01-03T12:00:00Z").await;
    rig.clients.create_stations().await;
    register_stations(&mut rig.clients).await;
    let late = pb::BackfillSpec {
        availability_delay: Some(seconds(24 * 3600)),
        ..then("seen", "2013-01-01", "2013-01-05")
    };
    let plan = rig.clients.plan(late.clone()).await.expect("planned");
    let reasons: Vec<_> = plan
        .partitions
        .iter()
        .map(|it| it.skip_reason.as_str())
        .collect();
    assert_eq!(reasons[0], "");
    assert!(reasons[1].contains("is still to come"), "{reasons:?}");
    assert!(reasons[2].contains("is not over before"), "{reasons:?}");
    let ended = rig.clients.run_well(late).await;
    assert_eq!(
        ended.states(),
        [
            PartitionState::Succeeded,
            PartitionState::Skipped,
            PartitionState::Skipped,
            PartitionState::Skipped
        ]
    );
}
