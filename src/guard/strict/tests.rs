//! The strict level: what it refuses, by which rule, and what it must not be in the way of.

mod closed;
mod kinds;
mod names;
mod properties;
mod served;
mod settings;

use super::*;
use crate::directory::GuardLevel;
use crate::guard::rule::{ADVISORY_LOCK, PLANNER, SEQUENCE, SERVER_CONTROL, SQL_IN_STRING};
use crate::guard::{FIXED, GRANTABLE, Rules, Verdict, inspect};
use crate::sql::survey;
use proptest::prelude::*;

fn strict(allow: &[&'static str]) -> Rules {
    Rules::new("app.tenant_id", GuardLevel::Strict, allow)
}

fn judge_by(text: &[u8], rules: &Rules) -> &'static str {
    match inspect(text, rules) {
        Verdict::Pass(found) => {
            assert_eq!(found, survey(text));
            "pass"
        }
        Verdict::Tenant(..) => "tenant",
        Verdict::Refuse(refusal) => {
            assert!(refusal.detail.starts_with(&format!("rule \"{}\": ", refusal.rule)), "{refusal:?}");
            assert!(refusal.detail.ends_with(" is not allowed") && !refusal.hint.is_empty(), "{refusal:?}");
            refusal.rule
        }
    }
}

/// Each text is refused by its rule: alone, behind another statement, and in front of one; and where its rule
/// can be granted and is, it passes.
#[track_caller]
fn refused(rule: &'static str, texts: &[&str]) {
    for text in texts {
        for whole in [(*text).to_owned(), format!("SELECT 1; {text}"), format!("{text}\n; SELECT 1")] {
            assert_eq!(judge_by(whole.as_bytes(), &strict(&[])), rule, "{whole}");
        }
        let granted = if GRANTABLE.contains(&rule) { "pass" } else { rule };
        assert_eq!(judge_by(text.as_bytes(), &strict(&[rule])), granted, "granted: {text}");
        let others: Vec<&'static str> = GRANTABLE.iter().copied().filter(|other| *other != rule).collect();
        assert_eq!(judge_by(text.as_bytes(), &strict(&others)), rule, "others granted: {text}");
    }
}

#[track_caller]
fn served(texts: &[&str]) {
    for text in texts {
        assert_eq!(judge_by(text.as_bytes(), &strict(&[])), "pass", "{text}");
    }
}
