//! While the disk is nearly full, calls that would fill it further are refused before a service sees them.

use tonic::Status;

use super::status::to_status;
use crate::{disk::Disk, server::methods};

/// Refuses the call of this path if it needs room and there is none. **Cost**: next to nothing while there is.
pub(super) fn check(disk: &Disk, path: &str) -> Result<(), Box<Status>> {
    if disk.is_full() && methods::find(path).is_some_and(|method| method.needs_room) {
        return disk.check_last().map_err(|full| Box::new(to_status(&full)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Access, Role};

    /// What changes something and goes on while the disk is full.
    const SPARE: [&str; 9] = [
        "/hindcast.v1.BackfillService/CancelBackfill",
        "/hindcast.v1.BackfillService/PauseBackfill",
        "/hindcast.v1.BackfillService/ResumeBackfill",
        "/hindcast.v1.BackfillService/SetBackfillConcurrency",
        "/hindcast.v1.RateLimitService/DeleteRateLimit",
        "/hindcast.v1.RateLimitService/AcquirePermits",
        "/hindcast.v1.RateLimitService/ReleasePermits",
        "/hindcast.v1.RateLimitService/StreamPermits",
        "/hindcast.v1.RateLimitService/ReportOutcome",
    ];

    #[test]
    fn what_writes_needs_room_but_for_what_spares_it() {
        for method in methods::METHODS {
            let writes = [Role::Writer, Role::Operator].map(Access::From);
            let expected = writes.contains(&method.access) && !SPARE.contains(&method.path);
            assert_eq!(method.needs_room, expected, "{}", method.path);
        }
    }
}
