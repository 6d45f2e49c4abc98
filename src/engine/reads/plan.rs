//! Reading a footprint off an optimised plan.
//!
//! Of a scan, the projection says which columns it gives. `<type>_at` gives a struct, and which of its fields are used is
//! found by following it: a struct that is only passed on, by a projection, is not used there; a field that is taken out of
//! it is; whatever else happens to it uses all of it. It is followed by its type, so two entity types with the same
//! attributes are taken for one another: too much, never too little.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        Result,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Distinct, Expr, LogicalPlan, TableScan},
};

use super::{EVERY_ATTRIBUTE, EntityRead, Reads, Sight, TableRead, Witness};
use crate::{
    engine::{
        PinnedInputs,
        as_of::AsOf,
        session::{PRIOR, PRIOR_STATE},
    },
    store::columns,
    time::{Interval, Partition},
};

/// The columns that one look uses.
#[derive(Debug, Clone, Default)]
struct Used {
    attributes: BTreeSet<String>,
    valid_from: bool,
    valid_to: bool,
}

impl Used {
    fn column(&mut self, name: &str) {
        match name {
            "entity_id" => {}
            "valid_from" => self.valid_from = true,
            "valid_to" => self.valid_to = true,
            attribute => {
                self.attributes.insert(attribute.to_owned());
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.attributes.extend(other.attributes);
        self.valid_from |= other.valid_from;
        self.valid_to |= other.valid_to;
    }

    fn all(&mut self) {
        self.attributes.insert(EVERY_ATTRIBUTE.to_owned());
        self.valid_from = true;
    }
}

/// An entity input, and how the plan looks at it.
struct Entity {
    name: String,
    history: String,
    state_type: DataType,
    table: Option<Used>,
    versions: Option<Used>,
    lookups: Used,
}

/// The plan's own part of a footprint: what it names.
pub(in crate::engine) struct PlanReads {
    entities: Vec<Entity>,
    /// Other tables: sources, and functions that give rows.
    scanned: BTreeSet<String>,
    prior: bool,
    /// The columns of the entity type behind `prior`.
    prior_entities: Option<Used>,
}

/// What a query names of `inputs`: as it was written, and optimised. `witness` tells whether functions were called already
/// while it was optimised: such calls left nothing behind, and are followed in the query as it was written.
pub(in crate::engine) fn of_plan(
    written: &LogicalPlan,
    optimized: &LogicalPlan,
    inputs: &PinnedInputs,
    witness: &Witness,
) -> Result<PlanReads> {
    let mut reads = walk(optimized, inputs)?;
    let is_called = |index| witness.range(index).is_some();
    if (0..inputs.entities.len()).any(is_called) {
        let all = walk(written, inputs)?;
        for (entity, all) in reads.entities.iter_mut().zip(all.entities) {
            entity.lookups.add(all.lookups);
        }
    }
    Ok(reads)
}

fn walk(plan: &LogicalPlan, inputs: &PinnedInputs) -> Result<PlanReads> {
    let entities = inputs.entities.iter().map(|entity| {
        let name = entity.entity_type.name().to_owned();
        Entity {
            history: format!("{name}_history"),
            name,
            state_type: DataType::Struct(columns::state_fields(&entity.entity_type)),
            table: None,
            versions: None,
            lookups: Used::default(),
        }
    });
    let mut reads = PlanReads {
        entities: entities.collect(),
        scanned: BTreeSet::new(),
        prior: false,
        prior_entities: None,
    };
    for field in plan.schema().fields() {
        reads.uses_all(field.data_type());
    }
    plan.apply_with_subqueries(|node| {
        reads.node(node)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(reads)
}

impl PlanReads {
    /// The whole footprint, once the partition has run.
    pub(in crate::engine) fn finish(
        self,
        inputs: &PinnedInputs,
        partition: &Partition,
        witness: &Witness,
    ) -> Reads {
        let mut entities = Vec::new();
        let window = Interval::new(partition.start, partition.end);
        for (index, (entity, pinned)) in self.entities.into_iter().zip(&inputs.entities).enumerate()
        {
            let mut add = |sight, used: Used, ids| {
                entities.push(EntityRead {
                    entity_type: entity.name.clone(),
                    sight,
                    attributes: used.attributes.into_iter().collect(),
                    valid_from: used.valid_from,
                    valid_to: used.valid_to,
                    ids,
                    basis: None,
                });
            };
            if let Some(used) = entity.table {
                add(Sight::State(pinned.shown_at(window)), used, None);
            }
            if let Some(used) = entity.versions {
                add(Sight::Versions(window), used, None);
            }
            if let Some(range) = witness.range(index) {
                add(Sight::States(range), entity.lookups, witness.ids(index));
            }
        }
        let prior_entities = self.prior_entities.zip(witness.prior_entities.get());
        if let Some(((used, (instant, basis)), entity_type)) =
            prior_entities.zip(inputs.output_type.as_ref())
        {
            entities.push(EntityRead {
                entity_type: entity_type.name().to_owned(),
                sight: Sight::State(*instant),
                attributes: used.attributes.into_iter().collect(),
                valid_from: used.valid_from,
                valid_to: used.valid_to,
                ids: None,
                basis: Some(*basis),
            });
        }
        let seen = witness.tables.lock();
        let tables = seen
            .iter()
            .filter(|(name, _)| self.scanned.contains(*name))
            .map(|(table, files)| TableRead {
                table: table.clone(),
                files: files.clone(),
            })
            .collect();
        let is_source = |name: &String| {
            inputs
                .sources
                .iter()
                .any(|source| source.source.name == *name)
        };
        Reads {
            tables,
            entities,
            sources: self.scanned.into_iter().filter(is_source).collect(),
            prior: witness.prior.get().filter(|_| self.prior).cloned(),
        }
    }

    fn node(&mut self, node: &LogicalPlan) -> Result<()> {
        if let LogicalPlan::TableScan(scan) = node {
            self.scan(scan);
        }
        if let LogicalPlan::Distinct(Distinct::All(input)) = node {
            for field in input.schema().fields() {
                self.uses_all(field.data_type());
            }
        }
        let passes_on = matches!(node, LogicalPlan::Projection(_));
        node.apply_expressions(|expression| {
            self.expression(expression, node, passes_on);
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(())
    }

    fn scan(&mut self, scan: &TableScan) {
        let name = scan.table_name.table();
        let schema = scan.source.schema();
        let all = || (0..schema.fields().len()).collect();
        let projection: Vec<usize> = scan.projection.clone().unwrap_or_else(all);
        let used = |used: &mut Option<Used>| {
            let used = used.get_or_insert_default();
            for index in &projection {
                used.column(schema.field(*index).name());
            }
        };
        for entity in &mut self.entities {
            if entity.name == name {
                return used(&mut entity.table);
            }
            if entity.history == name {
                return used(&mut entity.versions);
            }
        }
        if name == PRIOR_STATE {
            return used(&mut self.prior_entities);
        }
        if name == PRIOR {
            self.prior = true;
        } else {
            self.scanned.insert(name.to_owned());
        }
    }

    /// Notes what `expression` uses. `passes_on`: a struct that it is, is only handed to the next node.
    fn expression(&mut self, expression: &Expr, node: &LogicalPlan, passes_on: bool) {
        if let Expr::Alias(alias) = expression {
            return self.expression(&alias.expr, node, passes_on);
        }
        if let Expr::ScalarSubquery(query) = expression {
            // What becomes of its answer is not followed.
            for field in query.subquery.schema().fields() {
                self.uses_all(field.data_type());
            }
        }
        if let Expr::IsNull(inner) | Expr::IsNotNull(inner) = expression
            && let Some(state_type) = self.state_type(inner, node)
        {
            // Only whether it is there.
            return self.inside(inner, &state_type, node);
        }
        if let Expr::ScalarFunction(call) = expression
            && call.func.name() == "get_field"
            && let [base, Expr::Literal(field, _), ..] = call.args.as_slice()
            && let Some(state_type) = self.state_type(base, node)
        {
            match field.try_as_str() {
                Some(Some(name)) => self.uses(&state_type, name),
                Some(None) | None => self.uses_all(&state_type),
            }
            return self.inside(base, &state_type, node);
        }
        if let Some(state_type) = self.state_type(expression, node) {
            if !passes_on {
                self.uses_all(&state_type);
            }
            return self.inside(expression, &state_type, node);
        }
        self.children(expression, node);
    }

    /// Goes on within an expression that gives a struct whose use is noted. What is not the function itself or a column makes
    /// one of several (CASE, coalesce): these uses are not followed.
    fn inside(&mut self, expression: &Expr, state_type: &DataType, node: &LogicalPlan) {
        let is_plain = as_of(expression).is_some()
            || matches!(expression, Expr::Column(_) | Expr::OuterReferenceColumn(..));
        if !is_plain {
            self.uses_all(state_type);
        }
        self.children(expression, node);
    }

    fn children(&mut self, expression: &Expr, node: &LogicalPlan) {
        let visited = expression.apply_children(|child| {
            self.expression(child, node, false);
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(visited.is_ok(), "nothing in it fails");
    }

    /// The type of an expression that gives a state; `None`: it gives something else.
    fn state_type(&self, expression: &Expr, node: &LogicalPlan) -> Option<DataType> {
        let data_type = if let Expr::Column(column) = expression {
            node.inputs().iter().find_map(|input| {
                let (_, field) = input.schema().qualified_field_from_column(column).ok()?;
                Some(field.data_type().clone())
            })?
        } else if let Expr::OuterReferenceColumn(field, _) = expression {
            field.data_type().clone()
        } else {
            as_of(expression)?.state_type()
        };
        let is_state = |entity: &Entity| entity.state_type == data_type;
        self.entities.iter().any(is_state).then_some(data_type)
    }

    fn of_type(&mut self, state_type: &DataType) -> impl Iterator<Item = &mut Used> {
        let entities = self.entities.iter_mut();
        entities
            .filter(move |entity| entity.state_type == *state_type)
            .map(|entity| &mut entity.lookups)
    }

    fn uses(&mut self, state_type: &DataType, field: &str) {
        self.of_type(state_type).for_each(|used| used.column(field));
    }

    fn uses_all(&mut self, state_type: &DataType) {
        self.of_type(state_type).for_each(Used::all);
    }
}

/// The function of an entity type that `expression` calls.
fn as_of(expression: &Expr) -> Option<&AsOf> {
    let Expr::ScalarFunction(call) = expression else {
        return None;
    };
    Arc::as_ref(call.func.inner()).as_any().downcast_ref()
}
