//! Source files: formats, pruning, and files that go, come back or change.

use std::{path::Path, sync::Arc};

use arrow::{
    array::{Int64Array, RecordBatch, TimestampMillisecondArray},
    datatypes::{DataType, Field, Schema, TimeUnit},
};
use hindcast::pb::{self, BackfillState, PartitionState};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use tonic::Code;

use crate::backfill_support::{Rig, SLOW, csv_source, days, january, micros, over_events, seconds};

/// Daily folders, so that each partition opens a file of its own.
async fn daily_files(rig: &mut Rig, count: u32) {
    for day in 1..=count {
        let text = format!("ts,v\n2013-01-{day:02}T12:00:00,{day}\n");
        rig.write(&format!("events/dt=2013-01-{day:02}/part.csv"), &text);
    }
    let folder = rig.folder.path().join("sources/events");
    let source = pb::Source {
        hive: Some(pb::HivePartition {
            column: "dt".to_owned(),
            grain: pb::Grain::Daily.into(),
            ..pb::HivePartition::default()
        }),
        ..csv_source("events", &folder, &[("v", "int64")])
    };
    rig.clients.create_source(source).await.expect("created");
}

#[tokio::test]
async fn a_file_that_comes_back_is_read_on_a_later_try() {
    let mut rig = Rig::at("2013-12-31T00:00:00Z").await;
    daily_files(&mut rig, 3).await;
    // The first day is slow, so that the last one's file can go before it is read.
    let sql =
        format!("SELECT v, CASE WHEN v = 1 THEN {SLOW} ELSE 0 END > 0 AS slow, dt FROM events");
    let transform = pb::Transform {
        retry: Some(pb::RetryPolicy {
            max_attempts: 50,
            initial_backoff: Some(seconds(1)),
            max_backoff: Some(seconds(1)),
            ..pb::RetryPolicy::default()
        }),
        ..over_events("moved", &sql)
    };
    rig.clients.register(transform).await.expect("registered");
    let mut range = days("moved", "2013-01-01", "2013-01-04");
    range.max_active_partitions = 1;
    let created = rig.clients.create(range).await.expect("created");
    let file = rig
        .folder
        .path()
        .join("sources/events/dt=2013-01-03/part.csv");
    let away = rig.folder.path().join("away.csv");
    std::fs::rename(&file, &away).expect("moved away");

    let mut stream = rig.clients.watch(&created.name, 0).await;
    loop {
        let item = stream.message().await.expect("goes on").expect("an item");
        if let Some(pb::watch_backfill_response::Message::Event(event)) = item.message
            && let Some(pb::event::Change::PartitionChanged(change)) = event.change
            && change.state() == PartitionState::WaitingRetry
        {
            assert_eq!(change.label, "2013-01-03");
            assert!(
                change.message.contains("cannot open source file"),
                "{}",
                change.message
            );
            assert!(change.retry_time.is_some());
            break;
        }
    }
    std::fs::rename(&away, &file).expect("put back");
    let ended = rig.clients.ended(&created.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::Succeeded);
    assert!(ended.partitions[2].attempt_count > 1);
    assert_eq!(ended.partitions[2].message, "");
    assert_eq!(
        rig.clients.rows("moved").await.last().map(String::as_str),
        Some("2013-01-03 v=3 slow=false dt=2013-01-03")
    );
}

#[tokio::test]
async fn a_file_that_changed_fails_its_partition_for_good() {
    let mut rig = Rig::at("2013-12-31T00:00:00Z").await;
    daily_files(&mut rig, 3).await;
    let sql = format!("SELECT v, CASE WHEN v = 1 THEN {SLOW} ELSE 0 END > 0 AS slow FROM events");
    let transform = pb::Transform {
        retry: None,
        ..over_events("changed", &sql)
    };
    rig.clients.register(transform).await.expect("registered");
    let mut range = days("changed", "2013-01-01", "2013-01-04");
    range.max_active_partitions = 1;
    let created = rig.clients.create(range).await.expect("created");
    rig.write(
        "events/dt=2013-01-03/part.csv",
        "ts,v\n2013-01-03T12:00:00,333\n",
    );
    let ended = rig.clients.ended(&created.name).await;
    assert_eq!(ended.backfill.state(), BackfillState::PartiallySucceeded);
    let last = &ended.partitions[2];
    assert_eq!(last.state(), PartitionState::Failed);
    assert_eq!(last.attempt_count, 1);
    assert!(
        last.message
            .contains("changed since the backfill was created"),
        "{}",
        last.message
    );
}

