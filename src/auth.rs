//! Who calls: static bearer tokens, kept as SHA-256 digests.
//!
//! Without any token configured, whoever gets through to the server may do everything: it listens on loopback, or asks for
//! client certificates, or was told `insecure`. With tokens, every call but those to health needs one.

use std::{fmt, str::FromStr, sync::Arc};

use http::{HeaderMap, header::AUTHORIZATION};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::error::{Classify, ErrorKind};

/// What every token starts with, so that people and secret scanners know one when they see it.
pub const TOKEN_PREFIX: &str = "hct_";

/// What a client may do; a higher role may do all that a lower one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads, lists, watches and plans.
    Reader,
    /// Also writes entities and uses permits.
    Writer,
    /// Also defines entity types, sources, transforms and limits, and runs backfills.
    Operator,
    /// Also makes backups and erases.
    Admin,
}

impl Role {
    /// All, rising.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Writer, Self::Operator, Self::Admin];

    /// As configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut roles = Self::ALL.into_iter();
        roles.find(|role| role.name() == text).ok_or(())
    }
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a token.
    Open,
    /// From this role on.
    From(Role),
}

/// A token as configuration holds it: never the token itself.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticToken {
    /// Who uses it: for logs, and one of the things that rate limits go by.
    pub name: String,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
    /// What it lets do.
    pub role: Role,
    /// Where it stands in its file, counted from 1.
    pub line: usize,
}

impl fmt::Debug for StaticToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticToken({}, {})", self.name, self.role)
    }
}

/// SHA-256 of a token, as [`StaticToken`] has it.
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Who makes a call; in the extensions of every request that a handler sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's name; `None` where no tokens are configured, or the method is open to all.
    pub name: Option<Arc<str>>,
    /// What it may do.
    pub role: Role,
}

/// Why a call is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No token was shown.
    #[error("cannot call {method}: it needs a token; send it as \"authorization: Bearer TOKEN\"")]
    Missing {
        /// The path.
        method: String,
    },
    /// A token that nobody has. Neither it nor any part of it is told.
    #[error("cannot call {method}: the token is not known")]
    Unknown {
        /// The path.
        method: String,
    },
    /// A token that lets do less.
    #[error("cannot call {method}: token {name:?} is a {role}'s; it needs {needed} or more")]
    Role {
        /// The path, or a part of what it was asked.
        method: String,
        /// The token's name.
        name: String,
        /// What it lets do.
        role: Role,
        /// What would let do it.
        needed: Role,
    },
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } | Self::Unknown { .. } => ErrorKind::Unauthenticated,
            Self::Role { .. } => ErrorKind::Denied,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "TOKEN_MISSING",
            Self::Unknown { .. } => "TOKEN_UNKNOWN",
            Self::Role { .. } => "ROLE_TOO_LOW",
        }
    }
}

impl Principal {
    /// Lets `self` do `what`, or says why not.
    ///
    /// # Errors
    /// Its role is below `needed`.
    pub fn require(&self, needed: Role, what: &str) -> Result<(), Error> {
        if self.role >= needed {
            return Ok(());
        }
        Err(Error::Role {
            method: what.to_owned(),
            name: self.name.as_deref().unwrap_or("(none)").to_owned(),
            role: self.role,
            needed,
        })
    }
}

/// The tokens that hold now. Cheap to clone; clones see the same.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Settled at the start: a tokens file that is emptied later lets nobody in, instead of everybody.
    is_needed: bool,
    current: Arc<RwLock<Arc<[Known]>>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Known {
    name: Arc<str>,
    sha256: [u8; 32],
    role: Role,
}

impl Tokens {
    /// `is_needed`: without a token nobody is let in, whatever tokens there are.
    pub fn new(is_needed: bool, tokens: &[StaticToken]) -> Self {
        let new = Self {
            is_needed,
            current: Arc::default(),
        };
        new.set(tokens);
        new
    }

    /// Takes the place of all that were; gives whether that changes anything.
    pub fn set(&self, tokens: &[StaticToken]) -> bool {
        let known: Arc<[Known]> = tokens
            .iter()
            .map(|token| Known {
                name: token.name.as_str().into(),
                sha256: token.sha256,
                role: token.role,
            })
            .collect();
        let mut current = self.current.write();
        let is_new = *current != known;
        *current = known;
        is_new
    }

