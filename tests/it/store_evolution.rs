//! Mutations, imports and schema changes over gRPC, and what they mean to transforms.

use std::collections::HashMap;

use hindcast::pb::{self, expect::Condition, mutation::Operation};
use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::backfill_support::{Clients, Rig, at, daily, days, entity_input, float};

fn temp(value: f64) -> HashMap<String, pb::Value> {
    HashMap::from([("temp".to_owned(), float(value))])
}

fn mutation(operation: Operation, expect: Vec<pb::Expect>) -> pb::Mutation {
    pb::Mutation {
        entity_type: "station".to_owned(),
        entity_id: "s1".to_owned(),
        operation: Some(operation),
        expect,
    }
}

fn put() -> Operation {
    Operation::Put(pb::Put {
        attributes: temp(5.0),
        valid_from: Some(at("2012-01-01T00:00:00Z")),
        ..Default::default()
    })
}

fn patch(attributes: HashMap<String, pb::Value>, valid_to: Option<Timestamp>) -> Operation {
    Operation::Patch(pb::Patch {
        attributes,
        valid_from: Some(at("2012-01-01T00:00:00Z")),
        until: valid_to.map(pb::patch::Until::ValidTo),
    })
}

fn expect(condition: Option<Condition>) -> pb::Expect {
    pb::Expect {
        valid_time: None,
        condition,
    }
}

async fn write(
    clients: &mut Clients,
    mutations: Vec<pb::Mutation>,
    import_system_time: Option<Timestamp>,
) -> Result<pb::WriteResponse, Status> {
    let request = pb::WriteRequest {
        mutations,
        request_id: String::new(),
        import_system_time,
    };
    clients
        .entities
        .write(request)
        .await
        .map(tonic::Response::into_inner)
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has a reason");
    info.reason.clone()
}

fn field(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status.get_error_details();
    let request = details.bad_request().expect("names the field");
    request.field_violations[0].field.clone()
}

async fn outcome(clients: &mut Clients) -> (pb::EntityOutcome, Option<pb::Version>) {
    let request = pb::GetEntityRequest {
        entity_type: "station".to_owned(),
        entity_id: "s1".to_owned(),
        valid_time: Some(at("2012-06-01T00:00:00Z")),
        basis: None,
    };
    let answer = clients.entities.get_entity(request).await.expect("reads");
    let answer = answer.into_inner();
    (answer.outcome(), answer.version)
}

#[tokio::test]
async fn mutations_of_every_kind_go_over_the_wire() {
    let mut rig = Rig::at("2013-01-01T00:00:00Z").await;
    let clients = &mut rig.clients;
    clients.create_stations().await;
    let absent = || Some(Condition::Absent(pb::ExpectAbsent {}));
    let created = write(clients, vec![mutation(put(), vec![expect(absent())])], None)
        .await
        .expect("it was absent");
    let again = write(clients, vec![mutation(put(), vec![expect(absent())])], None).await;
    let status = again.expect_err("it is there");
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(reason(&status), "EXPECTATION_FAILED");
    let value = Condition::Value(pb::ExpectValue {
        attributes: temp(5.0),
    });
    let since = Condition::UnchangedSince(created.system_time.expect("a time"));
    let both = vec![expect(Some(value)), expect(Some(since))];
    write(clients, vec![mutation(patch(temp(6.0), None), both)], None)
        .await
        .expect("both hold");
    let (found, version) = outcome(clients).await;
    assert_eq!(found, pb::EntityOutcome::Value);
    assert_eq!(version.expect("a version").attributes, temp(6.0));
    let erased = write(
        clients,
        vec![mutation(Operation::Erase(pb::Erase {}), vec![])],
        None,
    );
    erased.await.expect("erased");
    let (_, version) = outcome(clients).await;
    assert_eq!(version, None);
}

