//! Remembers the verdicts on texts that come again. Each text has one place, by its hash, and the last text that
//! came there has it: nothing grows, nothing is searched for, and a flood of new texts costs others their places
//! but no more. Short texts are read faster than found, long ones are rare and dear to keep; neither is kept.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::{Rules, Verdict, inspect};

/// The shortest text worth a place.
const MIN_TEXT_BYTES: usize = 128;
/// The longest text that gets one.
pub const MAX_TEXT_BYTES: usize = 8 * 1024;
/// What a place costs beside its text, roughly: the entry, its share of the table, the allocation.
const PLACE_BYTES: usize = size_of::<Kept>() + 64;
/// How many bytes a text of an application has, with its place: from this the number of places.
const TYPICAL_BYTES: usize = 512;

/// Verdicts on repeated texts, shared by all sessions.
#[derive(Debug)]
pub struct Verdicts {
    places: DashMap<usize, Kept, BuildHasherDefault<Spread>>,
    /// A power of two.
    count: usize,
    seed: RandomState,
    capacity_bytes: usize,
    held_bytes: AtomicUsize,
}

#[derive(Debug)]
struct Kept {
    text: Box<[u8]>,
    rules: Rules,
    verdict: Verdict,
}

// === impl Verdicts ===

impl Verdicts {
    /// Keeps so many bytes of texts and verdicts at most; with zero it keeps nothing.
    pub fn new(capacity_bytes: usize) -> Self {
        let count = (capacity_bytes / TYPICAL_BYTES).max(1).next_power_of_two();
        Self {
            places: DashMap::default(),
            count,
            seed: RandomState::new(),
            capacity_bytes,
            held_bytes: AtomicUsize::new(0),
        }
    }

    /// The verdict of [`inspect`], read or remembered.
    pub fn inspect(&self, text: &[u8], rules: &Rules) -> Verdict {
        if !(MIN_TEXT_BYTES..=MAX_TEXT_BYTES).contains(&text.len()) {
            return inspect(text, rules);
        }
        let place = self.place(text, rules);
        if let Some(kept) = self.places.get(&place)
            && *kept.text == *text
            && kept.rules == *rules
        {
            return kept.verdict.clone();
        }
        let verdict = inspect(text, rules);
        self.keep(place, Kept { text: text.into(), rules: rules.clone(), verdict: verdict.clone() });
        verdict
    }

    /// How many bytes it holds.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    fn keep(&self, place: usize, kept: Kept) {
        if let Some((_, old)) = self.places.remove(&place) {
            self.held_bytes.fetch_sub(old.bytes(), Ordering::Relaxed);
        }
        let bytes = kept.bytes();
        // Reserved before it is there, so that two that come at once cannot both take the last bytes.
        let held = self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        let given_back = if held.saturating_add(bytes) > self.capacity_bytes {
            bytes
        } else {
            self.places.insert(place, kept).map_or(0, |old| old.bytes())
        };
        self.held_bytes.fetch_sub(given_back, Ordering::Relaxed);
    }

    fn place(&self, text: &[u8], rules: &Rules) -> usize {
        let mut hasher = self.seed.build_hasher();
        hasher.write(text);
        hasher.write_u32(rules.fingerprint());
        usize::try_from(hasher.finish() >> 16).unwrap_or_default() & (self.count - 1)
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        let owned = match &self.verdict {
            Verdict::Pass(_) => 0,
            // What they say is bounded by the text's own length, or by how much of it is repeated.
            Verdict::Tenant(..) => self.text.len(),
            Verdict::Refuse(refusal) => refusal.detail.len(),
        };
        self.text.len() + owned + PLACE_BYTES
    }
}

