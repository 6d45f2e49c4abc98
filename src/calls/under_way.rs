//! Questions that are being asked, so that whoever asks the same meanwhile waits for that answer.
//!
//! Who claims a question asks it; who finds it claimed waits until the claim is over, and looks again: the answer is kept then, or
//! the other one failed, and the question is free. Nobody waits while he holds claims, so that no two wait for each other.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// An entity type, and the id of the answer.
type Key = (String, String);

/// All questions that are being asked. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct UnderWay {
    // Held for look-ups only; never over an await.
    asked: Arc<Mutex<HashMap<Key, CancellationToken>>>,
}

/// Whose a question is.
#[derive(Debug)]
pub(super) enum Claimed {
    /// To be asked by whoever holds this.
    Mine(Claim),
    /// Asked by another; cancelled when that is over.
    Theirs(CancellationToken),
}

/// A question that is asked by its holder. Dropping it lets those go on who wait: an answer has to be on disk before.
#[derive(Debug)]
pub(super) struct Claim {
    under_way: UnderWay,
    key: Key,
    over: CancellationToken,
}

impl UnderWay {
    pub(super) fn claim(&self, entity_type: &str, id: &str) -> Claimed {
        let key = (entity_type.to_owned(), id.to_owned());
        let mut asked = self.asked.lock();
        if let Some(over) = asked.get(&key) {
            return Claimed::Theirs(over.clone());
        }
        let over = CancellationToken::new();
        asked.insert(key.clone(), over.clone());
        Claimed::Mine(Claim {
            under_way: self.clone(),
            key,
            over,
        })
    }
}

impl Claim {
    /// The id of the answer.
    pub(super) fn id(&self) -> &str {
        &self.key.1
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.under_way.asked.lock().remove(&self.key);
        self.over.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_one_asker_until_the_claim_is_over() {
        let under_way = UnderWay::default();
        let Claimed::Mine(claim) = under_way.claim("t", "a") else {
            panic!("nobody asks yet");
        };
        assert_eq!(claim.id(), "a");
        let Claimed::Theirs(over) = under_way.claim("t", "a") else {
            panic!("it is asked already");
        };
        assert!(matches!(under_way.claim("u", "a"), Claimed::Mine(_)));
        assert!(!over.is_cancelled());
        drop(claim);
        assert!(over.is_cancelled());
        assert!(matches!(under_way.claim("t", "a"), Claimed::Mine(_)));
        assert!(under_way.asked.lock().is_empty());
    }
}
