//! Properties of random texts.

use super::*;

/// Words from which statements, sound and unsound, are thrown together.
const WORDS: &[&str] = &[
    "SELECT",
    "INSERT",
    "INTO",
    "TEMP",
    "CREATE",
    "TABLE",
    "FUNCTION",
    "ALTER",
    "ROLE",
    "COPY",
    "FROM",
    "STDIN",
    "TO",
    "STDOUT",
    "PROGRAM",
    "SET",
    "LOCAL",
    "TRANSACTION",
    "SNAPSHOT",
    "PREPARE",
    "AS",
    "COMMIT",
    "PREPARED",
    "COMMENT",
    "ON",
    "UNLISTEN",
    "*",
    "LOCK",
    "EXPLAIN",
    "pg_notify",
    "pg_catalog",
    "pg_advisory_lock",
    "pg_stat_activity",
    "pgtenant",
    "current_tenant",
    "enter",
    "lo_get",
    "dblink",
    "app",
    "tenant_id",
    ".",
    ",",
    ";",
    "(",
    ")",
    "=",
    "'b'",
    "'app.tenant_id'",
    "set_config",
    "true",
    "$1",
    "1",
    "t",
    "x",
    "IF",
    "NOT",
    "EXISTS",
    "pg_temp",
    "DROP",
    "OR",
    "REPLACE",
    "search_path",
    "'pgtenant'",
    "DEFAULT",
    "RESET",
    "+",
    "-",
    "::",
];

const BLANKS: &[&str] = &[" ", "\n", "\t", "/**/", "/* ; /* ' */ LOCK t */", "-- '\n", " \r\u{c}", "--\r"];

/// How a word may be written without becoming another: capitals always, quotes where it is a name of ours.
fn respelled(word: &str, how: usize) -> String {
    let is_name = word.starts_with("pg") || ["set_config", "lo_get", "dblink", "tenant_id"].contains(&word);
    match how {
        1 => word.to_ascii_uppercase(),
        2 if word.starts_with('\'') => word.to_owned(),
        2 => word.to_ascii_lowercase(),
        3 if is_name => format!("\"{word}\""),
        _ => word.to_owned(),
    }
}

proptest! {
    #[test]
    fn spelling_changes_no_verdict(
        words in proptest::collection::vec((0..WORDS.len(), 0..BLANKS.len(), 0..4_usize), 0..14)
    ) {
        let mut plain = String::new();
        let mut other = String::new();
        let mut previous = "";
        for (word, between, how) in words {
            let (word, between) = (*WORDS.get(word).unwrap(), *BLANKS.get(between).unwrap());
            // Two literals with a newline between are one; two signs may be a comment.
            let joins = word.starts_with('\'') && previous.starts_with('\'') || word == "-" && previous == "-";
            if !joins {
                plain.extend([word, " "]);
                // A minus and a comment that begins with one would be another comment.
                let between = if word == "-" && between.starts_with('-') { " " } else { between };
                other.extend([&respelled(word, how), between]);
                previous = word;
            }
        }
        for rules in [strict(&[]), strict(GRANTABLE), Rules::new("app.tenant_id", GuardLevel::Context, &[])] {
            prop_assert_eq!(
                judge_by(plain.as_bytes(), &rules),
                judge_by(other.as_bytes(), &rules),
                "{} | {}", plain, other
            );
        }
    }

    #[test]
    fn any_bytes_get_a_verdict_in_every_level(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        for level in [GuardLevel::Off, GuardLevel::Context, GuardLevel::Strict] {
            judge_by(&text, &Rules::new("app.tenant_id", level, &[]));
        }
    }
}
