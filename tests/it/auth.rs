//! Who may call what: every method, each role, and none.

use hindcast::{
    auth::Role,
    pb::{self, entity_store_service_client::EntityStoreServiceClient, ingest_request, mutation},
    server::methods::{self, METHODS},
};
use prost::Message;
use tempfile::TempDir;
use tonic::{Code, Request, metadata::MetadataValue};

use super::guard_support::{
    any_port, call, plain, put, reason, refused_start, reloads, serve, settings, token, token_of,
    token_table, until,
};

/// Which role may call which method, as docs/security.md has it: written down a second time, so that a slip in the server's own
/// table shows. `None`: everybody, without a token.
const NEEDED: [(Option<Role>, &[&str]); 5] = [
    (
        None,
        &[
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
        ],
    ),
    (
        Some(Role::Reader),
        &[
            "/hindcast.v1.EntityStoreService/GetEntityType",
            "/hindcast.v1.EntityStoreService/ListEntityTypeRevisions",
            "/hindcast.v1.EntityStoreService/ListEntityTypes",
            "/hindcast.v1.EntityStoreService/GetEntity",
            "/hindcast.v1.EntityStoreService/BatchGetEntities",
            "/hindcast.v1.EntityStoreService/Lookup",
            "/hindcast.v1.EntityStoreService/ScanEntities",
            "/hindcast.v1.EntityStoreService/ListHistory",
            "/hindcast.v1.EntityStoreService/ListChanges",
            "/hindcast.v1.CatalogService/GetSource",
            "/hindcast.v1.CatalogService/ListSources",
            "/hindcast.v1.CatalogService/GetTransform",
            "/hindcast.v1.CatalogService/ListTransforms",
            "/hindcast.v1.CatalogService/GetTable",
            "/hindcast.v1.CatalogService/ListTables",
            "/hindcast.v1.CatalogService/ReadTable",
            "/hindcast.v1.BackfillService/PlanBackfill",
            "/hindcast.v1.BackfillService/GetBackfill",
            "/hindcast.v1.BackfillService/ListBackfills",
            "/hindcast.v1.BackfillService/ListPartitions",
            "/hindcast.v1.BackfillService/ListStalePartitions",
            "/hindcast.v1.BackfillService/WatchBackfill",
            "/hindcast.v1.BackfillService/WatchBackfills",
            "/hindcast.v1.RateLimitService/GetRateLimit",
            "/hindcast.v1.RateLimitService/ListRateLimits",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ],
    ),
    (
        Some(Role::Writer),
        &[
            "/hindcast.v1.EntityStoreService/Write",
            "/hindcast.v1.EntityStoreService/Ingest",
            "/hindcast.v1.EntityStoreService/FinishImport",
            "/hindcast.v1.RateLimitService/AcquirePermits",
            "/hindcast.v1.RateLimitService/ReleasePermits",
            "/hindcast.v1.RateLimitService/StreamPermits",
            "/hindcast.v1.RateLimitService/ReportOutcome",
        ],
    ),
    (
        Some(Role::Operator),
        &[
            "/hindcast.v1.EntityStoreService/CreateEntityType",
            "/hindcast.v1.EntityStoreService/UpdateEntityType",
            "/hindcast.v1.CatalogService/CreateSource",
            "/hindcast.v1.CatalogService/RegisterTransform",
            "/hindcast.v1.BackfillService/CreateBackfill",
            "/hindcast.v1.BackfillService/CancelBackfill",
            "/hindcast.v1.BackfillService/PauseBackfill",
            "/hindcast.v1.BackfillService/ResumeBackfill",
            "/hindcast.v1.BackfillService/SetBackfillConcurrency",
            "/hindcast.v1.BackfillService/RetryBackfill",
            "/hindcast.v1.BackfillService/RestateBackfill",
            "/hindcast.v1.RateLimitService/CreateRateLimit",
            "/hindcast.v1.RateLimitService/UpdateRateLimit",
            "/hindcast.v1.RateLimitService/DeleteRateLimit",
        ],
    ),
    (Some(Role::Admin), &["/hindcast.v1.AdminService/Backup"]),
];

fn needed(path: &str) -> Option<Role> {
    let mut rows = NEEDED.iter();
    let row = rows.find(|(_, paths)| paths.contains(&path));
    row.unwrap_or_else(|| panic!("{path} is not in NEEDED")).0
}

/// The paths of all methods that the server serves, from its descriptors.
fn served() -> Vec<String> {
    let mut paths = Vec::new();
    for set in [
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        let set = prost_types::FileDescriptorSet::decode(set).expect("descriptors");
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let service = service.name();
                    paths.push(format!("/{}.{service}/{}", file.package(), method.name()));
                }
            }
        }
    }
    paths
}

