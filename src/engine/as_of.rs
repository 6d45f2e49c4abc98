//! `<type>_at(id, ts)`: an entity's state at each row's own instant.

use std::{
    any::Any,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, StructArray, new_null_array},
    datatypes::{DataType, TimeUnit},
};
use datafusion::{
    common::{
        cast::{as_string_array, as_timestamp_microsecond_array},
        exec_err, plan_err,
    },
    error::{DataFusionError, Result},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
    scalar::ScalarValue,
};

use super::reads::Witness;
use crate::{
    store::{EntityType, Store, columns},
    time::{SysTime, ValidTime},
};

/// Where the function reads.
#[derive(Debug, Clone)]
pub(super) enum World {
    /// Nowhere: every answer is null. For planning at registration.
    Unread,
    /// The store, at one basis, before the partition's end.
    Pinned {
        /// What is read.
        store: Store,
        /// What is known.
        basis: SysTime,
        /// Exclusive: an instant at or after it is look-ahead.
        end: ValidTime,
        /// The partition, for the look-ahead error.
        partition: String,
        /// What is told of the instants that are asked for.
        witness: Arc<Witness>,
        /// The place of the entity type among the inputs.
        entity: usize,
    },
}

/// The function of one entity type in one session.
///
/// **Shape**: a struct of the type's attributes and `valid_from`; null where the entity has no value.
/// **Cost**: per batch of rows one sorted pass over the pages of the entities in it.
#[derive(Debug)]
pub(super) struct AsOf {
    name: String,
    entity_type: Arc<EntityType>,
    world: World,
    signature: Signature,
}

impl AsOf {
    pub(super) fn new(entity_type: Arc<EntityType>, world: World) -> Self {
        Self {
            name: format!("{}_at", entity_type.name()),
            entity_type,
            world,
            // Immutable: the world of a session does not change, and equal calls may be computed once.
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    /// What it gives.
    pub(super) fn state_type(&self) -> DataType {
        DataType::Struct(columns::state_fields(&self.entity_type))
    }
}

/// Within a session a function is known by its name.
impl PartialEq for AsOf {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for AsOf {}

impl Hash for AsOf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for AsOf {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [id, instant] = arguments else {
            return plan_err!(
                "{}(id, ts) takes an entity id and an instant, not {} arguments",
                self.name,
                arguments.len()
            );
        };
        let id_fits = matches!(
            id,
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Null
                | DataType::Dictionary(_, _)
        ) || id.is_integer();
        let instant_fits = matches!(
            instant,
            DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 | DataType::Null
        );
        if !id_fits || !instant_fits {
            return plan_err!(
                "{}(id, ts) takes a string (or integer) id and a timestamp (or date), not {id} and {instant}",
                self.name
            );
        }
        Ok(vec![
            DataType::Utf8,
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ])
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.state_type())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let World::Pinned {
            store,
            basis,
            end,
            partition,
            witness,
            entity,
        } = &self.world
        else {
            return Ok(ColumnarValue::Array(new_null_array(
                &self.state_type(),
                arguments.number_rows,
            )));
        };
        let all_scalar = arguments
            .args
            .iter()
            .all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let (Some(ids), Some(instants)) = (arrays.first(), arrays.get(1)) else {
            return exec_err!("{} was called without its two arguments", self.name);
        };
        let ids = as_string_array(ids)?;
        let instants = as_timestamp_microsecond_array(instants)?;
        if let Some(ahead) = instants
            .iter()
            .flatten()
            .find(|&instant| instant >= end.micros())
        {
            return exec_err!(
                "look-ahead: {}(id, {}) reads at or after the end of partition {partition} ({end}); a partition sees only what was before its end",
                self.name,
                ValidTime::from_micros(ahead)
            );
        }
        witness.asked(*entity, ids, instants);
        let states: StructArray = store
            .lookup_batch(&self.entity_type, ids, instants, *basis)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        if all_scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
                &states, 0,
            )?));
        }
        debug_assert_eq!(states.len(), ids.len());
        Ok(ColumnarValue::Array(Arc::new(states)))
    }
}
