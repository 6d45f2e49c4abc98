//! The wire's messages as JSON: field names as in the protos, every field present, in the protos' order.
//!
//! Times are RFC 3339 strings, durations strings such as `"1.5s"`, 64-bit integers numbers, unset messages `null`. Enums
//! are their proto names without the enum's own prefix: `"SUCCEEDED"`. Attribute values are plain JSON: decimals,
//! timestamps and dates are strings, bytes are base64, `json` attributes are the document itself.

use std::collections::{BTreeMap, HashMap};

use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};

use super::{base64, times};
use crate::pb::{self, value::Kind};

/// Something that has a JSON form.
pub(crate) trait ToJson {
    /// Serialises that form.
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
}

/// Hands a message to serde.
pub(crate) struct Json<'a, T>(pub(crate) &'a T);

impl<T: ToJson> Serialize for Json<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.to_json(serializer)
    }
}

macro_rules! plain {
    ($($ty:ty),+) => { $(
        impl ToJson for $ty {
            fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.serialize(serializer)
            }
        }
    )+ };
}
plain!(bool, u32, u64, i64, f64, String);

impl<T: ToJson> ToJson for Option<T> {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(value) => value.to_json(serializer),
            None => serializer.serialize_none(),
        }
    }
}

impl<T: ToJson> ToJson for Vec<T> {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(self.len()))?;
        for item in self {
            sequence.serialize_element(&Json(item))?;
        }
        sequence.end()
    }
}

impl<T: ToJson> ToJson for HashMap<String, T> {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sorted: BTreeMap<_, _> = self.iter().collect();
        serializer.collect_map(sorted.into_iter().map(|(key, value)| (key, Json(value))))
    }
}

impl ToJson for prost_types::Timestamp {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&times::show(self))
    }
}

impl ToJson for prost_types::Duration {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!(
            "{}s",
            times::from_wire_duration(self).as_secs_f64()
        ))
    }
}

impl ToJson for pb::Value {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.kind {
            None => serializer.serialize_none(),
            Some(Kind::BoolValue(value)) => serializer.serialize_bool(*value),
            Some(Kind::Int64Value(value)) => serializer.serialize_i64(*value),
            Some(Kind::Float64Value(value)) => serializer.serialize_f64(*value),
            Some(Kind::DecimalValue(text) | Kind::StringValue(text) | Kind::DateValue(text)) => {
                serializer.serialize_str(text)
            }
            Some(Kind::BytesValue(bytes)) => serializer.serialize_str(&base64::encode(bytes)),
            Some(Kind::TimestampValue(instant)) => instant.to_json(serializer),
            Some(Kind::JsonValue(text)) => match serde_json::from_str::<serde_json::Value>(text) {
                Ok(document) => document.serialize(serializer),
                Err(_) => serializer.serialize_str(text),
            },
        }
    }
}

/// An enum of the wire, which messages carry as `i32`.
pub(crate) trait WireEnum: TryFrom<i32> {
    /// What every proto name of it starts with.
    const PREFIX: &'static str;

    /// The proto name.
    fn proto_name(&self) -> &'static str;
}

/// `3` as `"AT_BASIS"`; a number that this client does not know as itself.
pub(crate) fn enum_name<E: WireEnum>(number: i32) -> String {
    match E::try_from(number) {
        Ok(value) => value
            .proto_name()
            .strip_prefix(E::PREFIX)
            .unwrap_or(value.proto_name())
            .to_owned(),
        Err(_) => number.to_string(),
    }
}

macro_rules! wire_enum {
    ($($ty:ident: $prefix:literal),+ $(,)?) => { $(
        impl WireEnum for pb::$ty {
            const PREFIX: &'static str = $prefix;
            fn proto_name(&self) -> &'static str {
                self.as_str_name()
            }
        }
    )+ };
}
wire_enum!(
    Grain: "GRAIN_",
    AttributeKind: "ATTRIBUTE_KIND_",
    EntityOutcome: "ENTITY_OUTCOME_",
    EntityTypeState: "ENTITY_TYPE_STATE_",
    SourceFormat: "SOURCE_FORMAT_",
    Knowledge: "KNOWLEDGE_",
    BackfillState: "BACKFILL_STATE_",
    PartitionState: "PARTITION_STATE_",
    PartitionAction: "PARTITION_ACTION_",
    DependencyShape: "DEPENDENCY_SHAPE_",
    ReprocessBehavior: "REPROCESS_BEHAVIOR_",
    EntityDifference: "ENTITY_DIFFERENCE_",
    FileChange: "FILE_CHANGE_",
);

