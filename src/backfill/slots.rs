//! Who may start how many attempts: the server's slots, shared out among backfills. Pure.
//!
//! Higher priorities come first. Among equals the slot goes to the backfill with the fewest attempts under way, then to the
//! one that got its last slot longest ago: nobody waits for another's end. Nothing that runs is stopped for a higher priority.

/// What one backfill asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// Higher comes first.
    pub(super) priority: i64,
    /// Attempts that compute now.
    pub(super) active: usize,
    /// More that it would start.
    pub(super) wanted: usize,
    /// When it got its last slot, in grants of the server.
    pub(super) last_grant: u64,
}

/// How many attempts each claim may start, of `free` slots, in the claims' order. `grant` counts on.
pub(super) fn share(claims: &[Claim], free: usize, grant: &mut u64) -> Vec<usize> {
    let mut granted = vec![0; claims.len()];
    let mut standing = claims.to_vec();
    for _ in 0..free {
        let next = standing
            .iter_mut()
            .enumerate()
            .filter(|(_, claim)| claim.wanted > 0)
            .min_by_key(|(_, claim)| (-claim.priority, claim.active, claim.last_grant));
        let Some((place, claim)) = next else {
            break;
        };
        *grant += 1;
        claim.active += 1;
        claim.wanted -= 1;
        claim.last_grant = *grant;
        if let Some(count) = granted.get_mut(place) {
            *count += 1;
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(priority: i64, active: usize, wanted: usize, last_grant: u64) -> Claim {
        Claim {
            priority,
            active,
            wanted,
            last_grant,
        }
    }

    #[test]
    fn equals_get_equal_shares_whatever_they_have() {
        let claims = [claim(0, 3, 9, 1), claim(0, 0, 9, 2), claim(0, 1, 1, 3)];
        assert_eq!(share(&claims, 6, &mut 3), [1, 4, 1]);
        assert_eq!(share(&claims, 2, &mut 3), [0, 1, 1]);
        assert_eq!(share(&claims, 0, &mut 3), [0, 0, 0]);
    }

    #[test]
    fn higher_priorities_take_all_that_they_want() {
        let claims = [claim(-1, 0, 9, 0), claim(5, 7, 2, 0), claim(0, 0, 1, 0)];
        assert_eq!(share(&claims, 2, &mut 0), [0, 2, 0]);
        assert_eq!(share(&claims, 9, &mut 0), [6, 2, 1]);
        assert_eq!(share(&claims, 99, &mut 0), [9, 2, 1]);
    }

    #[test]
    fn one_slot_goes_round() {
        let mut grant = 0;
        let mut last = [0; 3];
        let mut order = Vec::new();
        for _ in 0..6 {
            let claims = last.map(|last_grant| claim(0, 0, 5, last_grant));
            let granted = share(&claims, 1, &mut grant);
            let winner = granted.iter().position(|&count| count == 1).expect("one");
            last[winner] = grant;
            order.push(winner);
        }
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }
}
