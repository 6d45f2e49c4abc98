//! One line of a file of entities: a mutation as JSON.

use serde::Deserialize;
use serde_json::Value as Json;

use super::super::{times, values};
use crate::{
    pb::{self, end, mutation::Operation, patch, put},
    time::ValidTime,
};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    Put,
    End,
    Patch,
    Erase,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Until {
    Forever,
    NextChange,
}

/// A line as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLine {
    op: Option<Op>,
    pub(super) entity_type: String,
    entity_id: String,
    #[serde(alias = "value")]
    attributes: Option<serde_json::Map<String, Json>>,
    valid_from: Option<String>,
    valid_to: Option<String>,
    until: Option<Until>,
    system_time: Option<String>,
}

/// A line as it is sent.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) mutation: pb::Mutation,
    /// For types that are being imported.
    pub(super) system_time: Option<prost_types::Timestamp>,
}

/// Where a line's range ends.
enum RangeEnd {
    NextChange,
    At(prost_types::Timestamp),
    Forever,
}

impl RawLine {
    /// Reads a line; fields whose names are in `ignored` may be there and say nothing.
    pub(super) fn parse(text: &str, ignored: &[String]) -> Result<Self, String> {
        if ignored.is_empty() {
            return serde_json::from_str(text).map_err(|error| with_hint(error.to_string()));
        }
        let mut fields: serde_json::Map<String, Json> =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        for name in ignored {
            fields.remove(name);
        }
        serde_json::from_value(Json::Object(fields)).map_err(|error| with_hint(error.to_string()))
    }

    /// The mutation that it says, of an entity of this type.
    pub(super) fn into_line(self, entity_type: &pb::EntityType) -> Result<Line, String> {
        let system_time = instant("system_time", self.system_time.as_deref())?;
        Ok(Line {
            mutation: self.into_mutation(entity_type)?,
            system_time,
        })
    }

    fn into_mutation(self, entity_type: &pb::EntityType) -> Result<pb::Mutation, String> {
        let has_range =
            self.valid_from.is_some() || self.valid_to.is_some() || self.until.is_some();
        let valid_from = instant("valid_from", self.valid_from.as_deref())?;
        let valid_to = instant("valid_to", self.valid_to.as_deref())?;
        let range_end = match (valid_to, self.until) {
            (Some(_), Some(_)) => return Err("give either valid_to or until".to_owned()),
            (Some(instant), None) => RangeEnd::At(instant),
            (None, Some(Until::Forever)) => RangeEnd::Forever,
            (None, Some(Until::NextChange) | None) => RangeEnd::NextChange,
        };
        let object = self.attributes.as_ref();
        let operation = match (self.op.unwrap_or(Op::Put), object) {
            (Op::Put, Some(object)) => Operation::Put(pb::Put {
                attributes: values::from_json_object(entity_type, object)
                    .map_err(|error| error.to_string())?,
                valid_from,
                until: Some(put_until(&range_end)),
            }),
            (Op::Patch, Some(object)) => Operation::Patch(pb::Patch {
                attributes: values::from_json_object_with_nulls(entity_type, object)
                    .map_err(|error| error.to_string())?,
                valid_from,
                until: Some(patch_until(&range_end)),
            }),
            (Op::End, None) => Operation::End(pb::End {
                valid_from,
                until: Some(end_until(&range_end)),
            }),
            (Op::Erase, None) if has_range => {
                return Err("an erase has no range: it removes everything".to_owned());
            }
            (Op::Erase, None) => Operation::Erase(pb::Erase {}),
            (Op::Put, None) => return Err("a put needs attributes".to_owned()),
            (Op::Patch, None) => return Err("a patch needs attributes".to_owned()),
            (Op::End, Some(_)) => return Err("an end has no attributes".to_owned()),
            (Op::Erase, Some(_)) => return Err("an erase has no attributes".to_owned()),
        };
        Ok(pb::Mutation {
            entity_type: self.entity_type,
            entity_id: self.entity_id,
            operation: Some(operation),
            ..Default::default()
        })
    }
}

fn with_hint(problem: String) -> String {
    if problem.starts_with("unknown field") {
        format!("{problem}; --ignore leaves a field out of account")
    } else {
        problem
    }
}

fn instant(name: &str, text: Option<&str>) -> Result<Option<prost_types::Timestamp>, String> {
    text.map(ValidTime::parse)
        .transpose()
        .map(|instant| instant.map(times::timestamp))
        .map_err(|error| format!("{name}: {error}"))
}

