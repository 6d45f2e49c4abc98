//! What guards a server, made ready before anything else is touched: a server that cannot be guarded does not start.

use std::{net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    ServerConfig,
    gate::{Gate, Refusals},
    listen::{Accepting, is_loopback},
    protection::Admission,
    reload::{Reloads, Watched, all_tokens},
    tls::{self, Certificates},
};
use crate::{
    auth::{StaticToken, Tokens},
    config,
    time::Clock,
};

/// Why a server would not be guarded.
#[derive(Debug, thiserror::Error)]
pub enum Unguarded {
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The tokens file.
    #[error(transparent)]
    Tokens(#[from] config::Faults),
    /// A token that two files have.
    #[error("{0}")]
    TokenTwice(String),
    /// Everybody on the way could read and change what is said.
    #[error(
        "cannot serve {address}: others than this machine reach it, and there is no TLS; set tls_cert and tls_key, or listen \
         on 127.0.0.1, or say --insecure"
    )]
    Plain {
        /// As configured.
        address: SocketAddr,
    },
    /// Whoever reaches it could do everything.
    #[error(
        "cannot serve {address}: others than this machine reach it, and whoever does may do everything; set tokens_file or \
         tls_client_ca, or listen on 127.0.0.1, or say --insecure"
    )]
    Everybody {
        /// As configured.
        address: SocketAddr,
    },
}

/// What guards a server.
pub(super) struct Guard {
    pub(super) accepting: Accepting,
    pub(super) gate: Gate,
    pub(super) watched: Watched,
}

impl Guard {
    /// Reads certificates and tokens. Blocks on the disk for as long as some small files take.
    pub(super) fn prepare(config: &ServerConfig, clock: Arc<dyn Clock>) -> Result<Self, Unguarded> {
        let certificates = certificates(config, clock.as_ref())?;
        let needs_tokens = config.tokens_file.is_some() || !config.tokens.is_empty();
        let tokens = Tokens::new(needs_tokens, &tokens(config)?);
        refuse_unguarded(config)?;
        Ok(Self {
            accepting: Accepting {
                certificates: certificates.clone(),
                max_connections: config.protection.max_connections,
                handshake_timeout: config.protection.handshake_timeout,
                cut: CancellationToken::new(),
                clock: Arc::clone(&clock),
            },
            gate: Gate {
                tokens: tokens.clone(),
                admission: Arc::new(Admission::new(&config.protection, Arc::clone(&clock))),
                refusals: Arc::<Refusals>::default(),
                clock,
            },
            watched: Watched {
                certificates,
                tokens_file: config.tokens_file.clone(),
                fixed_tokens: config.tokens.clone(),
                tokens,
                reloads: Arc::<Reloads>::default(),
            },
        })
    }
}

/// Finds all that would keep a server from being guarded, as [`start`](super::start) would find the first of it.
pub fn check(config: &ServerConfig, clock: &dyn Clock) -> Vec<Unguarded> {
    [
        certificates(config, clock).err(),
        tokens(config).err(),
        refuse_unguarded(config).err(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn certificates(
    config: &ServerConfig,
    clock: &dyn Clock,
) -> Result<Option<Certificates>, Unguarded> {
    let files = config.tls.as_ref();
    Ok(files
        .map(|files| Certificates::open(files, clock))
        .transpose()?)
}

fn tokens(config: &ServerConfig) -> Result<Vec<StaticToken>, Unguarded> {
    let read = match &config.tokens_file {
        None => Vec::new(),
        Some(path) => config::read_tokens(path)?,
    };
    all_tokens(&config.tokens, read).map_err(Unguarded::TokenTwice)
}

fn refuse_unguarded(config: &ServerConfig) -> Result<(), Unguarded> {
    let address = config.listen;
    if config.insecure || is_loopback(address) {
        return Ok(());
    }
    let Some(files) = &config.tls else {
        return Err(Unguarded::Plain { address });
    };
    let knows_clients =
        config.tokens_file.is_some() || !config.tokens.is_empty() || files.client_ca.is_some();
    if knows_clients {
        Ok(())
    } else {
        Err(Unguarded::Everybody { address })
    }
}
