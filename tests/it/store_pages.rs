//! One entity over many pages: every version stays findable, also by readers beside the committer.

use hindcast::{
    store::{Answer, Until},
    time::{Interval, SysTime, ValidTime},
};

use crate::store_support::{Rig, put, text, until};

/// Corrects the same range over and over: one root after the other is archived.
#[test]
fn the_same_range_corrected_a_thousand_times_keeps_every_version() {
    let mut rig = Rig::new();
    for round in 0..1_000 {
        rig.write_at(
            1_000 + round,
            vec![put("a", Some(&format!("value {round:04}")), 0, until(10))],
        )
        .expect("written");
    }
    for pass in 0..2 {
        for round in [0, 1, 499, 998, 999] {
            let Answer::Value(version) = rig.get("a", 5, 1_000 + round) else {
                panic!("a value at {round}");
            };
            assert_eq!(text(&version), format!("value {round:04}"));
            assert_eq!(
                version.valid,
                Interval::new(ValidTime::from_micros(0), ValidTime::from_micros(10))
            );
        }
        assert_eq!(rig.history("a", 1_999).len(), 1_000);
        if pass == 0 {
            rig.reopen().expect("opens");
        }
    }
}

/// Hourly readings over valid time: pages split, and each answer's range is found across them.
#[test]
fn many_versions_spread_over_valid_time_are_all_found() {
    let mut rig = Rig::new();
    for chunk in 0..40i64 {
        let batch = (0..100)
            .map(|step| {
                // In an order that is neither ascending nor descending.
                let hour = (chunk * 100 + step) * 1_237 % 4_000;
                put(
                    "station",
                    Some(&format!("reading {hour}")),
                    hour,
                    Until::NextChange,
                )
            })
            .collect();
        rig.write_at(1_000 + chunk, batch).expect("written");
    }
    rig.reopen().expect("opens");
    for hour in 0..4_000 {
        let Answer::Value(version) = rig.get("station", hour, 1_039) else {
            panic!("a value at {hour}");
        };
        assert_eq!(text(&version), format!("reading {hour}"));
        let to = (hour < 3_999).then(|| ValidTime::from_micros(hour + 1));
        assert_eq!((version.valid.from.micros(), version.valid.to), (hour, to));
    }
}

/// `BT-2` while it is hardest: pages split and roots are archived under the readers' feet.
#[test]
fn readers_see_a_basis_unchanged_while_pages_split() {
    let rig = Rig::new();
    let value = |round: i64| format!("{round:0>150}");
    let batch = |round: i64| {
        let point = round * 7 % 400;
        vec![
            put("spread", Some(&value(round)), point, until(point + 3)),
            put("same", Some(&value(round)), 0, until(10)),
        ]
    };
    for round in 0..40 {
        rig.write_at(1_000 + round, batch(round)).expect("written");
    }
    let basis = 1_039;
    let expected = ["spread", "same"].map(|id| (id, rig.history(id, basis)));
    let (store, thing) = (rig.store().clone(), rig.thing());
    let done = std::sync::atomic::AtomicBool::new(false);
    let passes = std::thread::scope(|scope| {
        let read = || {
            let mut passes = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for (id, expected) in &expected {
                    let all = Interval::starting_at(ValidTime::MIN);
                    let at = SysTime::from_micros(basis);
                    let ever = Interval::starting_at(SysTime::MIN);
                    let found = store.history(&thing, id, all, ever, at).expect("reads");
                    assert_eq!(&found, expected);
                    for version in expected
                        .iter()
                        .filter(|version| version.system.to.is_none())
                    {
                        let answer = store
                            .get(&thing, id, version.valid.from, at)
                            .expect("reads");
                        assert_eq!(answer, Answer::Value(version.clone()));
                    }
                }
                passes += 1;
            }
            passes
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        for round in 40..700 {
            rig.write_at(1_000 + round, batch(round)).expect("written");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        readers.map(|reader| reader.join().expect("no reader fails"))
    });
    assert!(passes.iter().all(|&passes| passes > 0));
}
