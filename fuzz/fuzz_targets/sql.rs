//! Any bytes are lexed without panic, in order and without overlap; what no token covers is white space or
//! comment; guard and survey agree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgtenant::directory::GuardLevel;
use pgtenant::guard::{Rules, Verdict, inspect};
use pgtenant::sql::lexer::{Lexer, content};
use pgtenant::sql::survey;

fuzz_target!(|text: &[u8]| {
    let mut end = 0;
    for token in Lexer::new(text) {
        let range = token.range();
        assert!(range.start >= end && range.end > range.start && range.end <= text.len());
        assert_eq!(&text[range.clone()], token.bytes);
        check_gap(&text[end..range.start]);
        end = range.end;
        let _ = content(&token);
    }
    check_gap(&text[end..]);
    for level in [GuardLevel::Off, GuardLevel::Context, GuardLevel::Strict] {
        match inspect(text, &Rules::new("app.tenant_id", level, &[])) {
            Verdict::Pass(passed) => assert_eq!(passed, survey(text)),
            Verdict::Tenant(passed, change) => {
                assert_eq!(passed, survey(text));
                assert!(text.get(change.local_argument.clone()).is_some());
                let _ = change.made_local(text);
            }
            Verdict::Refuse(refusal) => assert!(level != GuardLevel::Off && !refusal.hint.is_empty()),
        }
    }
});

/// A gap starts, once its white space is gone, with a comment or is empty.
fn check_gap(gap: &[u8]) {
    let start = gap.iter().position(|byte| !b" \t\n\r\x0b\x0c".contains(byte));
    let rest = &gap[start.unwrap_or(gap.len())..];
    assert!(rest.is_empty() || rest.starts_with(b"--") || rest.starts_with(b"/*"));
}
