//! Certificates and the tokens file, looked at again and again: what changed takes effect, what is broken does not.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::tls::Certificates;
use crate::{
    auth::{StaticToken, Tokens},
    config,
    telemetry::{Collect, Sheet},
    time::Clock,
};

/// How often looking again came to something, since the start.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    certificates: Outcomes,
    tokens: Outcomes,
}

#[derive(Debug, Default)]
struct Outcomes {
    taken: AtomicU64,
    failed: AtomicU64,
}

impl Outcomes {
    fn count(&self, outcome: &Result<bool, String>) {
        let counter = match outcome {
            Ok(true) => &self.taken,
            Ok(false) => return,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Collect for Reloads {
    fn collect(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let files = [
            ("certificates", &self.certificates),
            ("tokens", &self.tokens),
        ];
        let counts = files.into_iter().flat_map(|(files, outcomes)| {
            let outcomes = [("taken", &outcomes.taken), ("failed", &outcomes.failed)];
            outcomes.map(|(outcome, count)| {
                let labels = vec![("files", files), ("outcome", outcome)];
                (labels, count.load(Ordering::Relaxed))
            })
        });
        sheet.counters(
            "hindcast_reloads",
            "Looks at certificates and the tokens file that found new ones, or ones that cannot be used.",
            counts,
        )
    }
}

/// What is looked at.
pub(super) struct Watched {
    pub(super) certificates: Option<Certificates>,
    pub(super) tokens_file: Option<PathBuf>,
    /// Those of the configuration file, which do not change.
    pub(super) fixed_tokens: Vec<StaticToken>,
    pub(super) tokens: Tokens,
    pub(super) reloads: Arc<Reloads>,
}

impl Watched {
    /// Looks every `interval` until the task is aborted.
    pub(super) async fn watch(self, interval: Duration, clock: Arc<dyn Clock>) {
        let watched = Arc::new(self);
        // A fault is told when it comes up, not every time that it is still there.
        let mut told: [Option<String>; 2] = [None, None];
        loop {
            clock.sleep(interval).await;
            let (looking, looking_clock) = (Arc::clone(&watched), Arc::clone(&clock));
            let looked = tokio::task::spawn_blocking(move || {
                [
                    looking.reload_certificates(looking_clock.as_ref()),
                    looking.reload_tokens(),
                ]
            });
            let outcomes = match looked.await {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    tracing::error!(%error, "looking at certificates and tokens broke off");
                    return;
                }
            };
            let Reloads {
                certificates,
                tokens,
            } = watched.reloads.as_ref();
            let counts = [certificates, tokens];
            for ((outcome, told), counts) in outcomes.into_iter().zip(&mut told).zip(counts) {
                counts.count(&outcome);
                let fault = outcome.err();
                if let Some(fault) = &fault
                    && fault != told.as_deref().unwrap_or_default()
                {
                    tracing::error!("{fault}; what was read before holds on");
                }
                *told = fault;
            }
        }
    }

    /// Whether new ones took the place of those that were.
    fn reload_certificates(&self, clock: &dyn Clock) -> Result<bool, String> {
        let Some(certificates) = &self.certificates else {
            return Ok(false);
        };
        let reloaded = certificates.reload(clock);
        let is_new = reloaded.map_err(|error| error.to_string())?;
        if is_new {
            tracing::info!("new certificates are in use");
        }
        Ok(is_new)
    }

    /// Whether new ones took the place of those that were.
    fn reload_tokens(&self) -> Result<bool, String> {
        let Some(path) = &self.tokens_file else {
            return Ok(false);
        };
        let read = config::read_tokens(path).map_err(|faults| faults.to_string())?;
        let all = all_tokens(&self.fixed_tokens, read)?;
        let is_new = self.tokens.set(&all);
        if is_new {
            tracing::info!(count = all.len(), "new tokens are in use");
        }
        Ok(is_new)
    }
}

/// The tokens of both files.
///
/// # Errors
/// A name, or a digest, that two of them have.
pub(super) fn all_tokens(
    fixed: &[StaticToken],
    read: Vec<StaticToken>,
) -> Result<Vec<StaticToken>, String> {
    let mut all = fixed.to_vec();
    for token in read {
        if let Some(other) = all.iter().find(|other| other.name == token.name) {
            return Err(format!(
                "cannot use the tokens file: token {:?} is there twice, the other one in the configuration file or above",
                other.name
            ));
        }
        if let Some(other) = all.iter().find(|other| other.sha256 == token.sha256) {
            return Err(format!(
                "cannot use the tokens file: tokens {:?} and {:?} have the same sha256, the other one in the configuration \
                 file or above",
                token.name, other.name
            ));
        }
        all.push(token);
    }
    Ok(all)
}
