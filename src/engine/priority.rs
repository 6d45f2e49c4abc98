//! Threads that compute yield to threads that serve.
//!
//! A partition computes for seconds, a read for microseconds. At equal priority, once partitions keep every core busy, a read
//! waits until one of them has used up its turn, which is milliseconds. With a lower priority it hands the core over at once,
//! and still has all of it while nothing else wants it.

use std::sync::atomic::{AtomicBool, Ordering};

/// How nice a thread that computes is; others are at 0. Of what two threads of one core use, it has about a tenth.
const NICENESS: i32 = 10;

/// Lowers the priority of the thread that calls it, for as long as it lives. Where that is not possible it is logged, once.
pub(super) fn lower() {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    let outcome = lower_by(NICENESS);
    if let Err(error) = outcome
        && !IS_TOLD.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(%error, "the engine's threads keep the priority of all others");
    }
}

/// Linux counts niceness by thread, and takes a thread's id where others take that of a process.
#[cfg(target_os = "linux")]
fn lower_by(niceness: i32) -> std::io::Result<()> {
    let thread = rustix::thread::gettid();
    Ok(rustix::process::setpriority_process(
        Some(thread),
        niceness,
    )?)
}

#[cfg(not(target_os = "linux"))]
fn lower_by(_niceness: i32) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// The 19th field of a thread's `stat`: the 17th after the name, which may hold spaces.
    fn niceness() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("this is Linux");
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let field = fields.split_whitespace().nth(16).expect("its niceness");
        field.parse().expect("a number")
    }

    #[test]
    fn only_the_thread_that_asks_is_lowered() {
        let before = niceness();
        let lowered = std::thread::spawn(|| {
            lower();
            niceness()
        });
        assert_eq!(lowered.join().expect("ends"), NICENESS.max(before));
        assert_eq!(niceness(), before);
    }
}
