//! hindcast
pub mod cli;
pub mod error;
pub mod kv;
pub mod server;
pub mod telemetry;
pub mod time;
/// wire types
#[expect(
    missing_docs,
    reason = "generated from the protos, which carry the documentation"
)]
pub mod pb {
    tonic::include_proto!("hindcast.v1");
}
