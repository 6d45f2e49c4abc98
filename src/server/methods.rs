//! Every RPC: who may call it, what it is to the server while it is open, and whether it needs room on the disk. The one table
//! of all three.
//!
//! A method that is not in it is refused to all but admins, and a test fails: see `tests/it/auth.rs`.

use std::{collections::HashMap, sync::LazyLock};

use crate::auth::{Access, Role};

/// What an open call is to the server. Each class has a limit of its own, so that none starves another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Reflection, and health that is asked for once: never limited.
    Free,
    /// One answer.
    Unary,
    /// Moves much, and works all the time.
    Bulk,
    /// Mostly waits.
    Watch,
    /// Waits for changes of health; open to everybody.
    Health,
}

/// A method as the server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// What it is while it is open.
    pub class: Class,
    /// Whether it fills the disk further, and is refused while that is nearly full. Pausing and cancelling need next to none,
    /// and may be what makes some.
    pub needs_room: bool,
}

/// The method of a path; `None`: there is none, or somebody forgot it here.
pub fn find(path: &str) -> Option<&'static Method> {
    static BY_PATH: LazyLock<HashMap<&'static str, &'static Method>> =
        LazyLock::new(|| METHODS.iter().map(|method| (method.path, method)).collect());
    BY_PATH.get(path).copied()
}

const fn row(path: &'static str, access: Access, class: Class, needs_room: bool) -> Method {
    Method {
        path,
        access,
        class,
        needs_room,
    }
}

const OPEN: Access = Access::Open;
const READER: Access = Access::From(Role::Reader);
const WRITER: Access = Access::From(Role::Writer);
const OPERATOR: Access = Access::From(Role::Operator);
const ADMIN: Access = Access::From(Role::Admin);

const ROOM: bool = true;
const NONE: bool = false;

/// Every method. An erasure is a mutation inside Write and Ingest and needs an admin; their handlers see to it.
#[rustfmt::skip]
pub const METHODS: &[Method] = &[
    row("/hindcast.v1.EntityStoreService/CreateEntityType", OPERATOR, Class::Unary, ROOM),
    row("/hindcast.v1.EntityStoreService/UpdateEntityType", OPERATOR, Class::Unary, ROOM),
    row("/hindcast.v1.EntityStoreService/GetEntityType", READER, Class::Unary, NONE),
    row("/hindcast.v1.EntityStoreService/ListEntityTypeRevisions", READER, Class::Unary, NONE),
    row("/hindcast.v1.EntityStoreService/ListEntityTypes", READER, Class::Unary, NONE),
    row("/hindcast.v1.EntityStoreService/Write", WRITER, Class::Unary, ROOM),
    row("/hindcast.v1.EntityStoreService/Ingest", WRITER, Class::Bulk, ROOM),
    row("/hindcast.v1.EntityStoreService/FinishImport", WRITER, Class::Unary, ROOM),
    row("/hindcast.v1.EntityStoreService/GetEntity", READER, Class::Unary, NONE),
    row("/hindcast.v1.EntityStoreService/BatchGetEntities", READER, Class::Unary, NONE),
    row("/hindcast.v1.EntityStoreService/Lookup", READER, Class::Bulk, NONE),
    row("/hindcast.v1.EntityStoreService/ScanEntities", READER, Class::Bulk, NONE),
    row("/hindcast.v1.EntityStoreService/ListHistory", READER, Class::Unary, NONE),
    row("/hindcast.v1.EntityStoreService/ListChanges", READER, Class::Watch, NONE),

    row("/hindcast.v1.CatalogService/CreateSource", OPERATOR, Class::Unary, ROOM),
    row("/hindcast.v1.CatalogService/GetSource", READER, Class::Unary, NONE),
    row("/hindcast.v1.CatalogService/ListSources", READER, Class::Unary, NONE),
    row("/hindcast.v1.CatalogService/RegisterTransform", OPERATOR, Class::Unary, ROOM),
    row("/hindcast.v1.CatalogService/GetTransform", READER, Class::Unary, NONE),
    row("/hindcast.v1.CatalogService/ListTransforms", READER, Class::Unary, NONE),
    row("/hindcast.v1.CatalogService/GetTable", READER, Class::Unary, NONE),
    row("/hindcast.v1.CatalogService/ListTables", READER, Class::Unary, NONE),
    row("/hindcast.v1.CatalogService/ReadTable", READER, Class::Bulk, NONE),

    row("/hindcast.v1.BackfillService/PlanBackfill", READER, Class::Unary, NONE),
    row("/hindcast.v1.BackfillService/CreateBackfill", OPERATOR, Class::Unary, ROOM),
    row("/hindcast.v1.BackfillService/GetBackfill", READER, Class::Unary, NONE),
    row("/hindcast.v1.BackfillService/ListBackfills", READER, Class::Unary, NONE),
    row("/hindcast.v1.BackfillService/ListPartitions", READER, Class::Unary, NONE),
    row("/hindcast.v1.BackfillService/CancelBackfill", OPERATOR, Class::Unary, NONE),
    row("/hindcast.v1.BackfillService/PauseBackfill", OPERATOR, Class::Unary, NONE),
    row("/hindcast.v1.BackfillService/ResumeBackfill", OPERATOR, Class::Unary, NONE),
    row("/hindcast.v1.BackfillService/SetBackfillConcurrency", OPERATOR, Class::Unary, NONE),
    row("/hindcast.v1.BackfillService/RetryBackfill", OPERATOR, Class::Unary, ROOM),
    row("/hindcast.v1.BackfillService/RestateBackfill", OPERATOR, Class::Unary, ROOM),
    row("/hindcast.v1.BackfillService/ListStalePartitions", READER, Class::Unary, NONE),
    row("/hindcast.v1.BackfillService/WatchBackfill", READER, Class::Watch, NONE),
    row("/hindcast.v1.BackfillService/WatchBackfills", READER, Class::Watch, NONE),

    row("/hindcast.v1.RateLimitService/CreateRateLimit", OPERATOR, Class::Unary, ROOM),
    row("/hindcast.v1.RateLimitService/GetRateLimit", READER, Class::Unary, NONE),
    row("/hindcast.v1.RateLimitService/ListRateLimits", READER, Class::Unary, NONE),
    row("/hindcast.v1.RateLimitService/UpdateRateLimit", OPERATOR, Class::Unary, ROOM),
    row("/hindcast.v1.RateLimitService/DeleteRateLimit", OPERATOR, Class::Unary, NONE),
    row("/hindcast.v1.RateLimitService/AcquirePermits", WRITER, Class::Watch, NONE),
    row("/hindcast.v1.RateLimitService/ReleasePermits", WRITER, Class::Unary, NONE),
    row("/hindcast.v1.RateLimitService/StreamPermits", WRITER, Class::Watch, NONE),
    row("/hindcast.v1.RateLimitService/ReportOutcome", WRITER, Class::Unary, NONE),

    row("/hindcast.v1.AdminService/Backup", ADMIN, Class::Bulk, NONE),

    row("/grpc.health.v1.Health/Check", OPEN, Class::Free, NONE),
    row("/grpc.health.v1.Health/Watch", OPEN, Class::Health, NONE),
    row("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", READER, Class::Free, NONE),
    row("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", READER, Class::Free, NONE),
];