#[tokio::test]
async fn faults_of_mutations_are_named_over_the_wire() {
    let mut rig = Rig::at("2013-01-01T00:00:00Z").await;
    let clients = &mut rig.clients;
    clients.create_stations().await;
    let far = Timestamp {
        seconds: i64::MAX,
        nanos: 0,
    };
    let other = HashMap::from([("other".to_owned(), float(1.0))]);
    let none = HashMap::new;
    let early = at("2011-01-01T00:00:00Z");
    let with = |condition| mutation(put(), vec![expect(None), expect(Some(condition))]);
    let only = |condition| mutation(put(), vec![expect(condition)]);
    let value = Condition::Value(pb::ExpectValue {
        attributes: other.clone(),
    });
    let cases = [
        (
            mutation(patch(none(), None), vec![]),
            "mutations[0].patch.attributes",
        ),
        (
            mutation(patch(other, None), vec![]),
            "mutations[0].patch.attributes[\"other\"]",
        ),
        (
            mutation(patch(temp(f64::NAN), None), vec![]),
            "mutations[0].patch.attributes[\"temp\"]",
        ),
        (
            mutation(patch(temp(1.0), Some(early)), vec![]),
            "mutations[0].patch.valid_to",
        ),
        (
            mutation(patch(temp(1.0), Some(far)), vec![]),
            "mutations[0].patch.valid_to",
        ),
        (only(None), "mutations[0].expect[0].condition"),
        (
            with(Condition::Absent(pb::ExpectAbsent {})),
            "mutations[0].expect[0].condition",
        ),
        (
            only(Some(value)),
            "mutations[0].expect[0].value.attributes[\"other\"]",
        ),
        (
            only(Some(Condition::UnchangedSince(far))),
            "mutations[0].expect[0].unchanged_since",
        ),
        (
            mutation(
                put(),
                vec![expect(Some(Condition::Absent(pb::ExpectAbsent {}))); 17],
            ),
            "mutations[0].expect",
        ),
        (
            pb::Mutation {
                operation: None,
                ..mutation(put(), vec![])
            },
            "mutations[0].operation",
        ),
    ];
    for (bad, expected) in cases {
        let status = write(clients, vec![bad], None).await.expect_err(expected);
        assert_eq!(field(&status), expected);
    }
    let future = Condition::UnchangedSince(at("2030-01-01T00:00:00Z"));
    let status = write(clients, vec![only(Some(future))], None).await;
    assert_eq!(status.expect_err("not yet").code(), Code::OutOfRange);
    let status = write(clients, vec![mutation(put(), vec![])], Some(far)).await;
    assert_eq!(field(&status.expect_err("too far")), "import_system_time");
    assert_eq!(outcome(clients).await.0, pb::EntityOutcome::NotKnown);
}

#[tokio::test]
async fn a_type_is_imported_and_then_read_by_transforms() {
    let mut rig = Rig::at("2013-02-01T00:00:00Z").await;
    let clients = &mut rig.clients;
    let entity_type = pb::EntityType {
        name: "station".to_owned(),
        attributes: vec![pb::Attribute {
            name: "temp".to_owned(),
            kind: pb::AttributeKind::Float64.into(),
            ..Default::default()
        }],
        state: pb::EntityTypeState::Importing.into(),
        ..Default::default()
    };
    let request = pb::CreateEntityTypeRequest {
        entity_type: Some(entity_type.clone()),
    };
    let created = clients.entities.create_entity_type(request).await;
    let created = created.expect("declared").into_inner().entity_type;
    let state = created.expect("a type").state();
    assert_eq!(state, pb::EntityTypeState::Importing);
    let learned = Some(at("2012-01-02T00:00:00Z"));
    write(clients, vec![mutation(put(), vec![])], learned)
        .await
        .expect("imported");

    let sql = "SELECT count(*) AS n FROM station";
    let transform = pb::Transform {
        entities: vec![entity_input("station")],
        ..daily("seen", sql)
    };
    let status = clients.register(transform.clone()).await.expect_err("open");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason(&status), "IMPORT_UNFINISHED");
    let read = pb::GetEntityRequest {
        entity_type: "station".to_owned(),
        entity_id: "s1".to_owned(),
        valid_time: None,
        basis: None,
    };
    let status = clients.entities.get_entity(read).await.expect_err("open");
    assert_eq!(reason(&status), "IMPORT_UNFINISHED");

    let finish = pb::FinishImportRequest {
        name: "station".to_owned(),
    };
    let finished = clients.entities.finish_import(finish.clone()).await;
    let finished = finished.expect("sealed").into_inner().entity_type;
    let finished = finished.expect("a type");
    assert_eq!(finished.state(), pb::EntityTypeState::Active);
    assert_eq!(finished.first_known_time, learned);
    let status = clients
        .entities
        .finish_import(finish)
        .await
        .expect_err("over");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let unnamed = clients
        .entities
        .finish_import(pb::FinishImportRequest::default())
        .await;
    assert_eq!(field(&unnamed.expect_err("no name")), "name");

    clients.register(transform).await.expect("registered");
    clients
        .run_well(crate::backfill_support::then(
            "seen",
            "2012-01-01",
            "2012-01-03",
        ))
        .await;
    assert_eq!(
        clients.rows("seen").await,
        ["2012-01-01 n=1", "2012-01-02 n=1"]
    );
    let bad = pb::EntityType {
        state: 9,
        ..entity_type
    };
    let request = pb::CreateEntityTypeRequest {
        entity_type: Some(bad),
    };
    let status = clients.entities.create_entity_type(request).await;
    assert_eq!(field(&status.expect_err("no state")), "entity_type.state");
}

