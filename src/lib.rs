//! hindcast
pub mod error;
pub mod grpc;
pub mod kv;
pub mod store;
pub mod time;
/// wire types
#[expect(missing_docs, reason = "generated from the protos, which carry the documentation")]
pub mod pb {
    tonic::include_proto!("hindcast.v1");
}