fn put_until(range_end: &RangeEnd) -> put::Until {
    match range_end {
        RangeEnd::NextChange => put::Until::UntilNextChange(pb::UntilNextChange {}),
        RangeEnd::At(instant) => put::Until::ValidTo(*instant),
        RangeEnd::Forever => put::Until::Forever(pb::Forever {}),
    }
}

fn patch_until(range_end: &RangeEnd) -> patch::Until {
    match range_end {
        RangeEnd::NextChange => patch::Until::UntilNextChange(pb::UntilNextChange {}),
        RangeEnd::At(instant) => patch::Until::ValidTo(*instant),
        RangeEnd::Forever => patch::Until::Forever(pb::Forever {}),
    }
}

fn end_until(range_end: &RangeEnd) -> end::Until {
    match range_end {
        RangeEnd::NextChange => end::Until::UntilNextChange(pb::UntilNextChange {}),
        RangeEnd::At(instant) => end::Until::ValidTo(*instant),
        RangeEnd::Forever => end::Until::Forever(pb::Forever {}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Operation, String> {
        let seats = pb::Attribute {
            name: "seats".to_owned(),
            kind: pb::AttributeKind::Int64.into(),
            ..Default::default()
        };
        let aircraft = pb::EntityType {
            name: "aircraft".to_owned(),
            attributes: vec![seats],
            ..Default::default()
        };
        let line = RawLine::parse(text, &["release".to_owned()])?.into_line(&aircraft)?;
        line.mutation
            .operation
            .ok_or_else(|| "no operation".to_owned())
    }

    #[test]
    fn lines_become_mutations() {
        let line = r#"{"entity_type":"aircraft","entity_id":"N1","value":{"seats":55},"valid_from":"2013-01-01T00:00:00Z"}"#;
        let Ok(Operation::Put(put)) = parse(line) else {
            panic!("no put")
        };
        assert_eq!(
            put.until,
            Some(put::Until::UntilNextChange(pb::UntilNextChange {}))
        );
        assert_eq!(put.attributes.len(), 1);
        let line = r#"{"op":"end","entity_type":"aircraft","entity_id":"N1","until":"forever"}"#;
        let Ok(Operation::End(end)) = parse(line) else {
            panic!("no end")
        };
        assert_eq!(
            (end.valid_from, end.until),
            (None, Some(end::Until::Forever(pb::Forever {})))
        );
        let line = r#"{"op":"erase","release":"2020","entity_type":"aircraft","entity_id":"N1"}"#;
        assert_eq!(parse(line), Ok(Operation::Erase(pb::Erase {})));
        let line =
            r#"{"op":"patch","entity_type":"aircraft","entity_id":"N1","value":{"seats":null}}"#;
        let Ok(Operation::Patch(patch)) = parse(line) else {
            panic!("no patch")
        };
        assert_eq!(
            patch.attributes["seats"],
            pb::Value { kind: None },
            "a patch can set null"
        );
    }

    #[test]
    fn bad_lines_say_why() {
        for (rest, part) in [
            (
                r#""attributes":{"seats":"x"}"#,
                "seats: cannot read \"x\" as an int64",
            ),
            (
                r#""attributes":{},"validfrom":"2013""#,
                "unknown field `validfrom`",
            ),
            (
                r#""attributes":{},"valid_from":"2013""#,
                "valid_from: cannot read \"2013\"",
            ),
            (
                r#""attributes":{},"valid_to":"2013-01-01T00:00:00Z","until":"forever""#,
                "either valid_to or until",
            ),
            (r#""op":"end","attributes":{}"#, "an end has no attributes"),
            (r#""op":"put""#, "a put needs attributes"),
            (r#""op":"patch""#, "a patch needs attributes"),
            (
                r#""op":"erase","attributes":{}"#,
                "an erase has no attributes",
            ),
            (r#""op":"erase","until":"forever""#, "an erase has no range"),
            (r#""op":"remove""#, "unknown variant"),
            (r#""attributes":{},"releases":1"#, "--ignore"),
            (
                r#""attributes":{},"system_time":"2013""#,
                "system_time: cannot read",
            ),
        ] {
            let line = format!(r#"{{"entity_type":"aircraft","entity_id":"N1",{rest}}}"#);
            let message = parse(&line).expect_err(rest);
            assert!(message.contains(part), "{message}");
        }
    }
}