#[tokio::test]
async fn a_registered_revision_sees_the_schema_it_was_planned_with() {
    let mut rig = Rig::at("2013-02-01T00:00:00Z").await;
    let clients = &mut rig.clients;
    clients.create_stations().await;
    clients.put_station("s1", "2012-01-01T00:00:00Z", 5.0).await;
    let transform = || pb::Transform {
        entities: vec![entity_input("station")],
        ..daily(
            "all",
            "SELECT * EXCEPT (entity_id, valid_from) FROM station",
        )
    };
    clients.register(transform()).await.expect("registered");
    let update = |attribute: pb::Attribute| pb::UpdateEntityTypeRequest {
        name: "station".to_owned(),
        add_attributes: vec![attribute],
        ..Default::default()
    };
    let sky = pb::Attribute {
        name: "sky".to_owned(),
        kind: pb::AttributeKind::String.into(),
        ..Default::default()
    };
    let kindless = pb::Attribute {
        kind: 0,
        ..sky.clone()
    };
    let status = clients.entities.update_entity_type(update(kindless)).await;
    assert_eq!(
        field(&status.expect_err("no kind")),
        "add_attributes[0].kind"
    );
    let updated = clients.entities.update_entity_type(update(sky)).await;
    let updated = updated.expect("updated").into_inner();
    assert!(updated.updated);
    assert_eq!(updated.entity_type.map(|found| found.revision), Some(2));
    let kind = Some(pb::value::Kind::StringValue("clear".to_owned()));
    let sky = HashMap::from([("sky".to_owned(), pb::Value { kind })]);
    write(clients, vec![mutation(patch(sky, None), vec![])], None)
        .await
        .expect("written");

    clients
        .run_well(days("all", "2013-01-01", "2013-01-02"))
        .await;
    assert_eq!(clients.rows("all").await, ["2013-01-01 temp=5"]);
    let again = clients.register(transform()).await.expect("registered");
    assert_eq!(again.revision, 2, "it shows another column");
    clients
        .run_well(days("all", "2013-01-01", "2013-01-02"))
        .await;
    assert_eq!(clients.rows("all").await, ["2013-01-01 temp=5 sky=clear"]);
    let listed = clients
        .entities
        .list_entity_type_revisions(pb::ListEntityTypeRevisionsRequest {
            name: "station".to_owned(),
        })
        .await
        .expect("listed");
    let counts: Vec<_> = listed
        .into_inner()
        .revisions
        .iter()
        .map(|revision| (revision.revision, revision.attributes.len()))
        .collect();
    assert_eq!(counts, [(1, 1), (2, 2)]);
}
