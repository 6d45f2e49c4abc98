//! Compiles the protos with protox, so that a fresh machine needs no `protoc`.

use std::{env, error::Error, path::PathBuf};

use prost::Message;

const PROTO_ROOT: &str = "proto";
const PROTOS: [&str; 6] = [
    "hindcast/v1/admin.proto",
    "hindcast/v1/common.proto",
    "hindcast/v1/entity_store.proto",
    "hindcast/v1/catalog.proto",
    "hindcast/v1/backfill.proto",
    "hindcast/v1/rate_limit.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    let descriptors = protox::compile(PROTOS, [PROTO_ROOT])?;
    let descriptor_path = PathBuf::from(env::var("OUT_DIR")?).join("hindcast_descriptor.bin");
    // For server reflection.
    std::fs::write(descriptor_path, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
