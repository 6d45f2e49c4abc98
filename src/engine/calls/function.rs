//! An external call as a function of a session.

use std::{
    any::Any,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray, TimestampMicrosecondArray, new_null_array},
    compute::cast,
    datatypes::{DataType, TimeUnit, TimestampMicrosecondType},
};
use async_trait::async_trait;
use datafusion::{
    common::{exec_err, plan_err},
    error::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
        async_udf::AsyncScalarUDFImpl,
    },
};

use crate::{
    calls::{CallRun, Definition, Question},
    time::ValidTime,
};

/// Whom the function asks.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    /// Nobody: every answer is null. For planning at registration.
    Nobody,
    /// What is outside, on behalf of a partition.
    Outside {
        /// The attempt's calls.
        run: CallRun,
        /// Exclusive: an instant at or after it is look-ahead.
        end: ValidTime,
        /// The partition, for the look-ahead error.
        partition: String,
    },
}

/// The function of one call in one session.
///
/// **Shape**: a struct of the call's columns; null where an argument is null.
/// **Cost**: per batch of rows (8,192 at most) a look-up of the answers that are kept, and the requests for the others.
#[derive(Debug)]
pub(super) struct CallFunction {
    definition: Arc<Definition>,
    asked: Asked,
    signature: Signature,
}

impl CallFunction {
    pub(super) fn new(definition: Arc<Definition>, asked: Asked) -> Self {
        // To the planner it is volatile: what never changes may be computed while it plans, and anywhere in the plan. Functions
        // that wait cannot say how their arguments are coerced: they are checked and cast here.
        let signature = Signature::any(definition.arguments().len(), Volatility::Volatile);
        Self {
            definition,
            asked,
            signature,
        }
    }

    /// `name(id, valid_time)`.
    fn usage(&self) -> String {
        let arguments = self.definition.arguments().join(", ");
        format!("{}({arguments})", self.definition.name())
    }

    fn instant_type() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    /// Refuses arguments of other types than placeholders can take.
    fn check_arguments(&self, arguments: &[DataType]) -> Result<()> {
        let place = self.definition.valid_time();
        let named = self.definition.arguments().iter().zip(arguments);
        for (index, (name, given)) in named.enumerate() {
            if Some(index) == place {
                if !is_instant(given) && *given != DataType::Null {
                    return plan_err!("{}: {name} is a timestamp, not {given}", self.usage());
                }
            } else if is_instant(given) {
                return plan_err!(
                    "{}: {name} is {given}: only {{valid_time}} is held to the partition's time, so no other placeholder takes an instant or a date",
                    self.usage()
                );
            } else if !is_text(given) {
                return plan_err!(
                    "{}: {name} is a string, an integer or a boolean, not {given}",
                    self.usage()
                );
            }
        }
        Ok(())
    }

    /// The arguments as texts, and as instants.
    fn cast(&self, arguments: &[ColumnarValue], rows: usize) -> Result<Vec<ArrayRef>> {
        let place = self.definition.valid_time();
        let mut arrays = Vec::with_capacity(arguments.len());
        for (index, argument) in arguments.iter().enumerate() {
            let wanted = if Some(index) == place {
                Self::instant_type()
            } else {
                DataType::Utf8
            };
            arrays.push(cast(&argument.to_array(rows)?, &wanted)?);
        }
        Ok(arrays)
    }

    /// The rows' questions; `None` where an argument is null.
    fn questions(
        &self,
        arrays: &[ArrayRef],
        rows: usize,
        end: ValidTime,
        partition: &str,
    ) -> Result<Vec<Option<Question>>> {
        let place = self.definition.valid_time();
        let mut texts: Vec<(&StringArray, usize)> = Vec::new();
        let mut instants: Option<&TimestampMicrosecondArray> = None;
        for (index, array) in arrays.iter().enumerate() {
            if Some(index) == place {
                instants = array.as_primitive_opt::<TimestampMicrosecondType>();
            } else if let Some(text) = array.as_string_opt::<i32>() {
                texts.push((text, index));
            }
        }
        if texts.len() + usize::from(instants.is_some()) != self.definition.arguments().len() {
            return exec_err!("{} was called with other arguments", self.usage());
        }
        let mut questions = Vec::with_capacity(rows);
        for row in 0..rows {
            if arrays.iter().any(|array| array.is_null(row)) {
                questions.push(None);
                continue;
            }
            let valid_time = instants.map(|instants| ValidTime::from_micros(instants.value(row)));
            if let Some(ahead) = valid_time.filter(|instant| *instant >= end) {
                return exec_err!(
                    "look-ahead: {} asks about {ahead}, at or after the end of partition {partition} ({end}); a partition sees only what was before its end",
                    self.usage()
                );
            }
            let mut values = vec![String::new(); arrays.len()];
            for (text, index) in &texts {
                if let Some(value) = values.get_mut(*index) {
                    text.value(row).clone_into(value);
                }
            }
            if let (Some(place), Some(instant)) = (place, valid_time)
                && let Some(value) = values.get_mut(place)
            {
                *value = instant.to_string();
            }
            questions.push(Some(Question { values, valid_time }));
        }
        Ok(questions)
    }
}

/// Within a session a function is known by its name.
impl PartialEq for CallFunction {
    fn eq(&self, other: &Self) -> bool {
        self.definition.name() == other.definition.name()
    }
}

impl Eq for CallFunction {}

impl Hash for CallFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.definition.name().hash(state);
    }
}

impl ScalarUDFImpl for CallFunction {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.definition.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.check_arguments(arguments)?;
        Ok(self.definition.answer_type())
    }

    fn invoke_with_args(&self, _arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("{} cannot be called here", self.usage())
    }
}

/// What a column holds, however it is laid out.
fn value_type(data_type: &DataType) -> &DataType {
    if let DataType::Dictionary(_, values) = data_type {
        return value_type(values);
    }
    data_type
}

fn is_instant(data_type: &DataType) -> bool {
    matches!(
        value_type(data_type),
        DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64
    )
}

fn is_text(data_type: &DataType) -> bool {
    let data_type = value_type(data_type);
    matches!(
        data_type,
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Boolean
            | DataType::Null
    ) || data_type.is_integer()
}

#[async_trait]
impl AsyncScalarUDFImpl for CallFunction {
    async fn invoke_async_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let Asked::Outside {
            run,
            end,
            partition,
        } = &self.asked
        else {
            let nothing = new_null_array(&self.definition.answer_type(), rows);
            return Ok(ColumnarValue::Array(nothing));
        };
        let questions = {
            let arrays = self.cast(&arguments.args, rows)?;
            self.questions(&arrays, rows, *end, partition)?
        };
        let answers = run.answer(&self.definition, &questions).await;
        answers
            .map(ColumnarValue::Array)
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_is_what_its_values_are() {
        let of =
            |values: DataType| DataType::Dictionary(Box::new(DataType::Int32), Box::new(values));
        let instant = DataType::Timestamp(TimeUnit::Millisecond, None);
        for (values, text, is_time) in [
            (DataType::Utf8, true, false),
            (DataType::Int64, true, false),
            (instant, false, true),
            (DataType::Date32, false, true),
            (DataType::Float64, false, false),
        ] {
            let found = (
                is_text(&of(values.clone())),
                is_instant(&of(values.clone())),
            );
            assert_eq!(found, (text, is_time), "{values}");
        }
    }
}
