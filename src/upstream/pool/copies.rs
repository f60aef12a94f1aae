//! Prepared statements on one server. The proxy calls a statement by its id; on the server, each time it was parsed
//! has a number and a name of its own. So a name never means two texts, and what could not be parsed leaves nothing
//! that has to be known.

use std::collections::HashMap;

/// Identifies a statement: its text, and what PostgreSQL said about it. Process-wide.
pub type StatementId = u64;

/// Statements that are closed in one go when another is parsed.
const CLOSED_AT_ONCE: usize = 8;

/// Which copy of a statement may serve a client. PostgreSQL resolves names when it parses and does not notice all that
/// changes their meaning afterwards (a new table earlier in `search_path`), so a client gets no copy that is older than
/// its own `Parse`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Number of the client's own `Parse`.
    pub own: u64,
    /// Every copy with a number from this on was parsed after the client's own.
    pub since: u64,
}

/// The prepared statements of one server.
#[derive(Debug, Default)]
pub struct Copies {
    by_id: HashMap<StatementId, Copy>,
    tick: u64,
    /// Numbers that are on the server and that nobody uses any more.
    leftovers: Vec<u64>,
}

/// A statement as it was parsed on this server.
#[derive(Debug, Clone, Copy)]
struct Copy {
    /// Its number, which only grows.
    number: u64,
    /// When it was last used, in ticks.
    used: u64,
}

impl Copies {
    /// The number of the statement's copy, if it has one that may serve the client; counts as a use.
    pub fn find(&mut self, id: StatementId, fresh: Freshness) -> Option<u64> {
        self.tick += 1;
        let copy = self.by_id.get_mut(&id)?;
        if copy.number != fresh.own && copy.number < fresh.since {
            return None;
        }
        copy.used = self.tick;
        Some(copy.number)
    }

    /// The statement is parsed with this number. An earlier copy is left over, and beyond `limit` so is the statement
    /// that was used least recently.
    pub fn add(&mut self, id: StatementId, number: u64, limit: usize) {
        self.tick += 1;
        if let Some(earlier) = self.by_id.insert(id, Copy { number, used: self.tick }) {
            self.leftovers.push(earlier.number);
        }
        if self.by_id.len() > limit {
            let oldest = self.by_id.iter().filter(|(other, _)| **other != id);
            if let Some(oldest) = oldest.min_by_key(|(_, copy)| copy.used).map(|(id, _)| *id) {
                self.give_up(oldest);
            }
        }
    }

    /// The copy with this number did not come to be.
    pub fn undo(&mut self, id: StatementId, number: u64) {
        if self.by_id.get(&id).is_some_and(|copy| copy.number == number) {
            self.by_id.remove(&id);
        }
    }

    /// Nobody may use the copy any more.
    pub fn give_up(&mut self, id: StatementId) {
        self.leftovers.extend(self.by_id.remove(&id).map(|copy| copy.number));
    }

    /// The copy of `draft` turned out to be one of the statement `id`, and replaces an older one.
    pub fn adopt(&mut self, draft: StatementId, id: StatementId) {
        if draft != id
            && let Some(copy) = self.by_id.remove(&draft)
            && let Some(earlier) = self.by_id.insert(id, copy)
        {
            self.leftovers.push(earlier.number);
        }
    }

    /// Some of what is left over, to be closed.
    pub fn take_leftovers(&mut self) -> Vec<u64> {
        let kept = self.leftovers.len().saturating_sub(CLOSED_AT_ONCE);
        self.leftovers.split_off(kept)
    }

    /// It was not closed after all.
    pub fn put_back(&mut self, number: u64) {
        self.leftovers.push(number);
    }

    /// All are gone.
    pub fn clear(&mut self) {
        self.by_id.clear();
        self.leftovers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Freshness = Freshness { own: 0, since: 0 };

    #[test]
    fn a_copy_serves_whoever_parsed_it_and_whoever_parsed_before_it() {
        let mut copies = Copies::default();
        copies.add(7, 20, 10);
        for (own, since, served) in
            [(20, 25, true), (3, 5, true), (3, 20, true), (21, 21, false), (3, 30, false)]
        {
            let found = copies.find(7, Freshness { own, since });
            assert_eq!(found, served.then_some(20), "{own} {since}");
        }
        assert_eq!(copies.find(8, ANY), None);
    }

    #[test]
    fn the_least_recently_used_goes_when_one_more_than_the_limit_comes() {
        let mut copies = Copies::default();
        for id in 1..=3 {
            copies.add(id, id * 10, 3);
        }
        assert!(copies.take_leftovers().is_empty(), "at the limit");
        copies.find(1, ANY);
        copies.add(4, 40, 3);
        assert_eq!(copies.take_leftovers(), [20]);
        assert_eq!((copies.find(2, ANY), copies.find(1, ANY)), (None, Some(10)));
    }

    #[test]
    fn what_was_not_parsed_is_not_there_and_what_it_replaced_is_closed() {
        let mut copies = Copies::default();
        copies.add(1, 10, 9);
        copies.add(1, 11, 9);
        copies.undo(1, 11);
        assert_eq!(copies.find(1, ANY), None);
        assert_eq!(copies.take_leftovers(), [10]);
        copies.add(1, 12, 9);
        copies.undo(1, 11);
        assert_eq!(copies.find(1, ANY), Some(12), "another Parse was undone");
    }

    #[test]
    fn a_draft_takes_the_place_of_the_older_copy() {
        let mut copies = Copies::default();
        copies.add(1, 10, 9);
        copies.add(20, 20, 9);
        copies.adopt(20, 1);
        assert_eq!((copies.find(20, ANY), copies.find(1, ANY)), (None, Some(20)));
        assert_eq!(copies.take_leftovers(), [10]);
        copies.adopt(30, 1);
        assert_eq!(copies.find(1, ANY), Some(20), "the draft was evicted before it was described");
        copies.adopt(1, 1);
        assert_eq!(copies.find(1, ANY), Some(20));
    }

    #[test]
    fn leftovers_are_closed_a_few_at_a_time_and_come_back_if_they_were_not() {
        let mut copies = Copies::default();
        for number in 0..10 {
            copies.put_back(number);
        }
        assert_eq!((copies.take_leftovers().len(), copies.take_leftovers().len()), (CLOSED_AT_ONCE, 2));
        copies.put_back(3);
        assert_eq!(copies.take_leftovers(), [3]);
        copies.put_back(4);
        copies.clear();
        assert!(copies.take_leftovers().is_empty());
    }
}