/// A place's number is as good as random already; this moves it to the bits by which the table divides itself.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_usize(&mut self, number: usize) {
        self.0 = u64::try_from(number).unwrap_or_default().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::GuardLevel;

    fn rules() -> Rules {
        Rules::new("app.tenant_id", GuardLevel::Strict, &[])
    }

    fn text(number: usize, length: usize) -> Vec<u8> {
        let mut text = format!("SELECT {number} AS ").into_bytes();
        text.resize(length, b'x');
        text
    }

    #[test]
    fn a_text_that_comes_again_gets_the_verdict_of_its_reading() {
        let verdicts = Verdicts::new(1 << 20);
        let filler = "x".repeat(MIN_TEXT_BYTES);
        for text in [
            format!("SELECT 1 AS {filler}"),
            format!("LOCK {filler}"),
            format!("SET app.tenant_id = '{filler}'"),
            format!("SELECT set_config('app.tenant_id', $1, false) AS {filler}"),
            format!("SET app.tenant_id = '{filler}', 'x'"),
        ] {
            let read = inspect(text.as_bytes(), &rules());
            for _ in 0..2 {
                assert_eq!(verdicts.inspect(text.as_bytes(), &rules()), read, "{text}");
            }
        }
        assert_eq!(verdicts.places.len(), 5);
    }

    #[test]
    fn other_rules_get_their_own_verdict_on_the_same_text() {
        let verdicts = Verdicts::new(1 << 20);
        let text = format!("LOCK {}", "x".repeat(MIN_TEXT_BYTES));
        let by = |level, allow| Rules::new("app.tenant_id", level, allow);
        for _ in 0..2 {
            for (rules, passes) in [
                (by(GuardLevel::Strict, &[]), false),
                (by(GuardLevel::Strict, &["lock-table"]), true),
                (by(GuardLevel::Strict, &["notify"]), false),
                (by(GuardLevel::Context, &[]), true),
                (by(GuardLevel::Off, &[]), true),
            ] {
                let verdict = verdicts.inspect(text.as_bytes(), &rules);
                assert_eq!(matches!(verdict, Verdict::Pass(_)), passes, "{rules:?}");
            }
        }
        // One place for all, so each comes upon what another has left there.
        let one = Verdicts::new(TYPICAL_BYTES);
        let set = format!("SET app.tenant_id = '{}'", "x".repeat(MIN_TEXT_BYTES));
        for _ in 0..2 {
            let other = Rules::new("other.tenant", GuardLevel::Strict, &[]);
            assert!(matches!(one.inspect(set.as_bytes(), &rules()), Verdict::Tenant(..)));
            assert!(matches!(one.inspect(set.as_bytes(), &other), Verdict::Pass(_)));
        }
    }

    #[test]
    fn texts_just_inside_the_limits_are_kept_and_those_just_outside_are_not() {
        for (length, kept) in
            [(MIN_TEXT_BYTES - 1, 0), (MIN_TEXT_BYTES, 1), (MAX_TEXT_BYTES, 1), (MAX_TEXT_BYTES + 1, 0)]
        {
            let verdicts = Verdicts::new(1 << 20);
            verdicts.inspect(&text(0, length), &rules());
            assert_eq!(verdicts.places.len(), kept, "{length}");
        }
    }

    #[test]
    fn the_bytes_that_are_held_reach_the_capacity_and_never_pass_it() {
        let one = text(0, 256).len() + PLACE_BYTES;
        for (capacity, kept) in [(0, 0), (one - 1, 0), (one, 1)] {
            let verdicts = Verdicts::new(capacity);
            verdicts.inspect(&text(0, 256), &rules());
            assert_eq!((verdicts.places.len(), verdicts.held_bytes()), (kept, kept * one), "{capacity}");
        }
        let capacity = 64 * 1024;
        let verdicts = Verdicts::new(capacity);
        let mut most = 0;
        for number in 0..2_000 {
            verdicts.inspect(&text(number, 128 + number % 4_000), &rules());
            let held: usize = verdicts.places.iter().map(|kept| kept.bytes()).sum();
            assert_eq!(held, verdicts.held_bytes(), "what is counted is what is there");
            assert!(held <= capacity, "{held}");
            most = most.max(held);
        }
        assert!(most > capacity / 2, "{most}: it is used");
        assert!(verdicts.places.len() <= verdicts.count);
    }

    #[test]
    fn many_at_once_stay_within_the_capacity() {
        let verdicts = Verdicts::new(32 * 1024);
        let flood = |factor: usize| {
            for number in 0..500 {
                let text = text(number * factor, 128 + number % 700);
                assert!(matches!(verdicts.inspect(&text, &rules()), Verdict::Pass(_)));
            }
        };
        std::thread::scope(|scope| {
            for thread in 1..5 {
                scope.spawn(move || flood(thread));
            }
        });
        let held: usize = verdicts.places.iter().map(|kept| kept.bytes()).sum();
        assert_eq!(held, verdicts.held_bytes());
        assert!(held > 0 && held <= 32 * 1024, "{held}");
    }
}