#[test]
fn every_method_has_a_role_and_every_row_is_a_method() {
    let served = served();
    assert!(served.len() > 35, "{served:?}");
    for path in &served {
        assert!(methods::find(path).is_some(), "{path} is not in METHODS");
    }
    for method in METHODS {
        assert!(
            served.iter().any(|path| path == method.path),
            "{method:?} is no method"
        );
    }
}

#[tokio::test]
async fn every_method_is_tried_with_each_role_and_with_none() {
    let folder = TempDir::new().expect("a folder");
    let mut config = settings(&folder);
    config.tokens = Role::ALL.map(|role| token(role.name(), role)).to_vec();
    let server = serve(config).await;
    let channel = plain(&server).await;
    let (mut missing, mut too_low) = (0, 0);
    for path in served() {
        let needed = needed(&path);
        let without = call(&channel, &path, None).await.err();
        let (code, why) = without
            .as_ref()
            .map_or((Code::Ok, String::new()), |status| {
                (status.code(), reason(status))
            });
        assert_eq!(
            code == Code::Unauthenticated,
            needed.is_some(),
            "{path}: {without:?}"
        );
        if needed.is_some() {
            assert_eq!(why, "TOKEN_MISSING");
            missing += 1;
        }
        for role in Role::ALL {
            let answer = call(&channel, &path, Some(&token_of(role.name()))).await;
            let status = answer.err();
            let code = status.as_ref().map_or(Code::Ok, tonic::Status::code);
            assert_ne!(
                code,
                Code::Unauthenticated,
                "{path} by a {role}: {status:?}"
            );
            let is_refused = needed.is_some_and(|needed| role < needed);
            assert_eq!(
                code == Code::PermissionDenied,
                is_refused,
                "{path} by a {role}: {status:?}"
            );
            if is_refused {
                assert_eq!(status.as_ref().map(reason).as_deref(), Some("ROLE_TOO_LOW"));
                too_low += 1;
            }
        }
    }
    let counts = server.refusals().counts();
    assert_eq!(
        counts[..3],
        [
            ("TOKEN_MISSING", missing),
            ("TOKEN_UNKNOWN", 0),
            ("ROLE_TOO_LOW", too_low)
        ]
    );
    drop(channel);
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_forged_token_is_refused_and_told_to_nobody() {
    let folder = TempDir::new().expect("a folder");
    let mut config = settings(&folder);
    config.tokens = vec![token("known", Role::Admin)];
    let server = serve(config).await;
    let channel = plain(&server).await;
    let path = "/hindcast.v1.EntityStoreService/ListEntityTypes";
    let long = "x".repeat(4_000);
    for forged in ["hct_forged", "hct_known-0123456789abcdeF", long.as_str()] {
        let status = call(&channel, path, Some(forged))
            .await
            .expect_err("refused");
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(reason(&status), "TOKEN_UNKNOWN");
        assert!(!format!("{status:?}").contains(forged), "{status:?}");
    }
    call(&channel, path, Some(&token_of("known")))
        .await
        .expect("let in");
    let unknown = call(&channel, "/hindcast.v1.Nothing/Nothing", None).await;
    assert_eq!(unknown.expect_err("refused").code(), Code::Unauthenticated);
    drop(channel);
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn erasing_needs_an_admin_in_a_batch_and_in_a_stream() {
    let folder = TempDir::new().expect("a folder");
    let mut config = settings(&folder);
    config.tokens = vec![token("w", Role::Writer), token("a", Role::Admin)];
    let server = serve(config).await;
    let mut entities = EntityStoreServiceClient::new(plain(&server).await);
    let create = pb::CreateEntityTypeRequest {
        entity_type: Some(pb::EntityType {
            name: "person".to_owned(),
            attributes: vec![pb::Attribute {
                name: "n".to_owned(),
                kind: pb::AttributeKind::Int64.into(),
                ..Default::default()
            }],
            ..Default::default()
        }),
    };
    entities
        .create_entity_type(by("a", create))
        .await
        .expect("made");
    let write = |operation| pb::WriteRequest {
        mutations: vec![mutation_of(operation)],
        ..Default::default()
    };
    let put = mutation::Operation::Put(pb::Put::default());
    let erase = || mutation::Operation::Erase(pb::Erase {});
    entities
        .write(by("w", write(put)))
        .await
        .expect("a writer writes");
    let refused = entities
        .write(by("w", write(erase())))
        .await
        .expect_err("refused");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::PermissionDenied, "ROLE_TOO_LOW")
    );

    let items = |operation| {
        let batch = pb::IngestBatch {
            offset: 1,
            mutations: vec![mutation_of(operation)],
            ..Default::default()
        };
        let start = pb::IngestStart {
            stream: "s".to_owned(),
        };
        let messages = [
            ingest_request::Message::Start(start),
            ingest_request::Message::Batch(batch),
        ];
        tokio_stream::iter(messages.map(|message| pb::IngestRequest {
            message: Some(message),
        }))
    };
    let mut answers = entities
        .ingest(by("w", items(erase())))
        .await
        .expect("open")
        .into_inner();
    answers.message().await.expect("where it stands");
    let refused = answers.message().await.expect_err("refused");
    assert_eq!(reason(&refused), "ROLE_TOO_LOW");
    assert_eq!(server.refusals().counts()[2], ("ROLE_TOO_LOW", 2));

    entities
        .write(by("a", write(erase())))
        .await
        .expect("an admin erases");
    drop((entities, answers));
    server.shutdown().await.expect("stops");
}