    /// Who calls the method at `path`, if they may. No `access`: nobody knows the method.
    ///
    /// # Errors
    /// No token, an unknown one, or one that lets do less.
    pub fn authorize(
        &self,
        path: &str,
        access: Option<Access>,
        headers: &HeaderMap,
    ) -> Result<Principal, Error> {
        let needed = match access {
            Some(Access::Open) => {
                return Ok(Principal {
                    name: None,
                    role: Role::Reader,
                });
            }
            Some(Access::From(role)) => role,
            None => Role::Admin,
        };
        if !self.is_needed {
            return Ok(Principal {
                name: None,
                role: Role::Admin,
            });
        }
        let known = Arc::clone(&self.current.read());
        let token = bearer(headers).ok_or_else(|| Error::Missing {
            method: path.to_owned(),
        })?;
        let found = find(&known, &digest(token)).ok_or_else(|| Error::Unknown {
            method: path.to_owned(),
        })?;
        let principal = Principal {
            name: Some(Arc::clone(&found.name)),
            role: found.role,
        };
        principal.require(needed, path)?;
        Ok(principal)
    }
}

/// All are compared, and each wholly: how long it takes tells nothing.
fn find<'a>(known: &'a [Known], digest: &[u8; 32]) -> Option<&'a Known> {
    let mut found = u64::MAX;
    for (index, one) in known.iter().enumerate() {
        let is_equal: Choice = one.sha256.ct_eq(digest);
        found = u64::conditional_select(&found, &(index as u64), is_equal);
    }
    known.get(usize::try_from(found).ok()?)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::methods;

    const READ: &str = "/hindcast.v1.EntityStoreService/GetEntity";
    const WRITE: &str = "/hindcast.v1.EntityStoreService/Write";

    fn tokens() -> Tokens {
        let token = |name: &str, role| StaticToken {
            name: name.to_owned(),
            sha256: digest(&format!("hct_{name}")),
            role,
            line: 1,
        };
        Tokens::new(true, &[token("r", Role::Reader), token("w", Role::Writer)])
    }

    fn call(tokens: &Tokens, path: &str, header: Option<&str>) -> Result<Principal, Error> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().expect("a header"));
        }
        let access = methods::find(path).map(|method| method.access);
        tokens.authorize(path, access, &headers)
    }

    #[test]
    fn a_token_lets_do_what_its_role_may() {
        let tokens = tokens();
        let reason = |path, header| call(&tokens, path, header).err().map(|it| it.reason());
        assert_eq!(reason(READ, Some("Bearer hct_r")), None);
        assert_eq!(reason(READ, Some("bearer  hct_r")), None);
        assert_eq!(reason(WRITE, Some("Bearer hct_w")), None);
        assert_eq!(reason(WRITE, Some("Bearer hct_r")), Some("ROLE_TOO_LOW"));
        assert_eq!(reason(READ, None), Some("TOKEN_MISSING"));
        assert_eq!(reason(READ, Some("Basic hct_r")), Some("TOKEN_MISSING"));
        assert_eq!(reason(READ, Some("Bearer hct_")), Some("TOKEN_UNKNOWN"));
        assert_eq!(reason(READ, Some("Bearer hct_r2")), Some("TOKEN_UNKNOWN"));
        assert_eq!(reason("/x/Y", Some("Bearer hct_w")), Some("ROLE_TOO_LOW"));
        assert_eq!(reason("/grpc.health.v1.Health/Check", None), None);
    }

    #[test]
    fn without_tokens_everybody_may_do_everything() {
        let principal = call(&Tokens::new(false, &[]), WRITE, None).expect("let in");
        assert_eq!(principal.role, Role::Admin);
    }

    #[test]
    fn tokens_that_were_all_taken_back_let_nobody_in() {
        let tokens = tokens();
        tokens.set(&[]);
        let refused = call(&tokens, READ, Some("Bearer hct_r")).expect_err("refused");
        assert_eq!(refused.reason(), "TOKEN_UNKNOWN");
    }
}
