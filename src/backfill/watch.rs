//! Watching a backfill: replay of its log, then its tail, with progress between.
//!
//! Invariant `PR-1`: a watcher that resumes sees each event exactly once, in order. It is served from the journal, so a slow
//! client never slows the executor; and only up to what is on disk, so that no event it saw can be lost.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Result,
    journal::Journal,
    model::{BackfillState, Change, Event, PartitionState, Record},
    state::{Counts, State},
};
use crate::time::Clock;

/// Events read from the journal at once.
const READ_AHEAD: usize = 512;
/// Items that may wait for a slow client.
const CLIENT_QUEUE: usize = 64;
/// How long events wait for others that come with them.
const COALESCE: Duration = Duration::from_millis(50);
/// How much longer for each watcher of the same backfill: a crowd is served rarely, and much at once.
const COALESCE_PER_WATCHER: Duration = Duration::from_micros(500);
/// How long at most.
const LONGEST_COALESCE: Duration = Duration::from_secs(1);
/// The latest events of a backfill that are kept in memory for its watchers.
const RECENT: usize = 1024;
/// How far back the rates look.
const RATE_WINDOW_MICROS: i64 = 20_000_000;
/// Finished partitions that the rates are made of, at most.
const RATE_SAMPLES: usize = 4096;

/// How often a watcher hears of nothing new.
#[derive(Debug, Clone, Copy)]
pub struct WatchSettings {
    /// Least time between two progress snapshots.
    pub progress_interval: Duration,
    /// Time without an item after which a heartbeat is sent.
    pub heartbeat_interval: Duration,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_millis(250),
            heartbeat_interval: Duration::from_secs(15),
        }
    }
}

/// What a watcher receives.
#[derive(Debug, Clone)]
pub enum WatchItem {
    /// The next event.
    Event(Event),
    /// Where it stands.
    Progress(Progress),
    /// Nothing new; the time in microseconds since the Unix epoch.
    Heartbeat(i64),
}

/// Where a backfill stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Its state.
    pub state: BackfillState,
    /// Its partitions.
    pub counts: Counts,
    /// Of published partitions.
    pub rows_read: u64,
    /// Of published partitions.
    pub rows_written: u64,
    /// Rows read, over the last seconds.
    pub rows_per_second: f64,
    /// Over the last seconds.
    pub partitions_per_second: f64,
    /// Until it ends, at this rate.
    pub eta: Option<Duration>,
    /// Since it was created, until it ended.
    pub elapsed: Duration,
    /// The last event that is counted in.
    pub sequence: u64,
}

/// How fast partitions finish. Times are monotonic microseconds.
#[derive(Debug, Default)]
pub(super) struct Meter {
    start_micros: Option<i64>,
    samples: VecDeque<(i64, u64)>,
}

impl Meter {
    /// The first attempt of this process starts.
    pub(super) fn start(&mut self, now_micros: i64) {
        self.start_micros.get_or_insert(now_micros);
    }

    /// A partition was published.
    pub(super) fn record(&mut self, now_micros: i64, rows: u64) {
        self.samples.push_back((now_micros, rows));
        if self.samples.len() > RATE_SAMPLES {
            self.samples.pop_front();
        }
    }

    /// Rows and partitions per second over the window that ends now.
    pub(super) fn rates(&self, now_micros: i64) -> (f64, f64) {
        let Some(start) = self.start_micros else {
            return (0.0, 0.0);
        };
        let oldest_kept = match self.samples.front() {
            Some(&(oldest, _)) if self.samples.len() == RATE_SAMPLES => oldest,
            _ => start,
        };
        let window_start = oldest_kept.max(now_micros - RATE_WINDOW_MICROS);
        let seconds = (now_micros - window_start) as f64 / 1e6;
        if seconds <= 0.0 {
            return (0.0, 0.0);
        }
        let recent = self.samples.iter().filter(|(at, _)| *at > window_start);
        let (rows, count) = recent.fold((0, 0u32), |(rows, count), sample| {
            (rows + sample.1, count + 1)
        });
        (rows as f64 / seconds, f64::from(count) / seconds)
    }
}

/// The latest events that are on disk: who watches as they come need not read them there.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<Arc<Event>>);

impl Recent {
    pub(super) fn push(&mut self, event: &Event) {
        if self.0.len() == RECENT {
            self.0.pop_front();
        }
        self.0.push_back(Arc::new(event.clone()));
    }

    pub(super) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }

    /// At most `limit` events after `sequence`, in order; `None`: not all of them are here.
    fn after(&self, sequence: u64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let first = self.0.front()?.sequence;
        let skipped = usize::try_from((sequence + 1).checked_sub(first)?).ok()?;
        let events: Vec<_> = self.0.iter().skip(skipped).take(limit).cloned().collect();
        (!events.is_empty()).then_some(events)
    }
}

