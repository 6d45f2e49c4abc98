//! A condition over the columns of an entity type, in the dialect of transforms.

use std::{ops::ControlFlow, sync::Arc};

use arrow::{
    array::RecordBatch,
    compute::filter_record_batch,
    datatypes::{DataType, SchemaRef},
};
use datafusion::{
    common::{
        DFSchema,
        cast::as_boolean_array,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    execution::{SessionState, SessionStateBuilder},
    logical_expr::{Expr, ExprSchemable},
    physical_expr::{
        expressions::Column,
        utils::{collect_columns, reassign_expr_columns},
    },
    physical_plan::PhysicalExpr,
    sql::sqlparser::ast::{self, Visit, Visitor},
};

use super::{Error, Result, error::query_message, function_rules::unstable_function};

/// The longest condition, bytes.
pub const MAX_FILTER_BYTES: usize = 16 << 10;
/// The deepest condition. A level takes some 7 KiB of stack in an unoptimized build, and threads that serve requests have
/// 2 MiB.
const MAX_FILTER_DEPTH: usize = 100;

/// A planned condition.
#[derive(Debug)]
pub struct EntityFilter {
    predicate: Arc<dyn PhysicalExpr>,
    columns: Vec<usize>,
}

/// Plans conditions.
#[derive(Debug)]
pub struct FilterPlanner {
    state: SessionState,
}

impl Default for FilterPlanner {
    /// Plans with the functions that transforms have.
    fn default() -> Self {
        Self {
            state: SessionStateBuilder::new().with_default_features().build(),
        }
    }
}

impl FilterPlanner {
    /// Plans `text` over columns of `schema`.
    ///
    /// # Errors
    /// [`Error::Definition`] at `field`: it does not parse or plan, is too long or too deep, is neither true nor false, or
    /// calls what depends on more than the row: subqueries, aggregates, functions of time or chance.
    pub fn plan(&self, field: &str, text: &str, schema: &SchemaRef) -> Result<EntityFilter> {
        let refuse = |problem: String| Error::definition(field, problem);
        let engine_error = |error: DataFusionError| refuse(query_message(&error));
        let size_bytes = text.len();
        if size_bytes > MAX_FILTER_BYTES {
            return Err(refuse(format!(
                "{size_bytes} bytes: at most {MAX_FILTER_BYTES} are possible"
            )));
        }
        let dialect = self.state.config().options().sql_parser.dialect;
        let parsed = self
            .state
            .sql_to_expr_with_alias(text, &dialect)
            .map_err(engine_error)?;
        if parsed.alias.is_some() {
            return Err(refuse("a condition has no name (AS)".to_owned()));
        }
        if let ControlFlow::Break(problem) = parsed.expr.visit(&mut Shape { depth: 0 }) {
            return Err(refuse(problem));
        }
        let schema = DFSchema::try_from(Arc::clone(schema)).map_err(engine_error)?;
        let planned = self
            .state
            .create_logical_expr_from_sql_expr(parsed, &schema)
            .map_err(engine_error)?;
        if let Some(problem) = not_of_the_row(&planned).map_err(engine_error)? {
            return Err(refuse(problem));
        }
        let data_type = planned.get_type(&schema).map_err(engine_error)?;
        if !matches!(data_type, DataType::Boolean | DataType::Null) {
            return Err(refuse(format!(
                "it gives {data_type}, and a condition is true or false"
            )));
        }
        let mut columns = Vec::new();
        for column in planned.column_refs() {
            columns.push(schema.index_of_column(column).map_err(engine_error)?);
        }
        columns.sort_unstable();
        let predicate = self
            .state
            .create_physical_expr(planned, &schema)
            .map_err(engine_error)?;
        Ok(EntityFilter { predicate, columns })
    }
}

impl EntityFilter {
    /// The columns that it reads, ascending, as indices into the schema that it was planned over.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The same condition over batches of another schema, which has the columns that it reads.
    ///
    /// # Errors
    /// A column is not there.
    pub fn over(&self, schema: &SchemaRef) -> Result<Self> {
        let predicate = reassign_expr_columns(Arc::clone(&self.predicate), schema)?;
        let columns = collect_columns(&predicate);
        let mut columns: Vec<_> = columns.iter().map(Column::index).collect();
        columns.sort_unstable();
        Ok(Self { predicate, columns })
    }

    /// The rows of `batch` for which it holds: not those for which it is false or null.
    ///
    /// # Errors
    /// [`Error::Query`]: it fails on a row, such as by a division by zero.
    pub fn retain(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let value = self.predicate.evaluate(batch)?;
        let rows = value.into_array(batch.num_rows())?;
        if *rows.data_type() == DataType::Null {
            return Ok(batch.slice(0, 0));
        }
        let kept = filter_record_batch(batch, as_boolean_array(&rows)?);
        kept.map_err(|error| DataFusionError::from(error).into())
    }
}

/// Refuses conditions that nest too deep, and those that hold queries or parameters.
struct Shape {
    depth: usize,
}

impl Visitor for Shape {
    type Break = String;

    fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<String> {
        ControlFlow::Break("it holds a query, and a condition is about one row".to_owned())
    }

    fn pre_visit_expr(&mut self, expression: &ast::Expr) -> ControlFlow<String> {
        self.depth += 1;
        if self.depth > MAX_FILTER_DEPTH {
            return ControlFlow::Break(format!(
                "it is more than {MAX_FILTER_DEPTH} operators deep; compare with a list (IN)"
            ));
        }
        if let ast::Expr::Value(value) = expression
            && let ast::Value::Placeholder(name) = &value.value
        {
            return ControlFlow::Break(format!("there is no parameter {name}"));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &ast::Expr) -> ControlFlow<String> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// What in a condition depends on more than the row.
fn not_of_the_row(planned: &Expr) -> std::result::Result<Option<String>, DataFusionError> {
    let mut problem = None;
    planned.apply(|part| {
        problem = unstable_function(part)
            .map(|name| {
                format!("{name}() gives another answer each time it runs; write the value itself")
            })
            .or_else(|| {
                let is_of_many = matches!(
                    part,
                    Expr::AggregateFunction(_) | Expr::WindowFunction(_) | Expr::Unnest(_)
                );
                is_of_many.then(|| {
                    "a condition is about one row: no aggregates, windows or unnesting".to_owned()
                })
            });
        Ok(if problem.is_some() {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    })?;
    Ok(problem)
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, Int64Array, StringArray},
        datatypes::{Field, Schema},
    };

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("entity_id", DataType::Utf8, false),
            Field::new("seats", DataType::Int64, true),
            Field::new("model", DataType::Utf8, true),
        ]))
    }

    fn batch() -> RecordBatch {
        RecordBatch::try_new(
            schema(),
            vec![
                Arc::new(StringArray::from(vec!["a", "b", "c"])),
                Arc::new(Int64Array::from(vec![Some(100), None, Some(0)])),
                Arc::new(StringArray::from(vec![Some("737-8"), Some("A320"), None])),
            ],
        )
        .expect("a batch")
    }

    fn kept(text: &str) -> Vec<String> {
        let filter = FilterPlanner::default().plan("filter", text, &schema());
        let kept = filter.expect("plans").retain(&batch()).expect("computes");
        let ids = kept.column(0).as_string::<i32>();
        ids.iter().flatten().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_false_or_null_is_left_out() {
        assert_eq!(kept("seats > 50"), ["a"]);
        assert_eq!(kept("NOT seats > 50"), ["c"]);
        assert_eq!(kept("model LIKE '737%' OR entity_id = 'b'"), ["a", "b"]);
        assert_eq!(kept("seats > 50.5"), ["a"]);
        assert_eq!(kept("true"), ["a", "b", "c"]);
        assert!(kept("null").is_empty());
        assert_eq!(kept("seats IS NULL"), ["b"]);
        assert_eq!(kept("upper(model) IN ('A320', 'B')"), ["b"]);
    }

    #[test]
    fn only_the_columns_it_reads_are_asked_for() {
        let filter = FilterPlanner::default()
            .plan(
                "filter",
                "seats > 5 AND entity_id <> 'x' AND seats < 9",
                &schema(),
            )
            .expect("plans");
        assert_eq!(filter.columns(), [0, 1]);
    }

    #[test]
    fn it_moves_to_batches_of_other_columns() {
        let filter = FilterPlanner::default().plan("filter", "model = 'A320'", &schema());
        let batch = batch().project(&[2, 0]).expect("columns");
        let moved = filter.expect("plans").over(&batch.schema()).expect("moves");
        assert_eq!(moved.columns(), [0]);
        assert_eq!(moved.retain(&batch).expect("computes").num_rows(), 1);
        let without = batch.project(&[1]).expect("columns");
        assert!(moved.over(&without.schema()).is_err());
    }

    #[test]
    fn long_chains_fit_a_small_stack() {
        let chain = vec!["seats = 1"; 95].join(" OR ");
        assert!(kept(&chain).is_empty());
    }

    #[test]
    fn what_is_no_condition_about_one_row_is_refused() {
        let deep = vec!["seats"; 200].join(" + ") + " > 0";
        let nested = "(".repeat(200) + "true" + &")".repeat(200);
        let long = format!("model = '{}'", "x".repeat(MAX_FILTER_BYTES));
        for text in [
            "",
            "seats >",
            "seats > 5 garbage",
            "seats > 5; true",
            "seats > 5 AS named",
            "nothing > 5",
            "thing.seats > 5",
            "seats",
            "seats > 'many' + 1",
            "model > now()",
            "random() > 0.5",
            "count(*) > 1",
            "row_number() OVER () > 1",
            "seats > (SELECT 1)",
            "EXISTS (SELECT 1)",
            "seats IN (SELECT 1)",
            "seats > $partition_start",
            "no_such_function(seats)",
            deep.as_str(),
            nested.as_str(),
            long.as_str(),
        ] {
            let refused = FilterPlanner::default().plan("filter", text, &schema());
            match refused {
                Err(Error::Definition(violation)) => assert_eq!(violation.field, "filter"),
                other => panic!("{text:.40}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_condition_that_fails_on_a_row_says_so() {
        let filter = FilterPlanner::default()
            .plan("filter", "100 / seats > 1", &schema())
            .expect("plans");
        assert!(matches!(filter.retain(&batch()), Err(Error::Query(_))));
    }
}