/// Messages as objects. They are taken apart field by field, so that a new field of the protos breaks the build here.
macro_rules! messages {
    ($($($ty:ident)::+ { $($field:ident $(: $kind:ident)?),* $(,)? })+) => { $(
        impl ToJson for pb::$($ty)::+ {
            fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let pb::$($ty)::+ { $($field),* } = self;
                let mut map = serializer.serialize_map(None)?;
                $( messages!(@entry map $field $($kind)?); )*
                map.end()
            }
        }
    )+ };
    (@entry $map:ident $field:ident) => {
        $map.serialize_entry(messages!(@name $field), &Json($field))?
    };
    (@entry $map:ident $field:ident $kind:ident) => {
        $map.serialize_entry(messages!(@name $field), &enum_name::<pb::$kind>(*$field))?
    };
    (@name $field:ident) => {
        stringify!($field).trim_start_matches("r#")
    };
}

messages! {
    Column { name, r#type, nullable }
    Attribute { name, kind: AttributeKind, precision, scale, description, deprecated }
    EntityType {
        name, attributes, description, create_time, first_known_time, state: EntityTypeState, revision, revision_time,
        written_by,
    }
    CreateEntityTypeResponse { entity_type, created }
    UpdateEntityTypeResponse { entity_type, updated }
    ListEntityTypeRevisionsResponse { revisions }
    FinishImportResponse { entity_type }
    ListEntityTypesResponse { entity_types }
    WriteResponse { system_time, versions_written, replayed }
    Version { entity_id, attributes, valid_from, valid_to, system_from, system_to, ended }
    GetEntityResponse { outcome: EntityOutcome, version, valid_time, basis }
    BatchGetEntitiesResponse { entities, valid_time, basis }
    batch_get_entities_response::Entity { entity_id, outcome: EntityOutcome, version }
    ListChangesResponse { system_time, changes, resume_token, heartbeat }
    list_changes_response::Change { entity_type, entity_id, valid_from, valid_to, before, after }
    list_changes_response::State { outcome: EntityOutcome, attributes }
    ListHistoryResponse { versions, next_page_token, basis }

    PermitRate { permits, per }
    PermitWindow { permits, time_zone }
    RateLimit {
        name, description, rate, burst, concurrent, hourly, daily, live_share_percent, create_time, update_time, status,
    }
    RateLimitStatus {
        effective_permits_per_second, effective_concurrent, blocked, in_flight, waiting, granted, throttled_count, hour, day,
    }
    CountByClass { live, backfill }
    WindowUse { used, reset_time }
    CreateRateLimitResponse { rate_limit, created }
    ListRateLimitsResponse { rate_limits }
    AcquirePermitsResponse { waited, lease_id }

    HivePartition { column, format, grain: Grain, time_zone }
    Source {
        name, format: SourceFormat, location, event_time_column, available_at_column, hive, csv_delimiter, csv_types,
        description, columns, create_time, file_count, size_bytes,
    }
    CreateSourceResponse { source, created }
    ListSourcesResponse { sources }
    SourceInput { source, lookback }
    EntityInput { entity_type, at_partition_start }
    TableInput { table, lookback }
    PriorInput { partitions }
    RetryPolicy { max_attempts, initial_backoff, max_backoff, attempt_timeout }
    Transform {
        name, sql, sources, entities, prior, output_table, grain: Grain, time_zone, retry, description, output_columns,
        output_entity, tables, calls, revision, create_time, columns,
    }
    Call { name, url, headers, rate_limit, timeout, retries, columns, allow_current_state }
    CallHeader { name, value }
    CallColumn { name, r#type, path }
    EntityOutput { entity_type, key }
    RegisterTransformResponse { transform, created }
    ListTransformsResponse { transforms }
    Table {
        name, location, metadata_location, current_snapshot_id, row_count, file_count, size_bytes, columns, transform,
        snapshots, partitions,
    }
    TableSnapshot { snapshot_id, commit_time, operation, row_count, backfill, partition_count }
    TablePartition { start, row_count, file_count, size_bytes }
    ListTablesResponse { tables }

    BackfillSpec {
        transform, revision, from, to, knowledge: Knowledge, basis, availability_delay, max_active_partitions,
        max_attempts, labels, attempt_timeout, stop_on_first_failure, run_backwards,
        reprocess_behavior: ReprocessBehavior, priority, transforms, partitions_per_task, refresh_calls,
    }
    TransformRevision { transform, revision }
    PlanEstimate { per_partition, total, sample_count, same_revision }
    PlannedPartition {
        label, start, end, action: PartitionAction, skip_reason, basis, file_count, transform, upstream_count, run_reason,
    }
    Plan {
        transform, revision, output_table, knowledge: Knowledge, dependency_shape: DependencyShape,
        max_active_partitions, partitions, warnings, plan_hash, estimate, max_attempts, attempt_timeout,
        stop_on_first_failure, run_backwards, output_entity_type, partitions_per_task, transforms,
    }
    PlannedTransform {
        transform, revision, output_table, dependency_shape: DependencyShape, grain: Grain, time_zone, max_attempts,
        attempt_timeout, tables, partition_count, output_entity_type,
    }
    PlannedTable { table, lookback, transform, snapshot_id }
    PartitionCounts {
        pending, blocked, running, waiting_retry, succeeded, failed, upstream_failed, skipped, cancelled,
    }
    Backfill {
        name, state: BackfillState, spec, output_table, time_zone, grain: Grain, dependency_shape: DependencyShape,
        partition_counts, create_time, start_time, end_time, rows_read, rows_written, last_sequence,
        parent, root, output_entity_type, transforms,
    }
    CreateBackfillResponse { backfill, warnings }
    RestateBackfillResponse { backfill, plan, warnings }
    Partition {
        label, start, end, state: PartitionState, basis, attempt_count, start_time, end_time, rows_read, rows_written,
        message, snapshot_id, bytes_written, attempts, entity_changes, tables, transform, calls, waits_for_limit,
    }
    CallCounts { request_count, answer_count, remembered_count, limit_wait }
    TableRead { table, snapshot_id, own_partition_count }
    EntityChanges { written, ended, unchanged, basis }
    Attempt {
        attempt, state: PartitionState, start_time, staged_time, end_time, rows_read, rows_written, bytes_written,
        message, retry_time, entity_changes, slot_wait, peak_memory_bytes, calls,
    }
    StalePartition {
        label, start, end, backfill, publish_time, revision, knowledge: Knowledge, basis, reasons,
    }
    RevisionChanged { published, current }
    EntityChanged {
        entity_type, entity_id, difference: EntityDifference, attribute, valid_time, learned_at,
    }
    SourceFilesChanged { source, path, change: FileChange, file_count }
    PriorRepublished { label, start, backfill }
    UpstreamRepublished { table, label, start, backfill }
    InitialDone { backfill_count }
    Heartbeat { time }
    Progress {
        state: BackfillState, partition_counts, rows_read, rows_written, rows_per_second, partitions_per_second, eta,
        elapsed, sequence,
    }
    BackfillCreated { partition_count, run_count, warnings }
    BackfillStateChanged { state: BackfillState }
    BackfillResumed { fenced_attempt_count }
    BackfillConcurrencyChanged { max_active_partitions }
    PartitionChanged {
        label, start, state: PartitionState, attempt, rows_read, rows_written, message, retry_time, snapshot_id,
        bytes_written, staged_time, entity_changes, transform, calls, waits_for_limit,
    }
}

impl ToJson for pb::Event {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            sequence,
            time,
            change,
        } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("sequence", sequence)?;
        map.serialize_entry("time", &Json(time))?;
        match change {
            Some(pb::event::Change::BackfillCreated(change)) => {
                map.serialize_entry("backfill_created", &Json(change))?
            }
            Some(pb::event::Change::BackfillStateChanged(change)) => {
                map.serialize_entry("backfill_state_changed", &Json(change))?;
            }
            Some(pb::event::Change::PartitionChanged(change)) => {
                map.serialize_entry("partition_changed", &Json(change))?;
            }
            Some(pb::event::Change::BackfillConcurrencyChanged(change)) => {
                map.serialize_entry("backfill_concurrency_changed", &Json(change))?;
            }
            Some(pb::event::Change::BackfillResumed(change)) => {
                map.serialize_entry("backfill_resumed", &Json(change))?
            }
            None => {}
        }
        map.end()
    }
}