/// What a watcher reads from.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) record: Arc<Record>,
    pub(super) visible: parking_lot::RwLock<State>,
    pub(super) meter: parking_lot::Mutex<Meter>,
    pub(super) recent: parking_lot::Mutex<Recent>,
    /// The last event that is on disk.
    pub(super) sequence: watch::Sender<u64>,
}

impl Watched {
    pub(super) fn new(record: Arc<Record>, state: State) -> Self {
        let (sequence, _) = watch::channel(state.last_sequence);
        Self {
            record,
            visible: parking_lot::RwLock::new(state),
            meter: parking_lot::Mutex::default(),
            recent: parking_lot::Mutex::default(),
            sequence,
        }
    }

    pub(super) fn progress(&self, clock: &dyn Clock) -> Progress {
        let state = self.visible.read();
        let (rows_per_second, partitions_per_second) =
            self.meter.lock().rates(clock.monotonic_micros());
        let remaining: u32 = state
            .counts()
            .iter()
            .filter(|(partition_state, _)| !partition_state.is_terminal())
            .map(|(_, count)| count)
            .sum();
        let active = matches!(state.state, BackfillState::Running | BackfillState::Pending);
        let eta = (active && partitions_per_second > 0.0)
            .then(|| Duration::try_from_secs_f64(f64::from(remaining) / partitions_per_second).ok())
            .flatten();
        let end_micros = state.end_micros.unwrap_or_else(|| clock.now_micros());
        let elapsed_micros =
            u64::try_from(end_micros - self.record.create_time_micros).unwrap_or(0);
        Progress {
            state: state.state,
            counts: state.counts().clone(),
            rows_read: state.rows_read,
            rows_written: state.rows_written,
            rows_per_second,
            partitions_per_second,
            eta,
            elapsed: Duration::from_micros(elapsed_micros),
            sequence: state.last_sequence,
        }
    }
}

/// Follows one backfill until it ends, the client goes away or the server stops.
pub(super) struct Watcher {
    pub(super) watched: Arc<Watched>,
    pub(super) journal: Journal,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: WatchSettings,
    pub(super) stopping: CancellationToken,
    pub(super) seen_sequence: u64,
}

impl Watcher {
    /// Starts following; the items come out of the receiver.
    pub(super) fn spawn(self) -> mpsc::Receiver<Result<WatchItem>> {
        let (client, items) = mpsc::channel(CLIENT_QUEUE);
        tokio::spawn(async move {
            if let Err(Interrupted::Failed(error)) = self.follow(&client).await {
                // A client that is gone needs no error.
                let _ = client.send(Err(error)).await;
            }
        });
        items
    }

    async fn follow(
        mut self,
        client: &mpsc::Sender<Result<WatchItem>>,
    ) -> std::result::Result<(), Interrupted> {
        let mut sequence = self.watched.sequence.subscribe();
        let mut last_progress: Option<(i64, Progress)> = None;
        loop {
            let last = *sequence.borrow_and_update();
            let ended = self.replay(last, client).await?;
            let is_last = ended || self.nothing_more_will_come();
            let now_micros = self.clock.monotonic_micros();
            let progress = self.watched.progress(self.clock.as_ref());
            let due_in = self.progress_due_in(last_progress.as_ref(), &progress, now_micros);
            if due_in.is_some_and(|due_in| is_last || due_in.is_zero()) {
                send(client, WatchItem::Progress(progress.clone())).await?;
                last_progress = Some((now_micros, progress));
            }
            if is_last {
                return Ok(());
            }
            let due_in = due_in.filter(|due_in| !due_in.is_zero());
            self.wait(&mut sequence, due_in, client).await?;
        }
    }

    /// When `progress` may be sent; `None`: it is no news.
    fn progress_due_in(
        &self,
        last: Option<&(i64, Progress)>,
        progress: &Progress,
        now_micros: i64,
    ) -> Option<Duration> {
        let Some((sent_micros, last)) = last else {
            return Some(Duration::ZERO);
        };
        let is_news =
            last.sequence != progress.sequence || last.rows_per_second != progress.rows_per_second;
        let since = Duration::from_micros(u64::try_from(now_micros - sent_micros).unwrap_or(0));
        is_news.then(|| self.settings.progress_interval.saturating_sub(since))
    }