fn mutation_of(operation: mutation::Operation) -> pb::Mutation {
    pb::Mutation {
        entity_type: "person".to_owned(),
        entity_id: "p".to_owned(),
        operation: Some(operation),
        ..Default::default()
    }
}

fn by<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let header = MetadataValue::try_from(format!("Bearer {}", token_of(name)));
    request
        .metadata_mut()
        .insert("authorization", header.expect("a header"));
    request
}

#[tokio::test]
async fn a_tokens_file_is_read_again_when_it_changes() {
    let folder = TempDir::new().expect("a folder");
    let path = put(
        folder.path(),
        "tokens.toml",
        &token_table("old", Role::Reader),
    );
    let mut config = settings(&folder);
    config.tokens_file = Some(path);
    config.metrics_listen = Some(any_port());
    let server = serve(config).await;
    let channel = plain(&server).await;
    let list = "/hindcast.v1.EntityStoreService/ListEntityTypes";
    let is_let_in = |name: &'static str| {
        let channel = channel.clone();
        async move { call(&channel, list, Some(&token_of(name))).await.is_ok() }
    };
    assert!(is_let_in("old").await && !is_let_in("new").await);

    put(folder.path(), "tokens.toml", "[[token]]\nname = \"new\"\n");
    until("the broken file is looked at", || async {
        (reloads(&server, "tokens", "failed").await > 0).then_some(())
    })
    .await;
    assert!(
        is_let_in("old").await,
        "what was read before does not hold on"
    );
    assert_eq!(reloads(&server, "tokens", "taken").await, 0);
    put(
        folder.path(),
        "tokens.toml",
        &token_table("new", Role::Reader),
    );
    until("the new token is let in", || async {
        is_let_in("new").await.then_some(())
    })
    .await;
    assert!(!is_let_in("old").await);

    put(folder.path(), "tokens.toml", "");
    until("nobody is let in", || async {
        (!is_let_in("new").await).then_some(())
    })
    .await;
    assert!(
        call(&channel, list, None).await.is_err(),
        "an empty file opens nothing"
    );
    drop(channel);
    server.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_token_under_two_names_is_refused_at_the_start_and_later() {
    let folder = TempDir::new().expect("a folder");
    let second = token_table("t", Role::Admin).replace("\"t\"", "\"other\"");
    let twice = [token_table("t", Role::Reader), second.clone()].concat();
    let path = put(folder.path(), "tokens.toml", &twice);
    let mut config = settings(&folder);
    config.tokens_file = Some(path);
    config.metrics_listen = Some(any_port());
    let text = refused_start(config.clone()).await;
    assert!(
        text.contains("tokens \"other\" and \"t\" (line 1) have the same sha256"),
        "{text}"
    );

    // One in each file.
    config.tokens = vec![token("t", Role::Reader)];
    put(folder.path(), "tokens.toml", &second);
    let text = refused_start(config.clone()).await;
    assert!(
        text.contains("tokens \"other\" and \"t\" have the same sha256"),
        "{text}"
    );

    put(folder.path(), "tokens.toml", "");
    let server = serve(config).await;
    put(folder.path(), "tokens.toml", &second);
    until("the file is looked at", || async {
        (reloads(&server, "tokens", "failed").await > 0).then_some(())
    })
    .await;
    let create = "/hindcast.v1.EntityStoreService/CreateEntityType";
    let channel = plain(&server).await;
    let refused = call(&channel, create, Some(&token_of("t"))).await;
    let refused = refused.expect_err("it is a reader's still");
    assert_eq!(reason(&refused), "ROLE_TOO_LOW");
    drop(channel);
    server.shutdown().await.expect("stops");
}
