//! The verdict on staleness against the truth: partitions are really computed again, after random changes. Whatever comes out
//! otherwise was listed; what changes nothing that can be seen lists nothing.

use std::collections::{BTreeMap, BTreeSet};

use hindcast::pb::{self, Knowledge, ReprocessBehavior, mutation::Operation};

use crate::{
    backfill_stale_support::{ALL, HISTORY, LOOKUP, STATE, end, patch, put, rig},
    backfill_support::{Rig, days, then},
};

/// Rounds of changes for each seed.
const ROUNDS: usize = 7;

/// Name, query, and what its partitions know.
type Case = (&'static str, &'static str, Knowledge);

const PLAIN: [Case; 6] = [
    ("state", STATE, Knowledge::AsKnownNow),
    ("lookup", LOOKUP, Knowledge::AsKnownNow),
    ("history", HISTORY, Knowledge::AsKnownNow),
    (
        "since",
        "SELECT entity_id, valid_from, wind FROM sensor",
        Knowledge::AsKnownNow,
    ),
    (
        "back",
        "SELECT v, sensor_at(id, ts - INTERVAL '30 hours') AS s, e.wind FROM events
         JOIN sensor e ON e.entity_id = id",
        Knowledge::AsKnownNow,
    ),
    ("known_then", STATE, Knowledge::AsKnownThen),
];
/// Of `back`: a struct cannot be stored, its fields can.
const BACK: &str = "SELECT b.v, b.s['temp'] AS temp, b.s['valid_from'] AS since, b.wind FROM";

/// Ways of looking at an entity that are hard to follow through a plan.
const ODD: [Case; 8] = [
    (
        "either",
        "SELECT v, (CASE WHEN v % 2 = 1 THEN sensor_at(id, ts) ELSE sensor_at('b', ts) END)['temp'] AS t FROM events",
        Knowledge::AsKnownNow,
    ),
    (
        "distinct_states",
        "SELECT count(*) AS n FROM (
             SELECT DISTINCT sensor_at(x.id, e.ts) AS s FROM events e, (VALUES ('a'), ('b'), ('c')) AS x(id))",
        Knowledge::AsKnownNow,
    ),
    (
        "correlated",
        "SELECT v, (SELECT count(*) FROM sensor_history h WHERE h.entity_id = e.id AND h.wind > 0.5) AS n FROM events e",
        Knowledge::AsKnownNow,
    ),
    (
        "united",
        "SELECT max(s['temp']) AS t, count(*) AS n FROM (
             SELECT sensor_at(id, ts) AS s FROM events
             UNION ALL SELECT sensor_at('c', ts - INTERVAL '1 day') FROM events)",
        Knowledge::AsKnownNow,
    ),
    (
        "existing",
        "SELECT e.v FROM events e WHERE EXISTS (SELECT 1 FROM sensor s WHERE s.entity_id = e.id AND s.temp = 1)",
        Knowledge::AsKnownNow,
    ),
    (
        "windowed",
        "SELECT w['wind'] AS wind FROM (
             SELECT first_value(s) OVER (ORDER BY v) AS w FROM (SELECT v, sensor_at(id, ts) AS s FROM events))",
        Knowledge::AsKnownNow,
    ),
    (
        "scalars",
        "SELECT (SELECT sensor_at('a', max(ts)) AS s FROM events)['temp'] AS t,
             (SELECT sensor_at('b', TIMESTAMP '2013-01-01T00:00:00Z') AS s)['wind'] AS w",
        Knowledge::AsKnownNow,
    ),
    (
        "bounds",
        "SELECT entity_id, valid_from, valid_to FROM sensor_history",
        Knowledge::AsKnownNow,
    ),
];

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn id(&mut self) -> &'static str {
        ["a", "b", "c", "d"][self.below(4) as usize]
    }

    /// An instant around the partitions, to six hours.
    fn hour(&mut self) -> u64 {
        6 * self.below(44)
    }

    fn values(&mut self) -> Vec<(&'static str, f64)> {
        let mut values = Vec::new();
        for name in ["temp", "wind"] {
            if self.below(3) > 0 {
                values.push((name, self.below(3) as f64));
            }
        }
        if values.is_empty() {
            values.push(("wind", 1.0));
        }
        values
    }

    fn operation(&mut self) -> Operation {
        let (a, b) = (self.hour(), self.hour());
        let (from, to) = (instant(a.min(b)), instant(a.max(b) + 6));
        match self.below(20) {
            0..8 => put(&from, Some(&to), &self.values()),
            8..10 => put(&from, None, &self.values()),
            10..16 => patch(&from, &to, &self.values()),
            16..19 => end(&from, &to),
            _ => Operation::Erase(pb::Erase {}),
        }
    }
}