    /// Sends the events up to `last`; whether the one that ends the backfill was among them.
    async fn replay(
        &mut self,
        last: u64,
        client: &mpsc::Sender<Result<WatchItem>>,
    ) -> std::result::Result<bool, Interrupted> {
        while self.seen_sequence < last {
            let recent = self
                .watched
                .recent
                .lock()
                .after(self.seen_sequence, READ_AHEAD);
            let events = match recent {
                Some(events) => events,
                None => self.read_journal().await?,
            };
            for event in events
                .into_iter()
                .take_while(|event| event.sequence <= last)
            {
                let event = Arc::unwrap_or_clone(event);
                self.seen_sequence = event.sequence;
                // An end with more after it is one that was retried.
                let ends = event.sequence == last
                    && matches!(&event.change, Change::State(state) if state.is_terminal());
                send(client, WatchItem::Event(event)).await?;
                if ends {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The next events of the log.
    async fn read_journal(&self) -> std::result::Result<Vec<Arc<Event>>, Interrupted> {
        let journal = self.journal.clone();
        let name = self.watched.record.name.clone();
        let after = self.seen_sequence;
        let read =
            tokio::task::spawn_blocking(move || journal.events_after(&name, after, READ_AHEAD));
        let events = read
            .await
            .map_err(|_| Interrupted::Failed(Error::Stopping))??;
        Ok(events.into_iter().map(Arc::new).collect())
    }

    /// The client has the last event of an ended backfill already.
    fn nothing_more_will_come(&self) -> bool {
        let state = self.watched.visible.read();
        state.state.is_terminal() && self.seen_sequence >= state.last_sequence
    }

    /// How long events wait for others: the longer, the more watch.
    fn coalesce(&self) -> Duration {
        let watchers = self.watched.sequence.receiver_count();
        let watchers = u32::try_from(watchers).unwrap_or(u32::MAX);
        let pause = self.settings.progress_interval.min(COALESCE);
        pause
            .saturating_add(COALESCE_PER_WATCHER.saturating_mul(watchers))
            .min(LONGEST_COALESCE)
    }

    /// Until there are events, or a snapshot that was held back is due.
    async fn wait(
        &self,
        sequence: &mut watch::Receiver<u64>,
        progress_due_in: Option<Duration>,
        client: &mpsc::Sender<Result<WatchItem>>,
    ) -> std::result::Result<(), Interrupted> {
        let mut due = self.clock.sleep(progress_due_in.unwrap_or_default());
        loop {
            let pause = self.clock.sleep(self.settings.heartbeat_interval);
            tokio::select! {
                changed = sequence.changed() => {
                    changed.map_err(|_| Interrupted::Failed(Error::Stopping))?;
                    // Changes that come together are read together.
                    self.clock.sleep(self.coalesce()).await;
                    return Ok(());
                }
                () = &mut due, if progress_due_in.is_some() => return Ok(()),
                () = pause => send(client, WatchItem::Heartbeat(self.clock.now_micros())).await?,
                () = client.closed() => return Err(Interrupted::ClientGone),
                () = self.stopping.cancelled() => return Err(Interrupted::Failed(Error::Stopping)),
            }
        }
    }
}

/// Why following ended early.
enum Interrupted {
    ClientGone,
    Failed(Error),
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

async fn send(
    client: &mpsc::Sender<Result<WatchItem>>,
    item: WatchItem,
) -> std::result::Result<(), Interrupted> {
    client
        .send(Ok(item))
        .await
        .map_err(|_| Interrupted::ClientGone)
}

/// Whether a partition's change is news for the rates.
pub(super) fn finished_rows(event: &Event) -> Option<u64> {
    match &event.change {
        Change::Partition(change) if change.state == PartitionState::Succeeded => {
            Some(change.rows_read)
        }
        Change::Partition(_)
        | Change::Created
        | Change::State(_)
        | Change::Concurrency(_)
        | Change::Resumed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_events_are_given_without_a_gap_or_not_at_all() {
        let mut recent = Recent::default();
        let event = |sequence| Event {
            sequence,
            time_micros: 0,
            change: Change::Created,
        };
        assert!(recent.after(0, 9).is_none(), "none are here");
        for sequence in 5..RECENT as u64 + 7 {
            recent.push(&event(sequence));
        }
        // 5 and 6 made room.
        let sequences = |after, limit| {
            let events = recent.after(after, limit)?;
            Some(
                events
                    .iter()
                    .map(|event| event.sequence)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(sequences(5, 9), None);
        assert_eq!(sequences(6, 3), Some(vec![7, 8, 9]));
        let last = RECENT as u64 + 6;
        assert_eq!(sequences(last - 1, 9), Some(vec![last]));
        assert_eq!(sequences(last, 9), None, "nothing follows it");
        recent.clear();
        assert!(recent.after(6, 9).is_none());
    }

    #[test]
    fn rates_look_back_over_the_window_only() {
        let mut meter = Meter::default();
        assert_eq!(meter.rates(1_000_000), (0.0, 0.0));
        meter.start(0);
        meter.record(1_000_000, 100);
        meter.record(2_000_000, 300);
        assert_eq!(meter.rates(2_000_000), (200.0, 1.0));
        let (rows, partitions) = meter.rates(21_500_000);
        assert_eq!(
            (rows, partitions),
            (15.0, 0.05),
            "the first sample is out of the window"
        );
    }
}
