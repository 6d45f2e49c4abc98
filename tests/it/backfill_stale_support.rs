//! Sensors, the queries that look at them, and the verdicts on their partitions in short.

use std::collections::HashMap;

use hindcast::pb::{self, mutation::Operation, patch, put, stale_reason::Reason};
use prost_types::Timestamp;
use tonic::Status;
use tonic_types::StatusExt;

use crate::backfill_support::{Rig, at, daily, entity_input, float, micros, source_input};

/// Six days at noon; sensor a on odd days, b on even ones.
pub(crate) const EVENTS: &str = "\
ts,id,v
2013-01-01T12:00:00,a,1
2013-01-02T12:00:00,b,2
2013-01-03T12:00:00,a,3
2013-01-04T12:00:00,b,4
2013-01-05T12:00:00,a,5
2013-01-06T12:00:00,b,6
";
pub(crate) const ALL: (&str, &str) = ("2013-01-01", "2013-01-07");

/// A state at each day's last instant, of one attribute.
pub(crate) const STATE: &str = "SELECT count(*) AS n, sum(temp) AS t FROM sensor";
/// A lookup at noon, of one attribute, through a name for the state.
pub(crate) const LOOKUP: &str = "WITH seen AS (SELECT v, sensor_at(id, ts) AS s FROM events) SELECT v, s['temp'] AS t FROM seen";
/// All versions of each day, of one attribute.
pub(crate) const HISTORY: &str = "SELECT entity_id, temp FROM sensor_history";

/// A server with sensors a and b, each with `temp` 1 and `wind` 1 since 2012, known since then.
pub(crate) async fn rig() -> Rig {
    let mut rig = Rig::at("2012-12-01T00:00:00Z").await;
    let attribute = |name: &str| pb::Attribute {
        name: name.to_owned(),
        kind: pb::AttributeKind::Float64.into(),
        ..pb::Attribute::default()
    };
    let entity_type = pb::EntityType {
        name: "sensor".to_owned(),
        attributes: vec![attribute("temp"), attribute("wind")],
        ..pb::EntityType::default()
    };
    let request = pb::CreateEntityTypeRequest {
        entity_type: Some(entity_type),
    };
    let created = rig.clients.entities.create_entity_type(request).await;
    created.expect("created");
    for id in ["a", "b"] {
        rig.say(id, put("2012-01-01", None, &[("temp", 1.0), ("wind", 1.0)]))
            .await;
    }
    rig.clock.set(micros("2013-12-01T00:00:00Z"));
    rig.csv("events", EVENTS, &[("id", "string"), ("v", "int64")])
        .await;
    rig
}

pub(crate) fn instant(text: &str) -> Timestamp {
    if text.contains('T') {
        at(text)
    } else {
        at(&format!("{text}T00:00:00Z"))
    }
}

pub(crate) fn values(values: &[(&str, f64)]) -> HashMap<String, pb::Value> {
    let value = |(name, value): &(&str, f64)| ((*name).to_owned(), float(*value));
    values.iter().map(value).collect()
}

/// Says that a sensor had these values over `[from, to)`.
pub(crate) fn put(from: &str, to: Option<&str>, attributes: &[(&str, f64)]) -> Operation {
    Operation::Put(pb::Put {
        attributes: values(attributes),
        valid_from: Some(instant(from)),
        until: Some(to.map_or(put::Until::Forever(pb::Forever {}), |to| {
            put::Until::ValidTo(instant(to))
        })),
    })
}

pub(crate) fn patch(from: &str, to: &str, attributes: &[(&str, f64)]) -> Operation {
    Operation::Patch(pb::Patch {
        attributes: values(attributes),
        valid_from: Some(instant(from)),
        until: Some(patch::Until::ValidTo(instant(to))),
    })
}

pub(crate) fn end(from: &str, to: &str) -> Operation {
    Operation::End(pb::End {
        valid_from: Some(instant(from)),
        until: Some(pb::end::Until::ValidTo(instant(to))),
    })
}

