//! Records of format 1: one transform, whose fields stood in the spec and in the plan themselves. Events and states had the form
//! that they have now: a plan of one transform numbers its partitions as it did.

use serde_json::{Map, Value, json};

use crate::backfill::model::Record;

/// What the plan said of its transform.
const OF_TRANSFORM: [&str; 9] = [
    "transform",
    "revision",
    "output_table",
    "output_entity",
    "grain",
    "zone",
    "shape",
    "retry",
    "sources",
];

/// A record as it is now.
pub(super) fn upgrade(mut record: Value) -> serde_json::Result<Record> {
    if let Some(spec) = record.get_mut("spec").and_then(Value::as_object_mut) {
        let name = spec.remove("transform");
        let revision = spec.remove("revision");
        let transform = json!({"name": name, "revision": revision});
        spec.insert("transforms".to_owned(), json!([transform]));
    }
    if let Some(plan) = record.get_mut("plan").and_then(Value::as_object_mut) {
        let moved = OF_TRANSFORM.iter();
        let moved = moved.filter_map(|key| Some(((*key).to_owned(), plan.remove(*key)?)));
        let mut transform: Map<String, Value> = moved.collect();
        let count = plan.get("partitions").and_then(Value::as_array);
        let count = count.map_or(0, Vec::len);
        transform.insert("partition_count".to_owned(), json!(count));
        plan.insert("transforms".to_owned(), json!([transform]));
    }
    serde_json::from_value(record)
}
