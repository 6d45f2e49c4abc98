//! Random lives of a backfill, with crashes that cut a turn's events anywhere.

mod world;

use proptest::prelude::*;

use self::world::*;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_life_is_in_order_and_ends(
        sequential in any::<bool>(),
        max_active in 1u32..5,
        settings in (any::<bool>(), any::<bool>()),
        skipped in prop::collection::vec(prop::bool::weighted(0.1), 1..12),
        happenings in prop::collection::vec(happening(), 0..120),
    ) {
        let shape = if sequential { DependencyShape::Sequential } else { DependencyShape::Independent };
        let max_active = if sequential { 1 } else { max_active };
        // A backfill in which nothing runs is refused.
        prop_assume!(skipped.contains(&false));
        let settings = Settings { stop: settings.0, backwards: settings.1 && !sequential };
        let mut world = World::new(record_with(shape, max_active, &skipped, settings));
        for happening in happenings {
            world.step(happening);
        }
        world.run_out();
        world.check_end();
    }
}

#[test]
fn a_retry_takes_up_what_a_first_failure_left_out() {
    let settings = Settings {
        stop: true,
        backwards: true,
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
