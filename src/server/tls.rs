//! TLS by rustls: certificates from files, looked at again and again, and clients' certificates if they are asked for.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::WebPkiClientVerifier,
};

use super::certificate::{self, Validity};
use crate::time::{Clock, ValidTime};

/// Certificates that end sooner are warned of, in microseconds: two weeks.
const SOON_MICROS: i64 = 14 * 86_400 * 1_000_000;

/// Where certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the server's certificate, then those that sign it.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: who signs clients' certificates; with it every client must show one.
    pub client_ca: Option<PathBuf>,
}

/// Why certificates cannot be used. Nothing of a key is ever told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file holds nothing of the kind.
    #[error("cannot use {}: there is no {what} in it, in PEM", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What is looked for.
        what: &'static str,
    },
    /// A file is no PEM.
    #[error("cannot use {}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A certificate that holds no longer, or not yet.
    #[error("cannot use {}: its certificate is valid from {from} to {to}, and it is {now}", path.display())]
    OutOfDate {
        /// The file.
        path: PathBuf,
        /// Inclusive.
        from: ValidTime,
        /// Inclusive.
        to: ValidTime,
        /// The machine's time.
        now: ValidTime,
    },
    /// Certificate and key belong to different pairs.
    #[error("cannot use {}: it is not the key of the certificate in {}", key.display(), cert.display())]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
}

/// What the files hold: compared to see whether they changed.
#[derive(PartialEq, Eq)]
struct Bytes {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// The certificates that new connections are shown. Cheap to clone; clones see the same.
#[derive(Clone)]
pub(super) struct Certificates {
    files: TlsFiles,
    current: Arc<RwLock<Current>>,
}

struct Current {
    config: Arc<ServerConfig>,
    read: Bytes,
}

impl Certificates {
    /// Reads and checks the files.
    pub(super) fn open(files: &TlsFiles, clock: &dyn Clock) -> Result<Self, Error> {
        let read = Bytes::read(files)?;
        let config = configure(files, &read, clock)?;
        Ok(Self {
            files: files.clone(),
            current: Arc::new(RwLock::new(Current { config, read })),
        })
    }

    /// What the next connection is served with.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().config)
    }

    /// Looks at the files again; gives whether new ones took their place. Blocks on the disk.
    ///
    /// # Errors
    /// The new ones cannot be used. The old ones stay.
    pub(super) fn reload(&self, clock: &dyn Clock) -> Result<bool, Error> {
        let read = Bytes::read(&self.files)?;
        if self.current.read().read == read {
            return Ok(false);
        }
        let config = configure(&self.files, &read, clock)?;
        *self.current.write() = Current { config, read };
        Ok(true)
    }
}

impl Bytes {
    fn read(files: &TlsFiles) -> Result<Self, Error> {
        Ok(Self {
            cert: read(&files.cert)?,
            key: read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|cause| Error::Unreadable {
        path: path.to_owned(),
        cause,
    })
}

fn configure(
    files: &TlsFiles,
    bytes: &Bytes,
    clock: &dyn Clock,
) -> Result<Arc<ServerConfig>, Error> {
    let chain = certificates(&files.cert, &bytes.cert)?;
    check_validity(&files.cert, &chain, clock)?;
    let key = private_key(&files.key, &bytes.key)?;
    let malformed = |path: &Path| {
        let path = path.to_owned();
        move |error: rustls::Error| Error::Malformed {
            path,
            problem: error.to_string(),
        }
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(malformed(&files.cert))?;
    let builder = match files.client_ca.as_deref().zip(bytes.client_ca.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((path, bytes)) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, bytes)? {
                roots.add(authority).map_err(malformed(path))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| Error::Malformed {
                path: path.to_owned(),
                problem: error.to_string(),
            })?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            return Error::Mismatch {
                cert: files.cert.clone(),
                key: files.key.clone(),
            };
        }
        malformed(&files.cert)(error)
    })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|error| no_pem(path, &error))?;
    if found.is_empty() {
        return Err(Error::Missing {
            path: path.to_owned(),
            what: "certificate",
        });
    }
    Ok(found)
}

fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
        if matches!(error, pem::Error::NoItemsFound) {
            return Error::Missing {
                path: path.to_owned(),
                what: "private key",
            };
        }
        no_pem(path, &error)
    })
}

/// The library's texts may quote the file, which may hold a key.
fn no_pem(path: &Path, error: &pem::Error) -> Error {
    let problem = if matches!(error, pem::Error::MissingSectionEnd { .. }) {
        "a section of it does not end"
    } else if matches!(error, pem::Error::IllegalSectionStart { .. }) {
        "a section of it starts as none does"
    } else if matches!(error, pem::Error::Base64Decode(_)) {
        "it is no base64"
    } else {
        "it is no PEM"
    };
    Error::Malformed {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

fn check_validity(
    path: &Path,
    chain: &[CertificateDer<'_>],
    clock: &dyn Clock,
) -> Result<(), Error> {
    let now_micros = clock.now_micros();
    for certificate in chain {
        let Some(Validity {
            from_micros,
            to_micros,
        }) = certificate::validity(certificate)
        else {
            return Err(Error::Malformed {
                path: path.to_owned(),
                problem: "a certificate in it is malformed".to_owned(),
            });
        };
        if !(from_micros..=to_micros).contains(&now_micros) {
            return Err(Error::OutOfDate {
                path: path.to_owned(),
                from: ValidTime::from_micros(from_micros),
                to: ValidTime::from_micros(to_micros),
                now: ValidTime::from_micros(now_micros),
            });
        }
        if to_micros - now_micros < SOON_MICROS {
            let end = ValidTime::from_micros(to_micros);
            tracing::warn!(path = %path.display(), %end, "a certificate ends soon");
        }
    }
    Ok(())
}