#[tokio::test]
async fn a_source_that_lost_a_column_is_refused_at_plan() {
    let mut rig = january(2).await;
    rig.clients
        .register(over_events("kept", "SELECT v FROM events"))
        .await
        .expect("registered");
    for text in [
        "ts,w\n2013-01-01T12:00:00,1\n",
        // The reader goes by place: another order would read one column as the other.
        "v,ts\n1,2013-01-01T12:00:00\n",
    ] {
        rig.write("events.csv", text);
        let refused = rig
            .clients
            .plan(days("kept", "2013-01-01", "2013-01-03"))
            .await
            .expect_err("refused");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("events.csv"), "{refused}");
    }
}

/// One row per half hour of the first days of January in one file, a row group per day; times in milliseconds without a
/// zone.
fn parquet_of_days(path: &Path, days: i64) {
    let schema = Arc::new(Schema::new(vec![
        Field::new("v", DataType::Int64, false),
        Field::new(
            "ts",
            DataType::Timestamp(TimeUnit::Millisecond, None),
            false,
        ),
    ]));
    let per_day = 48;
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(per_day as usize))
        .build();
    let file = std::fs::File::create(path).expect("a file");
    let mut writer =
        ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).expect("a writer");
    let start = micros("2013-01-01T00:00:00Z") / 1_000;
    let rows = 0..per_day * days;
    let batch = RecordBatch::try_new(
        schema,
        vec![
            Arc::new(Int64Array::from_iter_values(rows.clone())),
            Arc::new(TimestampMillisecondArray::from_iter_values(
                rows.map(|row| start + row * 1_800_000),
            )),
        ],
    )
    .expect("a batch");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
}

#[tokio::test]
async fn parquet_is_pruned_to_the_row_groups_of_the_window() {
    let mut rig = Rig::at("2013-12-31T00:00:00Z").await;
    let path = rig.write("events.parquet", "");
    parquet_of_days(&path, 5);
    let source = pb::Source {
        name: "events".to_owned(),
        format: pb::SourceFormat::Parquet.into(),
        location: path.to_str().expect("UTF-8").to_owned(),
        event_time_column: "ts".to_owned(),
        ..pb::Source::default()
    };
    rig.clients.create_source(source).await.expect("created");
    let queries = [
        (
            "whole",
            "SELECT min(v) AS first, max(v) AS last, count(*) AS n FROM events",
        ),
        ("counted", "SELECT count(*) AS n FROM events"),
        ("one", "SELECT v FROM events WHERE v % 48 > 40 LIMIT 1"),
    ];
    for (name, sql) in queries {
        rig.clients
            .register(over_events(name, sql))
            .await
            .expect("registered");
        let ended = rig
            .clients
            .run_well(days(name, "2013-01-02", "2013-01-04"))
            .await;
        let read: Vec<_> = ended.partitions.iter().map(|it| it.rows_read).collect();
        assert_eq!(read, [48, 48], "{name}");
    }
    assert_eq!(
        rig.clients.rows("whole").await,
        [
            "2013-01-02 first=48 last=95 n=48",
            "2013-01-03 first=96 last=143 n=48"
        ]
    );
    assert_eq!(
        rig.clients.rows("counted").await,
        ["2013-01-02 n=48", "2013-01-03 n=48"]
    );
    assert_eq!(
        rig.clients.rows("one").await,
        ["2013-01-02 v=89", "2013-01-03 v=137"]
    );
}
