//! [`Turns`]: which of the waiting items are this instance's to deliver now.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::rendezvous::{self, Ring};
use crate::engine::Item;

/// How long an item is left to whom it belongs. Whoever still sees it waiting then takes it: the first may be dead, hung,
/// or not know of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Remembers since when each item is seen waiting. It holds what the last look showed, and nothing else.
pub(super) struct Turns {
    own: String,
    /// By the hash of an item's key: where two have the same one, the later is taken early, which costs a double effort.
    waiting_since: HashMap<u64, Instant>,
}

impl Turns {
    /// Nothing seen so far. `own` is this instance's id.
    pub(super) fn new(own: String) -> Self {
        Self {
            own,
            waiting_since: HashMap::new(),
        }
    }

    /// Of `items`, all that wait `now`, those that this instance is to deliver: those for which it comes first among itself
    /// and `live`, and those that it has seen waiting for longer than [`PATIENCE`].
    pub(super) fn due<'a>(&mut self, items: &'a [Item], live: Vec<String>, now: Instant) -> Vec<&'a Item> {
        let ring = Ring::new(&self.own, live);
        let mut waiting_since = HashMap::with_capacity(items.len());
        let mut due = Vec::new();
        for item in items {
            let key = key(item);
            let since = self.waiting_since.get(&key).copied().unwrap_or(now);
            waiting_since.insert(key, since);
            if ring.is_first(key) || now.saturating_duration_since(since) > PATIENCE {
                due.push(item);
            }
        }
        self.waiting_since = waiting_since;
        due
    }
}

/// A batch that was offered twice belongs to one instance; what cannot be read has its bytes alone.
fn key(item: &Item) -> u64 {
    match &item.content {
        Ok(batch) => rendezvous::hash(batch.id.as_bytes()),
        Err(_) => rendezvous::hash(&item.token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Batch;
    use crate::message::Message;

    fn item(id: &str) -> Item {
        let message = Message {
            identifier: id.to_owned(),
            text: String::new(),
        };
        Item {
            token: id.to_owned().into(),
            content: Ok(Batch {
                id: id.to_owned(),
                messages: vec![message],
            }),
        }
    }

    fn junk(bytes: &'static str) -> Item {
        Item {
            token: bytes.into(),
            content: Err("no JSON".to_owned()),
        }
    }

    fn live() -> Vec<String> {
        vec!["a".to_owned(), "b".to_owned()]
    }

    /// Many items, of which each of the two has its share.
    fn items() -> Vec<Item> {
        let batches = (0..50).map(|n| item(&n.to_string()));
        batches.chain([junk("x"), junk("y"), junk("z"), junk("w")]).collect()
    }

    #[test]
    fn each_item_is_due_at_once_with_exactly_one_of_those_who_know_each_other() {
        let (items, now) = (items(), Instant::now());
        let mut due = Turns::new("a".to_owned()).due(&items, live(), now);
        let of_b = Turns::new("b".to_owned()).due(&items, live(), now);
        assert!(!due.is_empty() && !of_b.is_empty());
        due.extend(of_b);
        assert_eq!(due.len(), items.len());
        assert!(items.iter().all(|item| due.contains(&item)));
    }

    #[test]
    fn who_knows_of_nobody_else_delivers_all() {
        let items = items();
        assert_eq!(
            Turns::new("a".to_owned()).due(&items, vec![], Instant::now()).len(),
            items.len()
        );
    }

    #[test]
    fn what_belongs_to_another_is_due_once_it_was_seen_waiting_for_over_2_s() {
        let (items, start) = (items(), Instant::now());
        let mut turns = Turns::new("a".to_owned());
        let mut due = |at: Duration| turns.due(&items, live(), start + at).len();
        let own = due(Duration::ZERO);
        assert!(own < items.len());
        assert_eq!(due(PATIENCE), own);
        assert_eq!(due(PATIENCE + Duration::from_millis(1)), items.len());
    }

    #[test]
    fn what_was_gone_in_between_waits_anew_and_nothing_gone_is_remembered() {
        let (items, start) = (items(), Instant::now());
        let mut turns = Turns::new("a".to_owned());
        let own = turns.due(&items, live(), start).len();
        turns.due(&[], live(), start + Duration::from_secs(1));
        assert!(turns.waiting_since.is_empty());
        assert_eq!(turns.due(&items, live(), start + Duration::from_secs(3)).len(), own);
    }
}
