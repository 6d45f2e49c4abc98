//! Random lives of a backfill, with crashes that cut a turn's events anywhere.

mod happenings;
mod invariants;
mod records;
mod world;

use proptest::prelude::*;

use self::{happenings::*, records::*, world::*};
use super::*;
use crate::{backfill::model::DependencyShape, time::Grain};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_life_is_in_order_and_ends(
        sequential in any::<bool>(),
        max_active in 1u32..5,
        settings in (any::<bool>(), any::<bool>(), 1u32..4),
        skipped in prop::collection::vec(prop::bool::weighted(0.1), 1..12),
        happenings in prop::collection::vec(happening(), 0..120),
    ) {
        let shape = if sequential { DependencyShape::Sequential } else { DependencyShape::Independent };
        let max_active = if sequential { 1 } else { max_active };
        // A backfill in which nothing runs is refused.
        prop_assume!(skipped.contains(&false));
        let settings = Settings {
            stop: settings.0,
            backwards: settings.1 && !sequential,
            per_task: if sequential { 1 } else { settings.2 },
        };
        let mut world = World::new(record_with(shape, max_active, &skipped, settings));
        for happening in happenings {
            world.step(happening);
        }
        world.run_out();
        world.check_end();
    }

    #[test]
    fn every_life_of_several_transforms_is_in_order_and_ends(
        members in members(),
        days in 5usize..14,
        max_active in 1u32..5,
        settings in (any::<bool>(), any::<bool>(), 1u32..4),
        skipped in prop::collection::vec(prop::bool::weighted(0.1), 1..12),
        happenings in prop::collection::vec(happening(), 0..160),
    ) {
        let in_order = members.iter().any(|member| member.shape == DependencyShape::Sequential);
        let settings = Settings {
            stop: settings.0,
            backwards: settings.1 && !in_order,
            per_task: settings.2,
        };
        prop_assume!(skipped.contains(&false));
        let record = record_of(&members, days, max_active, &skipped, settings);
        prop_assume!(record.plan.run_count() > 0);
        let mut world = World::new(record);
        for happening in happenings {
            world.step(happening);
        }
        world.run_out();
        world.check_end();
    }
}

/// Two to four transforms, each reading some of those before it.
fn members() -> impl Strategy<Value = Vec<Member>> {
    let one = (
        any::<bool>(),
        any::<bool>(),
        prop::collection::btree_map(0u32..3, 0i64..4, 0..3),
    );
    prop::collection::vec(one, 2..5).prop_map(|drawn| {
        let members = (0u32..).zip(drawn);
        members
            .map(|(place, (sequential, weekly, reads))| Member {
                shape: if sequential {
                    DependencyShape::Sequential
                } else {
                    DependencyShape::Independent
                },
                grain: if weekly { Grain::Weekly } else { Grain::Daily },
                reads: reads.into_iter().filter(|(one, _)| *one < place).collect(),
            })
            .collect()
    })
}

/// Days, and weeks that read them.
fn days_and_weeks(days: usize, settings: Settings) -> Record {
    let member = |grain, reads| Member {
        shape: DependencyShape::Independent,
        grain,
        reads,
    };
    let members = [
        member(Grain::Daily, Vec::new()),
        member(Grain::Weekly, vec![(0, 0)]),
    ];
    record_of(&members, days, 64, &[false], settings)
}

fn labels_in(world: &World, state: PartitionState) -> Vec<String> {
    let all = world.record.plan.partitions.iter();
    let runs = all.zip(&world.state.partitions);
    let found = runs.filter(|(_, run)| run.state == state);
    found
        .map(|(planned, _)| planned.partition.label.clone())
        .collect()
}

#[test]
fn a_failure_fails_exactly_what_reads_it_and_a_retry_takes_both_up() {
    // From Thursday, 1970-01-01, on: four days, and two whole weeks.
    let mut world = World::new(days_and_weeks(18, Settings::default()));
    assert_eq!(world.computing.len(), 18, "weeks wait");
    let planned = world.record.plan.partitions.iter();
    let tuesday = planned.map(|it| it.partition.label.as_str());
    let tuesday = tuesday
        .zip(0u32..)
        .find(|(label, _)| *label == "1970-01-13");
    let (_, index) = tuesday.expect("planned");
    world.computing.retain(|it| it.0 != index);
    world.send(failed(index, 1, false));
    assert_eq!(
        labels_in(&world, PartitionState::UpstreamFailed),
        ["1970-W03"]
    );
    let week = labels_in(&world, PartitionState::Blocked);
    assert_eq!(week, ["1970-W02"]);
    world.run_out();
    assert_eq!(world.state.state, BackfillState::PartiallySucceeded);
    let messages = world.state.partitions.iter();
    let messages: Vec<_> = messages.filter_map(|run| run.message.clone()).collect();
    assert!(
        messages.contains(&"partition 1970-01-13 of t0, which it reads, failed".to_owned()),
        "{messages:?}"
    );
    world.send(Command::Retry);
    assert_eq!(world.computing, [(index, 2)]);
    assert_eq!(labels_in(&world, PartitionState::Blocked), ["1970-W03"]);
    world.run_out();
    world.check_end();
    assert_eq!(world.state.state, BackfillState::Succeeded);
}

