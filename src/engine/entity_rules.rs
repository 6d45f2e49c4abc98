//! What a transform that writes an entity type must keep to, as far as its definition tells.

use datafusion::logical_expr::LogicalPlan;

use super::{
    Error, PinnedInputs, Result,
    entity_output::{EntityColumns, suggestion},
    session::key_type,
};
use crate::catalog::{ColumnDef, EntityOutput, PriorInput, TransformSpec, check_name};

/// Most columns of a key.
const MAX_KEY_COLUMNS: usize = 16;

pub(super) fn check_names(spec: &TransformSpec, output: &EntityOutput) -> Result<()> {
    let EntityOutput { entity_type, key } = output;
    check_name("transform.output_entity.entity_type", entity_type).map_err(Error::Definition)?;
    if !(1..=MAX_KEY_COLUMNS).contains(&key.len()) {
        return Err(Error::definition(
            "transform.output_entity.key",
            format!(
                "it names {} columns: the id of an entity is made of 1 to {MAX_KEY_COLUMNS}",
                key.len()
            ),
        ));
    }
    let reads_itself = spec
        .entities
        .iter()
        .position(|input| input.entity_type == *entity_type);
    if let Some(index) = reads_itself {
        return Err(Error::definition(
            format!("transform.entities[{index}].entity_type"),
            format!(
                "{entity_type:?} is what it writes: it can read what was there before as prior"
            ),
        ));
    }
    Ok(())
}

/// Checks what `prior` needs to be planned.
pub(super) fn check_prior(spec: &TransformSpec, inputs: &PinnedInputs) -> Result<()> {
    let (Some(output), Some(PriorInput { partitions })) = (spec.output.entities(), spec.prior)
    else {
        return Ok(());
    };
    if partitions != Some(1) {
        return Err(Error::definition(
            "transform.prior.partitions",
            "of an entity type, prior is its state just before the partition: only 1 is possible",
        ));
    }
    match inputs.output_type {
        Some(_) => Ok(()),
        None => Err(undeclared(output, "")),
    }
}

/// Checks the query's columns against the entity type. The plan with its rows in the order in which they are written; that of
/// a table as it is.
pub(super) fn check_columns(
    spec: &TransformSpec,
    inputs: &PinnedInputs,
    plan: LogicalPlan,
) -> Result<LogicalPlan> {
    let Some(output) = spec.output.entities() else {
        return Ok(plan);
    };
    let query = plan.schema().as_arrow();
    let Some(entity_type) = &inputs.output_type else {
        return Err(undeclared(
            output,
            &format!("; {}", suggestion(output, query)),
        ));
    };
    let columns = EntityColumns::resolve(output, entity_type, query)?;
    columns.by_id(plan)
}

fn undeclared(output: &EntityOutput, hint: &str) -> Error {
    Error::definition(
        "transform.output_entity.entity_type",
        format!(
            "entity type {:?} does not exist: declare it first, with `hindcast type create` or in the same file{hint}",
            output.entity_type
        ),
    )
}

/// Checks that `prior` was planned with the key's columns as the query gives them.
pub(super) fn check_prior_key(
    spec: &TransformSpec,
    inputs: &PinnedInputs,
    columns: &[ColumnDef],
) -> Result<()> {
    let (Some(output), Some(_), Some(entity_type)) =
        (spec.output.entities(), spec.prior, &inputs.output_type)
    else {
        return Ok(());
    };
    for name in &output.key {
        let planned = key_type(&inputs.transform.columns, name)?;
        let given = key_type(columns, name)?;
        if entity_type.attribute_index(name).is_none() && planned != given {
            return Err(Error::definition(
                "transform.output_columns",
                format!(
                    "prior shows key column {name:?} as a string, and the query gives {given}: declare the output's columns, or \
                     CAST({name} AS VARCHAR)"
                ),
            ));
        }
    }
    Ok(())
}
