//! Makes sled's flush survive power loss.
//!
//! sled 0.34.7 ends a flush on Linux in `sync_file_range`, which writes pages out but neither the file's metadata nor
//! the disk's own cache: a power cut after an acknowledged flush can lose it. This file defines `sync_file_range` for our
//! binary as `fdatasync`; the linker prefers it to libc's. [`self_test`] proves at start that the definition is in force.
//! This is the only unsafe code in the house.

#![cfg(target_os = "linux")]
#![expect(
    unsafe_code,
    reason = "an interposed libc symbol is a C function; its body is one libc call on the caller's descriptor"
)]

use std::{
    os::fd::AsRawFd,
    sync::atomic::{AtomicU64, Ordering},
};

static SYNC_COUNT: AtomicU64 = AtomicU64::new(0);

/// Stands in for libc's function of this name: `fdatasync`, whatever range is asked.
///
/// # Safety
/// As safe as `fdatasync`: a bad descriptor is an error return, not undefined behaviour.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(
    descriptor: libc::c_int,
    _offset: libc::off64_t,
    _size: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    SYNC_COUNT.fetch_add(1, Ordering::Relaxed);
    // SAFETY: fdatasync takes any integer; errno carries its failure to sled.
    unsafe { libc::fdatasync(descriptor) }
}

/// How many durable syncs sled has made in this process.
pub fn sync_count() -> u64 {
    SYNC_COUNT.load(Ordering::Relaxed)
}

/// Calls `sync_file_range` as sled does and sees whether it arrives here.
///
/// # Errors
/// The call went to libc instead, or the sync itself failed.
pub fn self_test(file: &std::fs::File) -> std::io::Result<()> {
    let before = sync_count();
    // SAFETY: the descriptor is open for the length of the call.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, 0) };
    if result != 0 {
        return Err(std::io::Error::last_os_error());
    }
    if sync_count() == before {
        return Err(std::io::Error::other(
            "sync_file_range is not the one that this binary defines: a flush would not survive power loss",
        ));
    }
    Ok(())
}
