//! Figures, and whether they meet their goals.

use std::{fs::File, io::Write as _};

use crate::Fault;

/// Which side of the goal is good.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Measured for its own sake.
    None,
}

impl Goal {
    fn verdict(self, median: f64) -> String {
        match self {
            Self::AtLeast(goal) if median >= goal => format!("goal ≥ {goal}: met"),
            Self::AtLeast(goal) => format!("goal ≥ {goal}: NOT met"),
            Self::AtMost(goal) if median <= goal => format!("goal ≤ {goal}: met"),
            Self::AtMost(goal) => format!("goal ≤ {goal}: NOT met"),
            Self::None => "no goal".to_owned(),
        }
    }
}

/// One thing measured in several rounds: median, least, greatest.
pub(crate) struct Value<'a> {
    spread: [f64; 3],
    unit: &'a str,
}

impl<'a> Value<'a> {
    pub(crate) fn of(rounds: &[f64], unit: &'a str) -> Self {
        Self {
            spread: spread(rounds.iter().copied()),
            unit,
        }
    }
}

/// What was measured so far.
pub(crate) struct Report {
    lines: Vec<String>,
    file: Option<File>,
}

/// Medians and ratios of two sides measured in turn; smaller is better.
pub(crate) struct Rounds {
    ours: Vec<f64>,
    bare: Vec<f64>,
}

impl Rounds {
    /// Measures both sides once for warmth, then `rounds` times in turn.
    pub(crate) fn measure(
        rounds: usize,
        mut bare: impl FnMut() -> Result<f64, Fault>,
        mut ours: impl FnMut() -> Result<f64, Fault>,
    ) -> Result<Self, Fault> {
        bare()?;
        ours()?;
        let mut measured = Self {
            ours: Vec::new(),
            bare: Vec::new(),
        };
        for round in 0..rounds {
            // Whoever comes second finds the caches as the first one left them.
            if round % 2 == 0 {
                measured.bare.push(bare()?);
                measured.ours.push(ours()?);
            } else {
                measured.ours.push(ours()?);
                measured.bare.push(bare()?);
            }
        }
        Ok(measured)
    }

    /// Of (bare, ours), as measured.
    pub(crate) fn of(sides: Vec<(f64, f64)>) -> Self {
        let (bare, ours) = sides.into_iter().unzip();
        Self { ours, bare }
    }

    pub(crate) fn ours(&self) -> f64 {
        median(&self.ours)
    }

    pub(crate) fn bare(&self) -> f64 {
        median(&self.bare)
    }

    /// The baseline's cost by ours, per round: median, least, greatest. 1: as fast as the baseline.
    pub(crate) fn speed(&self) -> [f64; 3] {
        spread(
            self.ours
                .iter()
                .zip(&self.bare)
                .map(|(ours, bare)| bare / ours),
        )
    }

    /// Our cost by the baseline's.
    pub(crate) fn cost(&self) -> [f64; 3] {
        spread(
            self.ours
                .iter()
                .zip(&self.bare)
                .map(|(ours, bare)| ours / bare),
        )
    }
}

fn spread(ratios: impl Iterator<Item = f64>) -> [f64; 3] {
    let ratios: Vec<f64> = ratios.collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = ratios.iter().copied().fold(0.0, f64::max);
    [median(&ratios), least, greatest]
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Report {
    pub(crate) fn new() -> Result<Self, Fault> {
        let file = std::env::var_os("HINDCAST_BENCH_FIGURES")
            .map(|path| File::options().create(true).append(true).open(path))
            .transpose()?;
        Ok(Self {
            lines: Vec::new(),
            file,
        })
    }

    /// Takes down a ratio with what it was made of.
    pub(crate) fn ratio(
        &mut self,
        what: &str,
        [median, least, greatest]: [f64; 3],
        goal: Goal,
        detail: &str,
    ) -> Result<(), Fault> {
        let verdict = goal.verdict(median);
        let line = format!(
            "{what:<34} {median:>6.2}× ({least:.2} to {greatest:.2})  {verdict:<20} {detail}"
        );
        println!("{line}");
        self.lines.push(line);
        self.figure(what, median, "ratio")
    }

    /// Takes down something measured, with its unit.
    pub(crate) fn value(
        &mut self,
        what: &str,
        value: Value<'_>,
        goal: Goal,
        detail: &str,
    ) -> Result<(), Fault> {
        let Value {
            spread: [median, least, greatest],
            unit,
        } = value;
        let verdict = goal.verdict(median);
        let line = format!(
            "{what:<34} {median:>6.2} {unit} ({least:.2} to {greatest:.2})  {verdict:<20} {detail}"
        );
        println!("{line}");
        self.lines.push(line);
        self.figure(what, median, unit)
    }

    /// Takes down one number for the figures' file.
    pub(crate) fn figure(&mut self, what: &str, value: f64, unit: &str) -> Result<(), Fault> {
        if let Some(file) = &mut self.file {
            let line = serde_json::json!({ "what": what, "value": value, "unit": unit });
            writeln!(file, "{line}")?;
        }
        Ok(())
    }

    pub(crate) fn print(&self) {
        println!("\nmedian of the rounds (least to greatest)");
        for line in &self.lines {
            println!("{line}");
        }
    }
}
