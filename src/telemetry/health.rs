//! Whether the server can do its work: for `grpc.health.v1` and for probes over HTTP.

use std::{fmt, sync::Arc};

use tokio::sync::watch;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{instrument::Sheet, metrics::Collect};

const BROKEN: &str = "broken: a write failed, and only a restart helps; the log says why";

/// What a server can do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The data folder is open, and what was under way is taken up.
    pub has_recovered: bool,
    /// It takes no new work.
    pub is_stopping: bool,
    /// Something can do no more until a restart; the log says what.
    pub is_broken: bool,
    /// The disk is nearly full: reads go on, writes are refused.
    pub is_disk_full: bool,
}

impl Standing {
    /// Why it is not ready for all of its work; `None`: it is.
    pub fn not_ready(self) -> Option<&'static str> {
        if !self.has_recovered {
            Some("recovering")
        } else if self.is_stopping {
            Some("stopping")
        } else if self.is_broken {
            Some(BROKEN)
        } else if self.is_disk_full {
            Some("the disk is nearly full: reads go on, writes are refused")
        } else {
            None
        }
    }

    /// Why it must be restarted; `None`: it need not be.
    pub fn not_alive(self) -> Option<&'static str> {
        self.is_broken.then_some(BROKEN)
    }

    fn status(self, writes: bool) -> ServingStatus {
        let reads = Self {
            is_disk_full: self.is_disk_full && writes,
            ..self
        };
        match reads.not_ready() {
            None => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
        }
    }
}

/// Where a server's [`Standing`] is kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    standing: Arc<watch::Sender<Standing>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            standing: Arc::new(watch::Sender::new(Standing::default())),
        }
    }
}

impl Collect for Readiness {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        sheet.gauge(
            "hindcast_ready",
            "1 while the server does all of its work; 0 while it recovers, stops, is broken, or its disk is nearly full.",
            u64::from(self.standing().not_ready().is_none()),
        )
    }
}

/// A service as its health is asked for.
#[derive(Debug, Clone, Copy)]
pub struct ServiceHealth {
    /// Its full name; empty: the server as a whole.
    pub name: &'static str,
    /// Whether it writes: then it does not serve while the disk is full.
    pub writes: bool,
}

impl ServiceHealth {
    /// Of a service that writes.
    pub const fn writing(name: &'static str) -> Self {
        Self { name, writes: true }
    }

    /// Of a service that only reads.
    pub const fn reading(name: &'static str) -> Self {
        Self {
            name,
            writes: false,
        }
    }
}

impl Readiness {
    /// How it stands.
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Notes a change.
    pub fn change(&self, change: impl FnOnce(&mut Standing)) {
        self.standing.send_if_modified(|standing| {
            let before = *standing;
            change(standing);
            *standing != before
        });
    }

    /// Returns at the next change.
    pub async fn changed(&self) {
        let mut changes = self.standing.subscribe();
        // This holds the sender: the wait ends with a change.
        let _ = changes.changed().await;
    }

    /// Tells `reporter` how the services stand, now and after every change, until the last clone of this is gone.
    pub async fn report(&self, reporter: HealthReporter, services: &'static [ServiceHealth]) {
        let mut changes = self.standing.subscribe();
        let standing = *changes.borrow_and_update();
        report_to(&reporter, services, standing).await;
        tokio::spawn(async move {
            let mut reporter = reporter;
            while changes.changed().await.is_ok() {
                let standing = *changes.borrow_and_update();
                report_to(&reporter, services, standing).await;
                if standing.is_stopping {
                    // Ends the streams of those who watch: they would hold the stop up.
                    for service in services {
                        reporter.clear_service_status(service.name).await;
                    }
                    return;
                }
            }
        });
    }
}

async fn report_to(reporter: &HealthReporter, services: &[ServiceHealth], standing: Standing) {
    for service in services {
        let status = standing.status(service.writes);
        reporter.set_service_status(service.name, status).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_stops_what_writes_and_nothing_else() {
        let well = Standing {
            has_recovered: true,
            ..Standing::default()
        };
        let full = Standing {
            is_disk_full: true,
            ..well
        };
        for (standing, reads, writes) in [
            (Standing::default(), false, false),
            (well, true, true),
            (full, true, false),
            (
                Standing {
                    is_broken: true,
                    ..well
                },
                false,
                false,
            ),
            (
                Standing {
                    is_stopping: true,
                    ..well
                },
                false,
                false,
            ),
        ] {
            let serves = |writes| standing.status(writes) == ServingStatus::Serving;
            assert_eq!(
                (serves(false), serves(true)),
                (reads, writes),
                "{standing:?}"
            );
            assert_eq!(standing.not_ready().is_none(), writes, "{standing:?}");
        }
    }
}
