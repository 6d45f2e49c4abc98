//! A beat on each core while partitions compute, at which the kernel hands cores over.
//!
//! [`priority`](super::priority) says who comes first, not when. Since Linux 6.13 a thread that is woken does not interrupt
//! one of lower priority that computes: the core changes over at its next interrupt, which may be its tick, up to 4 ms later
//! ("lazy preemption"). Reads that take a tenth of that would wait for it. So a thread on each core sleeps for [`BEAT`] at a
//! time, and the end of its sleep is that interrupt.
//!
//! **Cost**: a wake-up per core and beat, well under 1 % of the core, and only while something computes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// How long a core computes at most before it changes over.
const BEAT: Duration = Duration::from_micros(500);

/// Beats while somebody plays.
#[derive(Debug)]
pub(super) struct Metronome {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    players: AtomicUsize,
    /// Held to wait for players and to tell of them.
    resting: Mutex<Resting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Resting {
    threads: usize,
    is_over: bool,
}

/// A player: it beats for as long as there is one.
#[derive(Debug)]
pub(super) struct Playing {
    shared: Arc<Shared>,
}

impl Metronome {
    /// Starts a thread for each core that this process may use. Where threads cannot be bound to cores, it never beats.
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        for core in cores() {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("beat-{core}"))
                .spawn(move || {
                    if bind_to(core) {
                        shared.beat();
                    }
                })?;
        }
        Ok(Self { shared })
    }

    /// Beats until what this gives is dropped.
    pub(super) fn play(&self) -> Playing {
        if self.shared.players.fetch_add(1, Ordering::SeqCst) == 0 {
            let _resting = self.shared.resting.lock();
            self.shared.changed.notify_all();
        }
        Playing {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.shared.resting.lock().is_over = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.shared.players.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn beat(&self) {
        loop {
            while self.players.load(Ordering::SeqCst) > 0 {
                std::thread::sleep(BEAT);
            }
            let mut resting = self.resting.lock();
            resting.threads += 1;
            while self.players.load(Ordering::SeqCst) == 0 && !resting.is_over {
                self.changed.wait(&mut resting);
            }
            resting.threads -= 1;
            if resting.is_over {
                return;
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn cores() -> Vec<usize> {
    use rustix::thread::CpuSet;

    let usable = rustix::thread::sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU)
        .filter(|core| usable.is_set(*core))
        .collect()
}

#[cfg(target_os = "linux")]
fn bind_to(core: usize) -> bool {
    let mut one = rustix::thread::CpuSet::new();
    one.set(core);
    let bound = rustix::thread::sched_setaffinity(None, &one);
    if let Err(error) = bound {
        tracing::debug!(%error, core, "no thread can be bound to this core");
    }
    bound.is_ok()
}

#[cfg(not(target_os = "linux"))]
fn cores() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn bind_to(_core: usize) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until_resting(metronome: &Metronome, threads: usize) {
        while metronome.shared.resting.lock().threads != threads {
            std::thread::yield_now();
        }
    }

    #[test]
    fn it_rests_unless_somebody_plays() {
        let metronome = Metronome::start().expect("starts");
        let threads = cores().len();
        until_resting(&metronome, threads);
        let first = metronome.play();
        until_resting(&metronome, 0);
        let second = metronome.play();
        drop(first);
        assert_eq!(metronome.shared.players.load(Ordering::SeqCst), 1);
        drop(second);
        until_resting(&metronome, threads);
        let shared = Arc::clone(&metronome.shared);
        drop(metronome);
        while Arc::strong_count(&shared) > 1 {
            std::thread::yield_now();
        }
    }
}
