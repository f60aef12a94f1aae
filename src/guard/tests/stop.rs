//! A reading that is told to stop.

use std::cell::Cell;

use crate::directory::GuardLevel;
use crate::guard::footprint::{Footprint, footprint};
use crate::guard::{GRANTABLE, LONG_TEXT_BYTES, Rules, Stopped, inspect, read_until};

/// What `read_until` gives if the `stop_at`th question is answered with yes, and how often it asked.
fn read(text: &str, level: GuardLevel, stop_at: usize) -> (bool, usize) {
    let rules = Rules::new("app.tenant_id", level, GRANTABLE);
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() == stop_at
    };
    (read_until(text.as_bytes(), &rules, &stop) == Err(Stopped), asked.get())
}

#[test]
fn a_reading_that_is_not_stopped_finds_what_the_others_find() {
    let rules = Rules::new("app.tenant_id", GuardLevel::Strict, &[]);
    for text in [
        "SELECT 1",
        "SET work_mem = 1; LISTEN x",
        "SET work_mem = 1",
        "SELECT set_config('a.b', $1, false)",
        "SET app.tenant_id = 'b'",
        "LOCK t",
    ] {
        let long = format!("{text} /*{}*/", "x".repeat(3 * LONG_TEXT_BYTES));
        for text in [text, &long] {
            let found = read_until(text.as_bytes(), &rules, &|| false).unwrap();
            assert_eq!(found.verdict, inspect(text.as_bytes(), &rules), "{text:.40}");
            // Only what passes and may leave something is asked what it leaves.
            let leaves =
                text.contains("work_mem = 1 /*") || text.contains("set_config") || text == "SET work_mem = 1";
            let expected = if leaves { footprint(text.as_bytes()) } else { Footprint::default() };
            assert_eq!(found.footprint, expected, "{text:.40}");
        }
    }
}

#[test]
fn a_long_reading_asks_again_and_again_and_ends_when_told() {
    for text in [
        "SELECT 1, ".repeat(30_000),
        "SET a.b = 1;".repeat(25_000),
        format!("DO $$ {} $$", "x := 1;".repeat(40_000)),
    ] {
        for level in [GuardLevel::Off, GuardLevel::Context, GuardLevel::Strict] {
            let (stopped, all) = read(&text, level, usize::MAX);
            assert!(!stopped);
            assert!(all <= 3 * text.len() / LONG_TEXT_BYTES + 3, "{all} questions");
            for stop_at in [1, all.min(3), all] {
                assert_eq!(read(&text, level, stop_at), (true, stop_at), "{level:?}: {text:.20}");
            }
        }
    }
    assert!(read(&"SELECT 1, ".repeat(30_000), GuardLevel::Strict, usize::MAX).1 >= 4);
}

#[test]
fn a_text_that_is_not_long_is_read_without_a_question() {
    let text = format!("SELECT '{}'", "x".repeat(LONG_TEXT_BYTES - 10));
    assert_eq!(text.len(), LONG_TEXT_BYTES - 1);
    assert_eq!(read(&text, GuardLevel::Strict, 1), (false, 0));
    assert_eq!(read(&format!("{text} "), GuardLevel::Strict, 1), (false, 0));
}
