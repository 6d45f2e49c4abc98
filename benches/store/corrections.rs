//! One entity that is corrected again and again, in every bad order, against one with 10 versions.

use hindcast::{
    store::{Mutation, Until},
    time::{SysTime, ValidTime},
};

use crate::{
    Fault, Scale,
    bed::{Bed, HOUR, Random, end, put, time_each, until},
    report::{Goal, Report, Rounds},
};

const FEW: i64 = 10;

/// An order of corrections: the mutation at `number` of `count`.
type Pattern = fn(number: i64, count: i64, random: &mut Random) -> Mutation;

const PATTERNS: [(&str, Pattern); 7] = [
    ("append", |number, _, _| hour(number, number)),
    ("same range", |number, _, _| hour(number, 0)),
    ("random ranges", |number, count, random| {
        let from = random.below(count);
        let to = from + 1 + random.below(100);
        put("many", number as f64, from * HOUR, until(to * HOUR))
    }),
    ("newest first", |number, count, _| {
        hour(number, count - number)
    }),
    ("nested", |number, count, _| {
        put(
            "many",
            number as f64,
            number * HOUR,
            until((2 * count - number) * HOUR),
        )
    }),
    ("wide over many", |number, count, random| {
        if number % 100 == 99 {
            return put("many", number as f64, 0, until(count * HOUR));
        }
        hour(number, random.below(count))
    }),
    ("put and end", |number, count, random| {
        let from = random.below(count) * HOUR;
        if number % 2 == 0 {
            put("many", number as f64, from, Until::Forever)
        } else {
            end("many", from, Until::Forever)
        }
    }),
];

fn hour(number: i64, at: i64) -> Mutation {
    put("many", number as f64, at * HOUR, until((at + 1) * HOUR))
}

/// The pattern whose reads are the slowest, and all others.
pub(crate) fn worst_pattern(scale: &Scale, report: &mut Report) -> Result<(), Fault> {
    let count = i64::try_from(scale.corrections)?;
    let mut worst: Option<(Rounds, String)> = None;
    for (name, pattern) in PATTERNS {
        let bed = Bed::new()?;
        bed.load((0..FEW).map(|number| {
            vec![put(
                "few",
                number as f64,
                number * HOUR,
                until((number + 1) * HOUR),
            )]
        }))?;
        let mut random = Random(7);
        let start = bed.clock.monotonic_micros();
        let (first, last) =
            bed.load((0..count).map(|number| vec![pattern(number, count, &mut random)]))?;
        let load_secs = (bed.clock.monotonic_micros() - start) as f64 / 1e6;
        let read = |id: &str, hours: i64, seed: u64| {
            let mut random = Random(seed);
            time_each(&*bed.clock, scale.reads, || {
                for _ in 0..scale.reads {
                    let valid = ValidTime::from_micros(random.below(hours * HOUR));
                    let basis = first.micros() + random.below(last.micros() - first.micros() + 1);
                    bed.store
                        .get(&bed.entity_type, id, valid, SysTime::from_micros(basis))?;
                }
                Ok(())
            })
        };
        let hours = if name == "same range" { 1 } else { count };
        let rounds = Rounds::measure(
            scale.rounds,
            || read("few", FEW, 1),
            || read("many", hours, 2),
        )?;
        let detail = format!(
            "{name}: {:.2} µs against {:.2} µs at {FEW} versions; {count} corrections in {load_secs:.1} s",
            rounds.ours(),
            rounds.bare()
        );
        println!("  {:.2}× {detail}", rounds.cost()[0]);
        if worst
            .as_ref()
            .is_none_or(|(worst, _)| worst.cost()[0] < rounds.cost()[0])
        {
            worst = Some((rounds, detail));
        }
    }
    let (rounds, detail) = worst.ok_or("no pattern")?;
    let what = format!("as-of read, {count} corrections");
    report.ratio(&what, rounds.cost(), Goal::AtMost(3.0), &detail)
}
