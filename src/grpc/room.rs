//! While the disk is nearly full, calls that would fill it further are refused before a service sees them.

use tonic::Status;

use super::status::to_status;
use crate::disk::Disk;

/// The calls that need room. Pausing and cancelling need next to none, and may be what makes some.
const NEED_ROOM: [&str; 12] = [
    "/hindcast.v1.EntityStoreService/CreateEntityType",
    "/hindcast.v1.EntityStoreService/UpdateEntityType",
    "/hindcast.v1.EntityStoreService/Write",
    "/hindcast.v1.EntityStoreService/Ingest",
    "/hindcast.v1.EntityStoreService/FinishImport",
    "/hindcast.v1.CatalogService/CreateSource",
    "/hindcast.v1.CatalogService/RegisterTransform",
    "/hindcast.v1.BackfillService/CreateBackfill",
    "/hindcast.v1.BackfillService/RetryBackfill",
    "/hindcast.v1.BackfillService/RestateBackfill",
    "/hindcast.v1.RateLimitService/CreateRateLimit",
    "/hindcast.v1.RateLimitService/UpdateRateLimit",
];

/// Refuses the call of this path if it needs room and there is none. **Cost**: next to nothing while there is.
pub(super) fn check(disk: &Disk, path: &str) -> Result<(), Box<Status>> {
    if disk.is_full() && NEED_ROOM.contains(&path) {
        return disk.check_last().map_err(|full| Box::new(to_status(&full)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::pb::FILE_DESCRIPTOR_SET;

    #[test]
    fn every_call_that_needs_room_is_declared() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
        let mut declared = Vec::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    declared.push(format!(
                        "/{}.{}/{}",
                        file.package(),
                        service.name(),
                        method.name()
                    ));
                }
            }
        }
        for path in NEED_ROOM {
            assert!(declared.iter().any(|it| it == path), "{path}");
        }
    }
}
