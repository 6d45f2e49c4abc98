//! Partitions against the boundaries that Python's zoneinfo gives (tests/fixtures/calendar/make.py).

use hindcast::time::{Grain, Partition, PartitionCalendar, ValidTime};

const BOUNDARIES: &str = include_str!("../fixtures/calendar/boundaries.csv");

/// One line of the fixture.
fn expected(line: &str) -> (PartitionCalendar, Partition) {
    let fields: Vec<&str> = line.split(',').collect();
    let [zone, grain, start, end, label] = fields[..] else {
        panic!("not five fields: {line}");
    };
    let grain: Grain = grain.parse().expect("a grain");
    let partition = Partition {
        start: ValidTime::parse(start).expect("an instant"),
        end: ValidTime::parse(end).expect("an instant"),
        label: label.to_owned(),
    };
    (
        PartitionCalendar::in_zone(grain, zone).expect("a zone"),
        partition,
    )
}

fn lines() -> impl Iterator<Item = (PartitionCalendar, Partition)> {
    BOUNDARIES.lines().skip(1).map(expected)
}

fn in_zone(zone: &str, label: &str) -> Partition {
    lines()
        .find(|(calendar, partition)| calendar.zone().name() == zone && partition.label == label)
        .map(|(_, partition)| partition)
        .expect("listed in the fixture")
}

fn minutes(partition: &Partition) -> i64 {
    (partition.end.micros() - partition.start.micros()) / 60_000_000
}

#[test]
fn boundaries_and_labels_are_those_of_zoneinfo() {
    let mut count = 0;
    for (calendar, partition) in lines() {
        let middle = (partition.start.micros() + partition.end.micros()) / 2;
        for instant in [partition.start.micros(), middle, partition.end.micros() - 1] {
            let found = calendar.partition_containing(ValidTime::from_micros(instant));
            assert_eq!(found.as_ref(), Ok(&partition), "{calendar:?}");
        }
        let range = calendar.partitions(partition.start, partition.end);
        assert_eq!(range.as_deref(), Ok(&[partition][..]), "{calendar:?}");
        count += 1;
    }
    assert!(count > 1_000, "the fixture holds {count} partitions only");
}

#[test]
fn days_are_as_long_as_the_clock_makes_them() {
    assert_eq!(minutes(&in_zone("America/New_York", "2013-03-10")), 23 * 60);
    assert_eq!(minutes(&in_zone("America/New_York", "2013-11-03")), 25 * 60);
    assert_eq!(
        minutes(&in_zone("Australia/Lord_Howe", "2013-10-06")),
        23 * 60 + 30
    );
}

#[test]
fn a_day_without_midnight_starts_when_its_date_does() {
    let day = in_zone("America/Sao_Paulo", "2018-11-04");
    assert_eq!(day.start.to_string(), "2018-11-04T03:00:00Z");
    assert_eq!(minutes(&day), 23 * 60);
}

#[test]
fn a_date_that_the_zone_skips_has_no_partition() {
    let days = PartitionCalendar::in_zone(Grain::Daily, "Pacific/Apia").expect("a zone");
    let (from, to) = (
        in_zone("Pacific/Apia", "2011-12-29"),
        in_zone("Pacific/Apia", "2011-12-31"),
    );
    let labels: Vec<String> = days
        .partitions(from.start, to.end)
        .expect("boundaries")
        .into_iter()
        .map(|partition| partition.label)
        .collect();
    assert_eq!(labels, ["2011-12-29", "2011-12-31"]);
    assert_eq!(days.previous(to.start), Ok(from));
    let skipped = "2011-12-30T00:00:00".parse().expect("a reading");
    assert_eq!(days.local(skipped), Ok(to.start));
}

#[test]
fn an_hour_that_is_shown_twice_is_two_partitions() {
    let hours = PartitionCalendar::in_zone(Grain::Hourly, "America/New_York").expect("a zone");
    let second = in_zone("America/New_York", "2013-11-03T01-05:00");
    let first = hours.previous(second.start).expect("in range");
    assert_eq!(first.label, "2013-11-03T01-04:00");
    assert_eq!(
        hours.nth_before(second.start, 24).expect("in range").label,
        "2013-11-02T02-04:00"
    );
    let shift = in_zone("Australia/Lord_Howe", "2013-10-06T02+11:00");
    assert_eq!(minutes(&shift), 30);
}
