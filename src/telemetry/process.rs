//! What the operating system says of this process, under the names that every Prometheus client uses.

use std::{fmt, sync::Arc};

use super::{instrument::Sheet, metrics::Collect};
use crate::time::Clock;

/// Memory, processor time and open files of this process, read from `/proc` at each scrape; elsewhere only the start time.
#[derive(Debug)]
pub struct ProcessCollector {
    start_seconds: f64,
}

impl ProcessCollector {
    /// Of a process that starts now.
    pub fn new(clock: &Arc<dyn Clock>) -> Self {
        Self {
            start_seconds: clock.now_micros() as f64 / 1e6,
        }
    }
}

impl Collect for ProcessCollector {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        sheet.gauge(
            "process_start_time_seconds",
            "Start of the server, in seconds since the Unix epoch.",
            self.start_seconds,
        )?;
        #[cfg(target_os = "linux")]
        of_proc(sheet)?;
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn of_proc(sheet: &mut Sheet<'_>) -> fmt::Result {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(usage) = Usage::parse(&stat) {
        sheet.gauge(
            "process_resident_memory_bytes",
            "Memory of the process that is in use and not swapped out.",
            usage.resident_pages * rustix::param::page_size() as u64,
        )?;
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        sheet.counter(
            "process_cpu_seconds",
            "Processor time of the process, user and system.",
            usage.cpu_ticks as f64 / ticks_per_second,
        )?;
        sheet.gauge(
            "process_threads",
            "Threads of the process.",
            usage.thread_count,
        )?;
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        sheet.gauge(
            "process_open_fds",
            "Open files and connections of the process.",
            files.count() as u64,
        )?;
    }
    Ok(())
}

/// Of `/proc/self/stat`. **Source**: proc_pid_stat(5).
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
struct Usage {
    cpu_ticks: u64,
    thread_count: u64,
    resident_pages: u64,
}

#[cfg(target_os = "linux")]
impl Usage {
    fn parse(stat: &str) -> Option<Self> {
        // The second field is the command's name, in brackets, with whatever is in it. The rest begins with the third.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            thread_count: field(20)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_is_one_field() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 12 0 900 1000000 321 18446744073709551615";
        let usage = Usage {
            cpu_ticks: 300,
            thread_count: 12,
            resident_pages: 321,
        };
        assert_eq!(Usage::parse(stat), Some(usage));
        assert_eq!(Usage::parse("7 (cut"), None);
        let own = std::fs::read_to_string("/proc/self/stat").expect("on Linux");
        assert!(Usage::parse(&own).is_some_and(|usage| usage.resident_pages > 0));
    }
}
