//! Which transforms read the output of which, tables and entity types. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, Output, Result, TransformSpec};

/// Whether `spec` would read its own output over that of `others`.
///
/// # Errors
/// [`Error::Cycle`] with the way round.
pub(super) fn check_cycle<'a>(
    spec: &'a TransformSpec,
    others: impl Iterator<Item = &'a TransformSpec>,
) -> Result<()> {
    let writers = writers(others.chain([spec]));
    let mut walk = Walk {
        writers: &writers,
        path: Vec::new(),
        done: BTreeSet::new(),
        order: Vec::new(),
    };
    walk.visit(spec)
}

/// `specs` in an order in which each comes after those whose output it reads; otherwise by name.
///
/// # Errors
/// [`Error::Cycle`] where there is none: some read each other's output in a circle.
pub fn upstream_first(specs: &[&TransformSpec]) -> Result<Vec<String>> {
    let writers = writers(specs.iter().copied());
    let mut walk = Walk {
        writers: &writers,
        path: Vec::new(),
        done: BTreeSet::new(),
        order: Vec::new(),
    };
    let mut sorted = specs.to_vec();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for spec in sorted {
        walk.visit(spec)?;
    }
    Ok(walk.order)
}

/// What can be written, by name: a table and an entity type of one name are two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place<'a> {
    Table(&'a str),
    EntityType(&'a str),
}

impl<'a> Place<'a> {
    fn of(output: &'a Output) -> Self {
        match output {
            Output::Table(name) => Self::Table(name),
            Output::Entities(output) => Self::EntityType(&output.entity_type),
        }
    }

    /// All that `spec` reads.
    fn read_by(spec: &'a TransformSpec) -> impl Iterator<Item = Self> {
        let tables = spec.tables.iter().map(|input| Self::Table(&input.table));
        let types = spec.entities.iter();
        tables.chain(types.map(|input| Self::EntityType(&input.entity_type)))
    }
}

type Writers<'a> = BTreeMap<Place<'a>, &'a TransformSpec>;

/// The transform that writes each place.
fn writers<'a>(specs: impl Iterator<Item = &'a TransformSpec>) -> Writers<'a> {
    specs.map(|spec| (Place::of(&spec.output), spec)).collect()
}

/// A walk upstream, depth first.
struct Walk<'a> {
    writers: &'a Writers<'a>,
    /// From where it began to where it is.
    path: Vec<&'a str>,
    done: BTreeSet<&'a str>,
    /// Those that are done, in the order in which they were.
    order: Vec<String>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, spec: &'a TransformSpec) -> Result<()> {
        if self.done.contains(spec.name.as_str()) {
            return Ok(());
        }
        if let Some(place) = self.path.iter().position(|name| *name == spec.name) {
            let mut path: Vec<_> = self.path.iter().skip(place).copied().collect();
            path.push(&spec.name);
            return Err(Error::Cycle {
                path: path.into_iter().map(str::to_owned).collect(),
            });
        }
        self.path.push(&spec.name);
        for writer in Place::read_by(spec).filter_map(|place| self.writers.get(&place)) {
            self.visit(writer)?;
        }
        self.path.pop();
        self.done.insert(&spec.name);
        self.order.push(spec.name.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{EntityInput, EntityOutput, RetryPolicy, TableInput},
        time::Grain,
    };

    fn spec(name: &str, reads: &[&str]) -> TransformSpec {
        let input = |table: &&str| TableInput {
            table: format!("{table}_table"),
            lookback_micros: 0,
        };
        TransformSpec {
            name: name.to_owned(),
            sql: String::new(),
            sources: Vec::new(),
            entities: Vec::new(),
            tables: reads.iter().map(input).collect(),
            calls: Vec::new(),
            prior: None,
            output: Output::Table(format!("{name}_table")),
            grain: Grain::Daily,
            zone: chrono_tz::UTC,
            retry: RetryPolicy::default(),
            description: String::new(),
            output_columns: Vec::new(),
        }
    }

    #[test]
    fn upstream_comes_first_whatever_the_order() {
        let specs = [
            spec("a", &["d", "c"]),
            spec("b", &[]),
            spec("c", &["d"]),
            spec("d", &["elsewhere"]),
        ];
        for turn in 0..4 {
            let turned: Vec<_> = (0..4).map(|at| &specs[(at + turn) % 4]).collect();
            let order = upstream_first(&turned).expect("no circle");
            assert_eq!(order, ["d", "c", "a", "b"]);
        }
    }

    #[test]
    fn a_circle_is_told_with_the_way_round() {
        let others = [spec("b", &["c"]), spec("c", &["a"]), spec("x", &["b"])];
        let error = check_cycle(&spec("a", &["b"]), others.iter()).expect_err("a circle");
        assert_eq!(
            error.to_string(),
            "transforms would read each other's output in a circle: a reads b reads c reads a"
        );
        assert!(check_cycle(&spec("x", &["b"]), others.iter()).is_ok());
    }

    #[test]
    fn a_circle_may_go_over_entity_types() {
        let writes = |name: &str, reads: &[&str]| TransformSpec {
            output: Output::Entities(EntityOutput {
                entity_type: format!("{name}_type"),
                key: vec!["id".to_owned()],
            }),
            ..spec(name, reads)
        };
        let reads = |of: &str, spec: TransformSpec| TransformSpec {
            entities: vec![EntityInput {
                entity_type: of.to_owned(),
                at_partition_start: false,
            }],
            ..spec
        };
        let others = [
            reads("a_type", writes("b", &[])),
            reads("b_type", spec("c", &[])),
        ];
        let closing = [writes("a", &["c"]), reads("b_type", writes("a", &[]))];
        let ways = ["a reads c reads b reads a", "a reads b reads a"];
        for (spec, way) in closing.iter().zip(ways) {
            let error = check_cycle(spec, others.iter()).expect_err("a circle");
            assert!(error.to_string().ends_with(way), "{error}");
        }
        // A table of the name is another thing.
        let apart = reads("c_table", writes("a", &[]));
        assert!(check_cycle(&apart, others.iter()).is_ok());
    }
}
