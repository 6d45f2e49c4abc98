//! Certificates and the tokens file, looked at again and again: what changed takes effect, what is broken does not.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::tls::Certificates;
use crate::{
    auth::{StaticToken, Tokens},
    config,
    time::Clock,
};

/// What is looked at.
pub(super) struct Watched {
    pub(super) certificates: Option<Certificates>,
    pub(super) tokens_file: Option<PathBuf>,
    /// Those of the configuration file, which do not change.
    pub(super) fixed_tokens: Vec<StaticToken>,
    pub(super) tokens: Tokens,
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
            for (outcome, told) in outcomes.into_iter().zip(&mut told) {
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

    fn reload_certificates(&self, clock: &dyn Clock) -> Result<(), String> {
        if let Some(certificates) = &self.certificates
            && certificates
                .reload(clock)
                .map_err(|error| error.to_string())?
        {
            tracing::info!("new certificates are in use");
        }
        Ok(())
    }

    fn reload_tokens(&self) -> Result<(), String> {
        let Some(path) = &self.tokens_file else {
            return Ok(());
        };
        let read = config::read_tokens(path).map_err(|faults| faults.to_string())?;
        let all = all_tokens(&self.fixed_tokens, read)?;
        if self.tokens.set(&all) {
            tracing::info!(count = all.len(), "new tokens are in use");
        }
        Ok(())
    }
}

/// The tokens of both files.
///
/// # Errors
/// A name that both have.
pub(super) fn all_tokens(
    fixed: &[StaticToken],
    read: Vec<StaticToken>,
) -> Result<Vec<StaticToken>, String> {
    let mut all = fixed.to_vec();
    for token in read {
        if all.iter().any(|other| other.name == token.name) {
            return Err(format!(
                "cannot use the tokens file: token {:?} is there twice, the other one in the configuration file or above",
                token.name
            ));
        }
        all.push(token);
    }
    Ok(all)
}