impl ToJson for pb::StaleReason {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use pb::stale_reason::Reason;
        let Self { reason, message } = self;
        let mut map = serializer.serialize_map(None)?;
        match reason {
            Some(Reason::RevisionChanged(changed)) => {
                map.serialize_entry("revision_changed", &Json(changed))?;
            }
            Some(Reason::EntityChanged(changed)) => {
                map.serialize_entry("entity_changed", &Json(changed))?;
            }
            Some(Reason::SourceFilesChanged(changed)) => {
                map.serialize_entry("source_files_changed", &Json(changed))?;
            }
            Some(Reason::PriorRepublished(republished)) => {
                map.serialize_entry("prior_republished", &Json(republished))?;
            }
            Some(Reason::UpstreamRepublished(republished)) => {
                map.serialize_entry("upstream_republished", &Json(republished))?;
            }
            None => {}
        }
        map.serialize_entry("message", message)?;
        map.end()
    }
}

impl ToJson for pb::WatchBackfillResponse {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use pb::watch_backfill_response::Message;
        let mut map = serializer.serialize_map(None)?;
        match &self.message {
            Some(Message::Event(event)) => map.serialize_entry("event", &Json(event))?,
            Some(Message::Progress(progress)) => {
                map.serialize_entry("progress", &Json(progress))?
            }
            Some(Message::Heartbeat(heartbeat)) => {
                map.serialize_entry("heartbeat", &Json(heartbeat))?
            }
            None => {}
        }
        map.end()
    }
}