#[test]
fn a_task_takes_one_slot_for_its_neighbours() {
    let settings = Settings {
        per_task: 4,
        ..Settings::default()
    };
    let shape = DependencyShape::Independent;
    let skipped = [false, false, true, false, false, false, false, false, false];
    let mut world = World::new(record_with(shape, 2, &skipped, settings));
    let computing: Vec<_> = world.computing.iter().map(|it| it.0).collect();
    assert_eq!(computing, [0, 1, 3, 4, 5, 6], "a task holds no gap");
    assert_eq!(world.state.computing_count(), 2);
    world.send(Command::Staged {
        index: 0,
        attempt: 1,
    });
    assert_eq!(world.state.computing_count(), 2);
    world.computing.retain(|it| it.0 > 1);
    world.waiting.push((0, 1));
    world.send(failed(1, 1, true));
    assert_eq!(world.state.count(PartitionState::WaitingRetry), 1);
    assert_eq!(world.state.computing_count(), 2, "the next task began");
    assert_eq!(world.state.count(PartitionState::Running), 1 + 4 + 2);
}

#[test]
fn a_partition_tried_again_does_not_take_the_place_of_its_old_task() {
    let settings = Settings {
        per_task: 2,
        ..Settings::default()
    };
    let mut world = World::new(record_with(
        DependencyShape::Independent,
        2,
        &[false; 6],
        settings,
    ));
    world.computing.retain(|it| it.0 == 1);
    world.send(failed(0, 1, true));
    world.timers.clear();
    world.send(Command::RetryDue {
        index: 0,
        attempt: 1,
    });
    for index in [2, 3] {
        world.send(Command::Staged { index, attempt: 1 });
    }
    let computing: Vec<_> = world.computing.iter().map(|it| it.0).collect();
    assert_eq!(computing, [1, 0], "the old task goes on beside the new one");
    assert_eq!(world.state.computing_count(), 2);
}

#[test]
fn a_retry_takes_up_what_a_first_failure_left_out() {
    let settings = Settings {
        stop: true,
        backwards: true,
        ..Settings::default()
    };
    let shape = DependencyShape::Independent;
    let mut world = World::new(record_with(shape, 1, &[false; 3], settings));
    assert_eq!(world.computing, [(2, 1)], "the latest first");
    world.fail_computing(0, false);
    assert_eq!(world.state.state, BackfillState::Failed);
    assert_eq!(world.state.count(PartitionState::Cancelled), 2);
    let message = world.state.partitions[0].message.clone();
    assert!(message.is_some_and(|text| text.contains("partition 1970-01-03 failed")));
    world.send(Command::Retry);
    assert_eq!(world.computing, [(2, 2)], "attempts are numbered on");
    assert_eq!(world.state.partitions[2].failure_count, 0);
    world.run_out();
    world.check_end();
    assert_eq!(world.state.state, BackfillState::Succeeded);
}

#[test]
fn a_paused_backfill_starts_nothing_and_stays_paused_over_a_restart() {
    let mut world = World::new(record(DependencyShape::Independent, 2, &[false; 5]));
    world.send(Command::Pause);
    world.step(Happening {
        op: Op::Staged,
        pick: 0,
        torn_after: None,
    });
    world.commit(0);
    world.step(Happening {
        op: Op::CommitReported,
        pick: 0,
        torn_after: None,
    });
    assert_eq!(world.state.count(PartitionState::Succeeded), 1);
    assert_eq!(world.computing.len(), 1, "nothing new started");
    world.restart();
    assert!(world.computing.is_empty());
    assert_eq!(world.state.state, BackfillState::Paused);
    world.send(Command::SetConcurrency(3));
    world.most_active = 3;
    world.send(Command::Resume);
    assert_eq!(world.computing.len(), 3);
}

#[test]
fn a_stopping_server_starts_nothing_more() {
    let mut world = World::new(record(DependencyShape::Independent, 2, &[false; 6]));
    world.step(Happening {
        op: Op::Staged,
        pick: 0,
        torn_after: None,
    });
    world.commit(0);
    world.send(Command::Release);
    let sequence = world.state.last_sequence;
    let (index, attempt) = world.committed.remove(0);
    world.send(Command::Published(published(index, attempt)));
    assert_eq!(
        world.state.last_sequence,
        sequence + 1,
        "published, and that is all"
    );
    assert!(world.computing.is_empty());
}

#[test]
fn a_cancel_whose_journal_is_cut_ends_after_a_restart() {
    let mut world = World::new(record(DependencyShape::Independent, 1, &[false; 3]));
    world.step(Happening {
        op: Op::Cancel,
        pick: 0,
        torn_after: Some(1),
    });
    assert_eq!(world.state.state, BackfillState::Cancelled);
}

#[test]
fn a_failure_whose_journal_is_cut_fails_downstream_after_a_restart() {
    let mut world = World::new(record(DependencyShape::Sequential, 1, &[false; 3]));
    world.step(Happening {
        op: Op::FailedForGood,
        pick: 0,
        torn_after: Some(1),
    });
    assert_eq!(world.state.state, BackfillState::Failed);
    assert_eq!(world.state.count(PartitionState::UpstreamFailed), 2);
}
