//! No reader of texts looks at more bytes than the text's length allows: of the text as it is, and of a text in which
//! its parts stand again and again, since what is dear is dear by repetition.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgtenant::directory::GuardLevel;
use pgtenant::guard::footprint::footprint;
use pgtenant::guard::{GRANTABLE, Rules, inspect};
use pgtenant::sql::steps::counted;
use pgtenant::sql::{commented, deallocated, mentions_reset_all, reset_setting, survey};

/// As in src/guard/tests/cost.rs.
const STEPS_PER_BYTE: usize = 48;
const STEPS_OF_NOTHING: usize = 10_000;
const LONG_BYTES: usize = 16_000;

fuzz_target!(|input: &[u8]| {
    check(input);
    // Two bytes say where the repeated part begins and ends.
    let [from, to, text @ ..] = input else { return };
    let (from, to) = (usize::from(*from).min(text.len()), usize::from(*to).min(text.len()));
    if from < to {
        let part = text[from..to].repeat(LONG_BYTES / (to - from));
        check(&[&text[..from], &part, &text[to..]].concat());
    }
});

fn check(text: &[u8]) {
    let allowed = STEPS_PER_BYTE * text.len() + STEPS_OF_NOTHING;
    let within = |reader: &str, steps: usize| assert!(steps <= allowed, "{reader}: {steps} of {allowed} steps");
    for level in [GuardLevel::Off, GuardLevel::Context, GuardLevel::Strict] {
        for allow in [&[], GRANTABLE] {
            let rules = Rules::new("app.tenant_id", level, allow);
            within("inspect", counted(|| inspect(text, &rules)).1);
        }
    }
    within("survey", counted(|| survey(text)).1);
    within("footprint", counted(|| footprint(text)).1);
    within("deallocated", counted(|| deallocated(text)).1);
    within("reset_setting", counted(|| reset_setting(text)).1);
    within("mentions_reset_all", counted(|| mentions_reset_all(text)).1);
    within("commented", counted(|| commented(text, "tenant")).1);
}