impl ToJson for pb::WatchBackfillsResponse {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use pb::watch_backfills_response::Message;
        let mut map = serializer.serialize_map(None)?;
        match &self.message {
            Some(Message::Backfill(backfill)) => {
                map.serialize_entry("backfill", &Json(backfill))?
            }
            Some(Message::InitialDone(done)) => map.serialize_entry("initial_done", &Json(done))?,
            Some(Message::Heartbeat(heartbeat)) => {
                map.serialize_entry("heartbeat", &Json(heartbeat))?
            }
            None => {}
        }
        map.end()
    }
}

/// A list that was gathered from pages, as the object that one page would be.
pub(crate) struct Listed<'a, T> {
    /// The list's field name in the response.
    pub(crate) field: &'static str,
    /// All of it.
    pub(crate) items: &'a Vec<T>,
}

impl<T: ToJson> ToJson for Listed<'_, T> {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.field, Json(self.items))])
    }
}

/// A row of a table by column name, in the columns' order.
pub(crate) struct RowJson<'a> {
    /// The table's columns.
    pub(crate) columns: &'a [pb::Column],
    /// One value per column.
    pub(crate) values: &'a [pb::Value],
}

impl ToJson for RowJson<'_> {
    fn to_json<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = self.columns.iter().zip(self.values);
        serializer.collect_map(entries.map(|(column, value)| (&column.name, Json(value))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_proto_names_and_order() {
        let event = pb::Event {
            sequence: 7,
            time: Some(prost_types::Timestamp {
                seconds: 0,
                nanos: 500_000_000,
            }),
            change: Some(pb::event::Change::PartitionChanged(pb::PartitionChanged {
                label: "2013-02-08".to_owned(),
                state: pb::PartitionState::WaitingRetry.into(),
                attempt: 1,
                ..Default::default()
            })),
        };
        assert_eq!(
            serde_json::to_string(&Json(&event)).expect("serialises"),
            r#"{"sequence":7,"time":"1970-01-01T00:00:00.500Z","partition_changed":{"label":"2013-02-08","start":null,"state":"WAITING_RETRY","attempt":1,"rows_read":0,"rows_written":0,"message":"","retry_time":null,"snapshot_id":0,"bytes_written":0,"staged_time":null,"entity_changes":null,"transform":"","calls":null,"waits_for_limit":""}}"#
        );
    }

    #[test]
    fn values_are_plain_and_keywords_lose_their_prefix() {
        let columns = [pb::Column {
            name: "raw".to_owned(),
            r#type: "Binary".to_owned(),
            nullable: true,
        }];
        let values = [pb::Value {
            kind: Some(Kind::BytesValue(b"fo".to_vec())),
        }];
        let row = RowJson {
            columns: &columns,
            values: &values,
        };
        assert_eq!(
            serde_json::to_string(&Json(&row)).expect("serialises"),
            r#"{"raw":"Zm8="}"#
        );
        assert_eq!(
            serde_json::to_string(&Json(&columns[0])).expect("serialises"),
            r#"{"name":"raw","type":"Binary","nullable":true}"#
        );
        let document = pb::Value {
            kind: Some(Kind::JsonValue(r#"{"a":[1]}"#.to_owned())),
        };
        assert_eq!(
            serde_json::to_string(&Json(&document)).expect("serialises"),
            r#"{"a":[1]}"#
        );
    }

    #[test]
    fn an_unknown_enum_number_shows_as_itself() {
        assert_eq!(enum_name::<pb::Knowledge>(3), "AT_BASIS");
        assert_eq!(enum_name::<pb::Knowledge>(99), "99");
    }
}
