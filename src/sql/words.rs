//! A fixed table of words, built by the compiler and searched without allocation, whatever the capitals. Most
//! words of a text are in no table, so a miss is what it makes cheap: an empty place in one small array.

use std::borrow::Cow;

use super::steps;

/// Words that mean something, at most half as many as `PLACES`, which is a power of two.
pub(crate) struct Words<T: 'static, const PLACES: usize> {
    /// One more than the entry that has this place, or the nearest free one behind it; 0: empty.
    places: [u16; PLACES],
    entries: &'static [(&'static str, T)],
}

// === impl Words ===

impl<T: Copy, const PLACES: usize> Words<T, PLACES> {
    /// Words in lower case. More than fit, or one that is there twice, do not compile.
    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "the compiler runs it, and stops where it is wrong"
    )]
    pub(crate) const fn new(entries: &'static [(&'static str, T)]) -> Self {
        assert!(PLACES.is_power_of_two() && entries.len() * 2 <= PLACES && PLACES <= 1 << 16);
        let mut places = [0; PLACES];
        let mut entry = 0;
        while entry < entries.len() {
            let mut place = place::<PLACES>(entries[entry].0.as_bytes());
            while places[place] != 0 {
                assert!(!same(entries[places[place] as usize - 1].0.as_bytes(), entries[entry].0.as_bytes()));
                place = (place + 1) % PLACES;
            }
            places[place] = (entry + 1) as u16;
            entry += 1;
        }
        Self { places, entries }
    }

    /// The entry that a word is.
    #[inline]
    pub(crate) fn find(&self, word: &[u8]) -> Option<&'static (&'static str, T)> {
        let mut place = place::<PLACES>(word);
        loop {
            let entry = usize::from(*self.places.get(place)?).checked_sub(1)?;
            let found = self.entries.get(entry)?;
            if word.eq_ignore_ascii_case(found.0.as_bytes()) {
                return Some(found);
            }
            place = place.wrapping_add(1) & PLACES.wrapping_sub(1);
        }
    }

    #[cfg(test)]
    pub(crate) fn entries(&self) -> &'static [(&'static str, T)] {
        self.entries
    }
}

/// Where a word is looked for first: by its length and both its ends, capitals made small.
#[expect(clippy::as_conversions, reason = "no conversion of these loses anything; From is not const")]
#[expect(clippy::cast_possible_truncation, reason = "only the low bits of a length are wanted")]
#[inline]
const fn place<const PLACES: usize>(word: &[u8]) -> usize {
    let (front, back) = match (word.first_chunk::<4>(), word.last_chunk::<4>(), word) {
        (Some(front), Some(back), _) => (*front, *back),
        (_, _, [first, .., last]) => ([*first, 0, 0, 0], [*last, 0, 0, 0]),
        (_, _, [only]) => ([*only, 0, 0, 0], [0; 4]),
        (_, _, []) => ([0; 4], [0; 4]),
    };
    let front = u32::from_le_bytes(front) | 0x2020_2020;
    let back = u32::from_le_bytes(back) | 0x2020_2020;
    let mixed = front.wrapping_mul(0x9e37_79b1)
        ^ back.wrapping_mul(0x85eb_ca6b)
        ^ (word.len() as u32).wrapping_mul(0xc2b2_ae35);
    ((mixed ^ (mixed >> 15)).wrapping_mul(0x2c1b_3c6d) >> 16) as usize & PLACES.wrapping_sub(1)
}

#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "the compiler runs it")]
const fn same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// An unquoted identifier as PostgreSQL may fold it. Besides A to Z that is, in a single-byte encoding under a
/// Turkish locale, the capital I with a dot: it becomes the `i` of a name (`downcase_identifier` asks `tolower`).
pub(crate) fn folded(word: &[u8]) -> Cow<'_, [u8]> {
    steps::count(word.len());
    if word.is_ascii() && !word.iter().any(u8::is_ascii_uppercase) {
        return Cow::Borrowed(word);
    }
    let mut name = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, behind @ ..] = rest {
        // As UTF-8 says it; as ISO 8859-9 and Windows 1254 do; as ISO 8859-3 does. Those two are also the later
        // bytes of characters in UTF-8, and then no ASCII character stands before them.
        let (letter, behind) = match (*first, behind) {
            (0xc4, [0xb0, behind @ ..]) => (b'i', behind),
            (0xdd | 0xa9, _) if name.last().is_none_or(u8::is_ascii) => (b'i', behind),
            (other, _) => (other.to_ascii_lowercase(), behind),
        };
        name.push(letter);
        rest = behind;
    }
    Cow::Owned(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    static FEW: Words<u8, 8> = Words::new(&[("a", 1), ("be", 2), ("sea", 3), ("delta_echo", 4)]);

    #[test]
    fn a_word_is_found_whatever_its_capitals_and_nothing_else_is() {
        for (word, value) in FEW.entries() {
            for spelling in [(*word).to_owned(), word.to_ascii_uppercase()] {
                assert_eq!(FEW.find(spelling.as_bytes()).map(|found| found.1), Some(*value), "{spelling}");
            }
        }
        for word in ["", "b", "bee", "se", "delta_echos", "delta-echo", "delta\u{7f}echo"] {
            assert!(FEW.find(word.as_bytes()).is_none(), "{word}");
        }
    }

    #[test]
    fn the_dotted_capital_folds_to_the_letter_it_hides() {
        assert_eq!(&*folded("SET_CONF\u{130}G".as_bytes()), b"set_config");
        assert_eq!(&*folded(b"set_conf\xddg"), b"set_config");
        assert_eq!(&*folded("caf\u{e9}".as_bytes()), "caf\u{e9}".as_bytes());
        assert!(matches!(folded(b"set_config"), Cow::Borrowed(_)));
    }
}
