//! Watching all backfills at once: what there is, then what changes, as whole states.
//!
//! Changes that come together are told as one, so what a watcher costs does not grow with the number of events; each
//! backfill's last state is always told. A slow client is told less often, and never slows the executor.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Result,
    executor::Backfills,
    model::Record,
    state::State,
    watch::{WatchSettings, Watched},
};
use crate::time::Clock;

/// Items that may wait for a slow client.
const CLIENT_QUEUE: usize = 64;

/// What a watcher of all backfills receives.
#[derive(Debug, Clone)]
pub enum WatchAllItem<T> {
    /// How a backfill stands.
    Backfill(T),
    /// Those that were there when the watch began are told: so many.
    InitialDone(u32),
    /// Nothing new; the time in microseconds since the Unix epoch.
    Heartbeat(i64),
}

/// Follows backfills until the client goes away or the server stops. `show` says what to tell of a backfill, and `None` of
/// those that the client does not want; it runs under the backfill's lock and must be quick.
pub(super) struct AllWatcher<F> {
    pub(super) backfills: Backfills,
    /// Bumped after every change of any backfill.
    pub(super) changed: watch::Receiver<u64>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: WatchSettings,
    pub(super) stopping: CancellationToken,
    pub(super) include_ended: bool,
    pub(super) show: F,
}

impl<T, F> AllWatcher<F>
where
    T: Send + 'static,
    F: Fn(&Record, &State) -> Option<T> + Send + Sync + 'static,
{
    /// Starts following; the items come out of the receiver.
    pub(super) fn spawn(self) -> mpsc::Receiver<Result<WatchAllItem<T>>> {
        let (client, items) = mpsc::channel(CLIENT_QUEUE);
        tokio::spawn(async move {
            if self.follow(&client).await == Gone::ServerStopping {
                // A client that is gone needs no error.
                let _ = client.send(Err(Error::Stopping)).await;
            }
        });
        items
    }

    async fn follow(mut self, client: &mpsc::Sender<Result<WatchAllItem<T>>>) -> Gone {
        let mut told: HashMap<String, u64> = HashMap::new();
        self.changed.mark_unchanged();
        let initial = self.news(&mut told, true);
        let count = u32::try_from(initial.len()).unwrap_or(u32::MAX);
        let items = initial.into_iter().map(WatchAllItem::Backfill);
        for item in items.chain([WatchAllItem::InitialDone(count)]) {
            if client.send(Ok(item)).await.is_err() {
                return Gone::Client;
            }
        }
        loop {
            if let Err(gone) = self.wait(client).await {
                return gone;
            }
            for item in self.news(&mut told, false) {
                if client.send(Ok(WatchAllItem::Backfill(item))).await.is_err() {
                    return Gone::Client;
                }
            }
        }
    }

    /// What changed since it was told, by name.
    fn news(&self, told: &mut HashMap<String, u64>, initial: bool) -> Vec<T> {
        let changed: Vec<Arc<Watched>> = {
            let backfills = self.backfills.read();
            let is_news = |watched: &&Arc<Watched>| {
                let last = *watched.sequence.borrow();
                told.get(&watched.record.name) != Some(&last)
            };
            backfills.values().filter(is_news).cloned().collect()
        };
        let mut news = Vec::new();
        for watched in changed {
            let state = watched.visible.read();
            told.insert(watched.record.name.clone(), state.last_sequence);
            if initial && state.state.is_terminal() && !self.include_ended {
                continue;
            }
            news.extend((self.show)(&watched.record, &state));
        }
        news
    }

    /// Until something changed, and what comes with it.
    async fn wait(
        &mut self,
        client: &mpsc::Sender<Result<WatchAllItem<T>>>,
    ) -> std::result::Result<(), Gone> {
        loop {
            let pause = self.clock.sleep(self.settings.heartbeat_interval);
            tokio::select! {
                changed = self.changed.changed() => {
                    changed.map_err(|_| Gone::ServerStopping)?;
                    self.clock.sleep(self.settings.progress_interval).await;
                    self.changed.mark_unchanged();
                    return Ok(());
                }
                () = pause => {
                    let heartbeat = WatchAllItem::Heartbeat(self.clock.now_micros());
                    client.send(Ok(heartbeat)).await.map_err(|_| Gone::Client)?;
                }
                () = client.closed() => return Err(Gone::Client),
                () = self.stopping.cancelled() => return Err(Gone::ServerStopping),
            }
        }
    }
}

/// Why following ended.
#[derive(Debug, PartialEq, Eq)]
enum Gone {
    Client,
    ServerStopping,
}