impl Rig {
    /// Says something of a sensor; the commit's system time.
    pub(crate) async fn say(&mut self, id: &str, operation: Operation) -> Timestamp {
        self.say_all(&[(id, operation)]).await
    }

    pub(crate) async fn say_all(&mut self, what: &[(&str, Operation)]) -> Timestamp {
        let mutation = |(id, operation): &(&str, Operation)| pb::Mutation {
            entity_type: "sensor".to_owned(),
            entity_id: (*id).to_owned(),
            operation: Some(operation.clone()),
            ..pb::Mutation::default()
        };
        let request = pb::WriteRequest {
            mutations: what.iter().map(mutation).collect(),
            ..pb::WriteRequest::default()
        };
        let written = self.clients.entities.write(request).await;
        let written = written.expect("written").into_inner();
        written.system_time.expect("a system time")
    }

    pub(crate) async fn register(&mut self, name: &str, sql: &str) -> pb::Transform {
        let transform = pb::Transform {
            sources: vec![source_input("events")],
            entities: vec![entity_input("sensor")],
            ..daily(name, sql)
        };
        let registered = self.clients.register(transform).await;
        registered.expect("registered")
    }

    pub(crate) async fn stale_page(
        &mut self,
        request: pb::ListStalePartitionsRequest,
    ) -> Result<pb::ListStalePartitionsResponse, Status> {
        let listed = self.clients.backfills.list_stale_partitions(request).await;
        listed.map(tonic::Response::into_inner)
    }

    pub(crate) async fn stale(&mut self, transform: &str) -> pb::ListStalePartitionsResponse {
        let request = pb::ListStalePartitionsRequest {
            transform: transform.to_owned(),
            ..pb::ListStalePartitionsRequest::default()
        };
        self.stale_page(request).await.expect("listed")
    }

    /// Each stale partition's day, with its reasons in short.
    pub(crate) async fn reasons(&mut self, transform: &str) -> Vec<String> {
        let page = self.stale(transform).await;
        assert_eq!(page.next_page_token, "");
        page.partitions.iter().map(in_short).collect()
    }
}

/// `03 a.temp@2013-01-03T06:00:00Z`.
pub(crate) fn in_short(stale: &pb::StalePartition) -> String {
    assert!(!stale.reasons.is_empty());
    let mut text = stale.label[8..].to_owned();
    for reason in &stale.reasons {
        assert!(!reason.message.is_empty());
        text.push(' ');
        text += &match reason.reason.as_ref().expect("a reason") {
            Reason::RevisionChanged(changed) => {
                format!("r{}->r{}", changed.published, changed.current)
            }
            Reason::EntityChanged(changed) => {
                let what = match changed.difference() {
                    pb::EntityDifference::Attribute => format!(".{}", changed.attribute),
                    pb::EntityDifference::Existence => "?".to_owned(),
                    pb::EntityDifference::Erased => "!".to_owned(),
                    pb::EntityDifference::Unspecified => panic!("{changed:?}"),
                };
                let place = changed.valid_time.map(|at| format!("@{at}"));
                format!("{}{what}{}", changed.entity_id, place.unwrap_or_default())
            }
            Reason::SourceFilesChanged(changed) => {
                let file = changed.path.rsplit('/').next().expect("a name");
                let change = changed.change().as_str_name().to_lowercase();
                format!("{file} {}*{}", &change[12..], changed.file_count)
            }
            Reason::PriorRepublished(republished) => format!("<{}", &republished.label[8..]),
        };
    }
    text
}

/// The learned_at of a partition's entity reason.
pub(crate) fn learned_at(stale: &pb::StalePartition) -> Timestamp {
    let found = stale.reasons.iter().find_map(|it| match &it.reason {
        Some(Reason::EntityChanged(changed)) => changed.learned_at,
        _ => None,
    });
    found.expect("an entity reason")
}

pub(crate) fn reason_of(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().expect("a reason").reason.clone()
}
