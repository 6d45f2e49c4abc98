//! Who is next among those that wait: clients take turns, and each one's requests go in the order in which they came. Pure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// A request that waits; later ones are greater.
pub(super) type Ticket = u64;

/// Turns of clients that ask for nothing any more are taken out once there are so many of them.
const MOST_EMPTY: usize = 64;

/// The waiting requests of one class.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Whose turn is next. A client whose line has become empty leaves when its turn comes, or when there are too many of them.
    turns: VecDeque<Arc<str>>,
    lines: HashMap<Arc<str>, BTreeMap<Ticket, u32>>,
    requests: usize,
    permits: u64,
}

impl Queue {
    pub(super) fn push(&mut self, client: &Arc<str>, ticket: Ticket, permits: u32) {
        let line = self.lines.entry(Arc::clone(client)).or_insert_with(|| {
            self.turns.push_back(Arc::clone(client));
            BTreeMap::new()
        });
        line.insert(ticket, permits);
        self.requests += 1;
        self.permits += u64::from(permits);
    }

    /// Takes a request out that nobody waits for any more. `false`: it is not there.
    pub(super) fn remove(&mut self, client: &str, ticket: Ticket) -> bool {
        let was_there = self.take_out(client, ticket);
        // Behind a head that waits for long, clients may come and go without end.
        if self.turns.len() > 2 * self.requests + MOST_EMPTY {
            self.lines.retain(|_, line| !line.is_empty());
            self.turns.retain(|client| self.lines.contains_key(client));
        }
        was_there
    }

    fn take_out(&mut self, client: &str, ticket: Ticket) -> bool {
        let Some(permits) = self
            .lines
            .get_mut(client)
            .and_then(|line| line.remove(&ticket))
        else {
            return false;
        };
        self.requests -= 1;
        self.permits -= u64::from(permits);
        true
    }

    /// The first request of the client that comes `skip` turns after the one whose turn it is; `None`: there are not so many.
    pub(super) fn peek(&mut self, skip: usize) -> Option<(Arc<str>, Ticket, u32)> {
        loop {
            let client = self.turns.get(skip)?;
            if let Some((ticket, permits)) =
                self.lines.get(client).and_then(BTreeMap::first_key_value)
            {
                return Some((Arc::clone(client), *ticket, *permits));
            }
            if let Some(client) = self.turns.remove(skip) {
                self.lines.remove(&client);
            }
        }
    }

    /// Takes out what [`Queue::peek`] showed; its client's next turn comes after everyone else's.
    pub(super) fn pop(&mut self, skip: usize) {
        let Some((client, ticket, _)) = self.peek(skip) else {
            return;
        };
        self.take_out(&client, ticket);
        self.turns.remove(skip);
        let is_done = self.lines.get(&client).is_none_or(BTreeMap::is_empty);
        if is_done {
            self.lines.remove(&client);
        } else {
            self.turns.push_back(client);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// Requests that wait.
    pub(super) fn len(&self) -> usize {
        self.requests
    }

    /// Permits that are waited for.
    pub(super) fn permits(&self) -> u64 {
        self.permits
    }

    /// Takes out what asks for more than `most`.
    pub(super) fn remove_above(&mut self, most: u64) -> Vec<(Ticket, u32)> {
        let mut removed = Vec::new();
        for line in self.lines.values_mut() {
            line.retain(|ticket, permits| {
                let stays = u64::from(*permits) <= most;
                if !stays {
                    removed.push((*ticket, *permits));
                }
                stays
            });
        }
        self.requests -= removed.len();
        self.permits -= removed.iter().map(|(_, it)| u64::from(*it)).sum::<u64>();
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queue: &mut Queue) -> Vec<Ticket> {
        let mut order = Vec::new();
        while let Some((_, ticket, _)) = queue.peek(0) {
            order.push(ticket);
            queue.pop(0);
        }
        order
    }

    fn queue(requests: &[(&str, Ticket)]) -> Queue {
        let mut queue = Queue::default();
        for (client, ticket) in requests {
            queue.push(&Arc::from(*client), *ticket, 1);
        }
        queue
    }

    #[test]
    fn clients_take_turns_and_each_is_served_in_order() {
        let mut queue = queue(&[("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("c", 6)]);
        assert_eq!(order(&mut queue), [1, 4, 5, 2, 6, 3]);
        assert!(queue.is_empty() && queue.permits() == 0);
    }

    #[test]
    fn leaving_and_coming_back_gains_no_turn() {
        let mut queue = queue(&[("a", 1), ("b", 2)]);
        for ticket in 3..10 {
            assert!(queue.remove("a", if ticket == 3 { 1 } else { ticket - 1 }));
            queue.push(&Arc::from("a"), ticket, 1);
        }
        assert!(!queue.remove("a", 1), "it is not there any more");
        assert_eq!(order(&mut queue), [9, 2]);
        assert!(queue.lines.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn clients_that_come_and_go_behind_a_waiting_head_leave_nothing() {
        let mut queue = queue(&[("head", 0), ("next", 1)]);
        for ticket in 2..10_000 {
            let client: Arc<str> = Arc::from(format!("c{ticket}"));
            queue.push(&client, ticket, 1);
            assert!(queue.remove(&client, ticket));
        }
        assert!(queue.turns.len() < 100 && queue.lines.len() < 100);
        assert_eq!(order(&mut queue), [0, 1]);
    }

    #[test]
    fn whoever_cannot_be_served_now_is_skipped_and_keeps_its_place() {
        let mut queue = queue(&[("a", 1), ("b", 2), ("b", 3)]);
        assert_eq!(queue.peek(1).map(|it| it.1), Some(2));
        queue.pop(1);
        assert_eq!(queue.peek(1).map(|it| it.1), Some(3));
        assert_eq!(order(&mut queue), [1, 3]);
    }

    #[test]
    fn what_can_never_be_granted_leaves() {
        let mut queue = queue(&[("a", 1)]);
        queue.push(&Arc::from("a"), 2, 9);
        assert_eq!(queue.remove_above(8), [(2, 9)]);
        assert_eq!((queue.len(), queue.permits()), (1, 1));
    }
}