/// So many hours after 2012-12-29.
fn instant(hours: u64) -> String {
    let day = hours / 24;
    let (month, day) = if day < 3 {
        ("2012-12", 29 + day)
    } else {
        ("2013-01", day - 2)
    };
    format!("{month}-{day:02}T{:02}:00:00Z", hours % 24)
}

fn spec(name: &str, knowledge: Knowledge) -> pb::BackfillSpec {
    if knowledge == Knowledge::AsKnownThen {
        then(name, ALL.0, ALL.1)
    } else {
        days(name, ALL.0, ALL.1)
    }
}

/// The rows of a table, by day.
async fn rows_by_day(rig: &mut Rig, table: &str) -> BTreeMap<String, Vec<String>> {
    let mut days: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rig.clients.rows(table).await {
        let day = row.split(' ').next().expect("a day").to_owned();
        days.entry(day).or_default().push(row);
    }
    days
}

async fn stale_days(rig: &mut Rig, name: &str) -> BTreeSet<String> {
    let page = rig.stale(name).await;
    page.partitions.into_iter().map(|it| it.label).collect()
}

async fn play(seed: u64, cases: &[Case]) {
    let mut dice = Dice(seed);
    let mut rig = rig().await;
    for &(name, sql, knowledge) in cases {
        let sql = match name {
            "back" => format!("{BACK} ({sql}) b"),
            _ => sql.to_owned(),
        };
        for name in [name.to_owned(), format!("{name}_again")] {
            rig.register(&name, &sql).await;
        }
        rig.clients.run_well(spec(name, knowledge)).await;
    }
    let (mut listed, mut needless) = (0, 0);
    for round in 0..ROUNDS {
        for _ in 0..=dice.below(3) {
            let (id, operation) = (dice.id(), dice.operation());
            rig.say(id, operation).await;
        }
        let mut verdicts = Vec::new();
        for &(name, _, knowledge) in cases {
            let stale = stale_days(&mut rig, name).await;
            let again = format!("{name}_again");
            rig.clients.run_well(spec(&again, knowledge)).await;
            let now = rows_by_day(&mut rig, name).await;
            let truth = rows_by_day(&mut rig, &again).await;
            let all: BTreeSet<_> = now.keys().chain(truth.keys()).cloned().collect();
            let differ = |day: &&String| now.get(*day) != truth.get(*day);
            let differing: BTreeSet<_> = all.iter().filter(differ).cloned().collect();
            let missed: Vec<_> = differing.difference(&stale).collect();
            assert!(
                missed.is_empty(),
                "seed {seed}, round {round}, {name}: {missed:?}"
            );
            listed += stale.len();
            needless += stale.difference(&differing).count();
            verdicts.push(stale);
        }
        // What nobody can see: another time, the same again, an entity that comes after all partitions.
        let planted = [
            ("z", put("2013-01-07", None, &[("temp", 1.0)])),
            ("z", put("2012-01-01", Some("2012-01-02"), &[("temp", 1.0)])),
        ];
        rig.say_all(&planted).await;
        for ((name, _, knowledge), before) in cases.iter().zip(verdicts) {
            assert_eq!(
                stale_days(&mut rig, name).await,
                before,
                "seed {seed}, round {round}, {name}: nothing was to be seen"
            );
            if before.is_empty() || dice.below(2) == 0 {
                continue;
            }
            let only_stale = pb::BackfillSpec {
                reprocess_behavior: ReprocessBehavior::Stale.into(),
                ..spec(name, *knowledge)
            };
            rig.clients.run_well(only_stale).await;
            assert_eq!(stale_days(&mut rig, name).await, BTreeSet::new());
            assert_eq!(
                rows_by_day(&mut rig, name).await,
                rows_by_day(&mut rig, &format!("{name}_again")).await,
                "seed {seed}, round {round}, {name}"
            );
        }
    }
    println!("seed {seed}: {listed} listed, {needless} of them would come out the same");
    assert!(listed > 0);
}

#[tokio::test]
async fn whatever_comes_out_otherwise_was_listed() {
    Box::pin(play(1, &PLAIN)).await;
}

#[tokio::test]
async fn whatever_comes_out_otherwise_was_listed_in_another_world() {
    Box::pin(play(20_130_101, &PLAIN)).await;
}

#[tokio::test]
async fn odd_ways_of_looking_are_followed() {
    Box::pin(play(7, &ODD)).await;
}
