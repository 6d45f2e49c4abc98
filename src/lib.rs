//! hindcast recomputes history correctly: it keeps entity state on two time axes, and runs backfills that can only see the
//! world as it was.
//!
//! # The map of the house
//!
//! | module | what it is | what it leaves to others |
//! |---|---|---|
//! | [`time`] | instants on two axes, half-open intervals, calendars of partitions, clocks | |
//! | [`kv`] | ordered key-value storage on sled, with a flush that survives power loss | what the bytes mean |
//! | [`store`] | the bitemporal entity store: timelines, pages, commits, as-of reads | how it is asked over the wire |
//! | [`catalog`] | declared sources, registered transforms | running them |
//! | [`calls`] | what SQL asks of outside systems: requests, and answers that are kept | where SQL may call them |
//! | [`engine`] | a transform's SQL in a session pinned to one partition and one basis | which partitions run |
//! | [`disk`] | how much room there is, and who is refused when it runs out | making some |
//! | [`lake`] | output tables in Iceberg: staging, replacing partitions, reading back | when that happens |
//! | [`backfill`] | plans, the journalled state machine, the executor, watching | what a partition computes |
//! | [`limits`] | rate limits of outside systems: quotas, turns, back-off | how calls are made |
//! | [`grpc`] | wire types to domain and back, one file per service, errors to `Status` | everything else |
//! | [`auth`] | tokens and roles: who calls, and what they may do | what each method needs |
//! | [`config`] | a server's settings: file, variables, flags | |
//! | [`telemetry`] | log lines, metrics, spans, health | what happens |
//! | [`server`] | all of it put together: who may come in, how much, how long | |
//! | [`cli`] | the command line: the server's and the clients' | |
//!
//! Five habits hold throughout: pure cores in thin async shells; time, chance and ids are parameters; wire types stop at
//! [`grpc`]; one place turns errors into statuses; every invariant has a name and a test.

pub mod auth;
pub mod backfill;
pub mod calls;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod disk;
pub mod engine;
pub mod error;
pub mod grpc;
pub mod ids;
pub mod kv;
pub mod lake;
pub mod limits;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod time;

/// The wire's messages and services, generated from `proto/hindcast/v1`.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated from the protos, which carry the documentation"
)]
pub mod pb {
    tonic::include_proto!("hindcast.v1");

    /// The compiled protos, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        tonic::include_file_descriptor_set!("hindcast_descriptor");
}
