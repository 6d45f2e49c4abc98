//! The model: for each commit, what was known of every point of valid time.

use std::collections::BTreeMap;

use hindcast::store::{Mutation, Operation, Until, Value, Version};

/// Valid times are in `0..POINTS`; the store's open ends are points of their own in the model.
pub(super) const POINTS: i64 = 24;
/// The two attributes of a value.
pub(super) type Pair = [Option<String>; 2];

/// A state with the system time of its assertion; `None`: ended.
pub(super) type Owner = Option<(Option<Pair>, i64)>;

/// What is known of each point `0..=POINTS`, where the last stands for all later ones.
pub(super) type Timeline = Vec<Owner>;

/// What is known of everything.
pub(super) type Knowledge = BTreeMap<String, Timeline>;

#[derive(Default)]
pub(super) struct Model {
    /// After each commit, by its system time.
    pub(super) commits: BTreeMap<i64, Knowledge>,
    /// By entity: the basis up to which its answers are erased, exclusive.
    pub(super) erased_until: BTreeMap<String, i64>,
}

impl Model {
    pub(super) fn at(&self, basis: i64) -> Knowledge {
        self.commits
            .range(..=basis)
            .next_back()
            .map(|(_, state)| state.clone())
            .unwrap_or_default()
    }

    pub(super) fn timeline(&self, id: &str, basis: i64) -> Timeline {
        self.at(basis).get(id).cloned().unwrap_or_else(unknown)
    }

    pub(super) fn is_erased(&self, id: &str, basis: i64) -> bool {
        self.erased_until
            .get(id)
            .is_some_and(|&until| basis < until)
    }

    /// Applies what a batch said, at the system time that the store gave it. `false`: it changes nothing.
    pub(super) fn commit(&mut self, at: i64, mutations: &[Mutation]) -> bool {
        let before = self.at(i64::MAX);
        let mut state = before.clone();
        let mut erased_until = self.erased_until.clone();
        let mut gone: Vec<String> = Vec::new();
        for mutation in mutations {
            let id = &mutation.entity_id;
            if mutation.operation == Operation::Erase {
                if state.remove(id).is_some() {
                    gone.push(id.clone());
                    erased_until.insert(id.clone(), i64::MAX);
                }
                continue;
            }
            let timeline = state.entry(id.clone()).or_insert_with(unknown);
            let is_changed = assert_over(timeline, mutation, at);
            if is_changed && erased_until.get(id) == Some(&i64::MAX) {
                erased_until.insert(id.clone(), at);
            }
            if *timeline == unknown() {
                state.remove(id);
            }
        }
        if state == before && gone.is_empty() {
            return false;
        }
        for past in self.commits.values_mut() {
            past.retain(|id, _| !gone.contains(id));
        }
        self.erased_until = erased_until;
        self.commits.insert(at, state);
        true
    }
}

/// Applies one mutation to a timeline. `false`: nothing differs.
pub(super) fn assert_over(timeline: &mut Timeline, mutation: &Mutation, at: i64) -> bool {
    let from = index(mutation.valid_from.expect("given").micros());
    let to = match mutation.until {
        Until::At(to) => index(to.micros()),
        Until::Forever => timeline.len(),
        Until::NextChange => {
            let owner = timeline[from].clone();
            (from..timeline.len())
                .find(|&point| timeline[point] != owner)
                .unwrap_or(timeline.len())
        }
    };
    let mut is_changed = false;
    for owner in timeline.get_mut(from..to).unwrap_or_default() {
        let held = owner.as_ref().map(|(value, _)| value.clone());
        let told = match &mutation.operation {
            Operation::End => None,
            Operation::Put(attributes) => {
                Some(["v", "w"].map(|name| named(attributes, name).flatten()))
            }
            Operation::Patch(attributes) => match held.clone().flatten() {
                None => continue,
                Some([v, w]) => Some([
                    named(attributes, "v").unwrap_or(v),
                    named(attributes, "w").unwrap_or(w),
                ]),
            },
            Operation::Erase => unreachable!("erase has no range"),
        };
        if held.as_ref() != Some(&told) {
            *owner = Some((told, at));
            is_changed = true;
        }
    }
    is_changed
}

/// The value that is told for an attribute; `None`: none is.
pub(super) fn named(
    attributes: &BTreeMap<String, Option<Value>>,
    name: &str,
) -> Option<Option<String>> {
    attributes.get(name).map(|value| match value {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    })
}

pub(super) fn unknown() -> Timeline {
    vec![None; index(POINTS) + 1]
}

pub(super) fn index(point: i64) -> usize {
    usize::try_from(point).expect("a point")
}

pub(super) fn answer_of(owner: &Owner) -> (String, i64) {
    match owner {
        None => ("unknown".to_owned(), 0),
        Some((None, at)) => ("ended".to_owned(), *at),
        Some((Some(value), at)) => (format!("{value:?}"), *at),
    }
}

pub(super) fn told(version: &Version) -> (String, i64) {
    let value = if version.ended {
        "ended".to_owned()
    } else {
        format!("{:?}", pair_of(&version.attributes))
    };
    (value, version.system.from.micros())
}

pub(super) fn pair_of(values: &[Option<Value>]) -> Pair {
    [0, 1].map(|index| match &values[index] {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    })
}

/// The range around `point` with one owner, in the store's terms.
pub(super) fn range_around(timeline: &Timeline, point: usize) -> (i64, Option<i64>) {
    let mut from = point;
    while from > 0 && timeline[from - 1] == timeline[point] {
        from -= 1;
    }
    let end = (point..timeline.len()).find(|&next| timeline[next] != timeline[point]);
    (from as i64, end.map(|end| end as i64))
}
