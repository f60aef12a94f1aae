//! What reading a text costs: for every text no more than its length times a constant, counted in bytes looked at.

use proptest::prelude::*;

use crate::directory::GuardLevel;
use crate::guard::footprint::footprint;
use crate::guard::{GRANTABLE, Rules, inspect};
use crate::sql::steps::counted;
use crate::sql::{commented, deallocated, may_reset, resets, survey};

/// Steps a byte that the dearest reading of the dearest text may take.
const STEPS_PER_BYTE: usize = 48;
/// What a text of no length may cost.
const STEPS_OF_NOTHING: usize = 10_000;

/// The dearest of all readings of a text: its name, and its steps.
fn dearest(text: &[u8]) -> (&'static str, usize) {
    let levels: [(&str, GuardLevel, &[&'static str]); 4] = [
        ("off", GuardLevel::Off, &[]),
        ("context", GuardLevel::Context, &[]),
        ("strict", GuardLevel::Strict, &[]),
        ("strict, all granted", GuardLevel::Strict, GRANTABLE),
    ];
    let guarded = levels.map(|(name, level, allow)| {
        let rules = Rules::new("app.tenant_id", level, allow);
        (name, counted(|| inspect(text, &rules)).1)
    });
    let others = [
        ("survey", counted(|| survey(text)).1),
        ("footprint", counted(|| footprint(text)).1),
        ("deallocated", counted(|| deallocated(text)).1),
        ("reset", counted(|| resets(text)).1),
        ("reset all", counted(|| may_reset(text)).1),
        ("comment", counted(|| commented(text, "tenant")).1),
    ];
    guarded.into_iter().chain(others).max_by_key(|(_, steps)| *steps).unwrap()
}

fn allowed(text: &[u8]) -> usize {
    STEPS_PER_BYTE * text.len() + STEPS_OF_NOTHING
}

/// A text of about so many bytes: a piece repeated between a beginning and an end.
fn repeated(beginning: &str, piece: &str, end: &str, bytes: usize) -> String {
    format!("{beginning}{}{end}", piece.repeat(bytes / piece.len().max(1)))
}

/// Texts that were dear once, or are for PostgreSQL, and what looks like them.
const FAMILIES: &[(&str, &str, &str)] = &[
    ("SELECT ", "+", "1"),
    ("SELECT ", "-+", "1"),
    ("SELECT ", "+-", "1"),
    ("SELECT 1 ", "+", "--\n1"),
    ("SELECT 1 ", "+", "/**/1"),
    ("SELECT 1 ", "~+", "1"),
    ("SELECT 1 ", "*", "1"),
    ("SELECT 1 ", "/", "1"),
    ("SELECT 1 ", "+/**/", "1"),
    ("SELECT 1 ", "/*", ""),
    ("SELECT 1 ", "/* ", ""),
    ("SELECT 1 ", "/**/", ""),
    ("SELECT 1 /*", "/**/", "*/"),
    ("SELECT 1 ", "/*/", ""),
    ("SELECT 1 ", "--\n", ""),
    ("SELECT 'a'", "\n", "x"),
    ("SELECT 'a'", "--\n", "x"),
    ("SELECT ", "'a'\n", ""),
    ("SELECT ", "E'\\'' ", ""),
    ("SELECT ", "$a", ""),
    ("SELECT ", "$a$", ""),
    ("SELECT $$", "$a", ""),
    ("SELECT ", "$", ""),
    ("SELECT ", "\"\"", ""),
    ("SELECT ", "U&", ""),
    ("SELECT ", "1e", ""),
    ("SELECT ", ".1.", ""),
    ("SELECT ", "(", ""),
    ("", "(;", ""),
    ("", ";", ""),
    ("SELECT ", "set_config('search_path','x',true),", "1"),
    ("SELECT ", "set_config('a',(1,", ""),
    ("SELECT ", "set_config('a.b', ", ""),
    ("SELECT ", "set_config(", ""),
    ("SELECT ", "set_config($1::text::", ""),
    ("SELECT ", "set_config ", ""),
    ("SET x.y = 1; SELECT ", "set_config('a',(1,", ""),
    ("ALTER TABLE t ", "SET search_path ", ""),
    ("ALTER TABLE t ", "SET.", ""),
    ("ALTER TABLE t SET ", "a.", "b"),
    ("ALTER TABLE t ", "SET a.", "b"),
    ("ALTER TABLE t ", "RESET \"a\" . ", "b"),
    ("ALTER TABLE t ", "SET LOCAL SESSION ", "b"),
    ("CREATE FUNCTION f() RETURNS int ", "SET search_path = a ", "AS ''"),
    ("DO $$ ", "BEGIN SET search_path ", "$$"),
    ("DO $$ ", "set_config('search_path', 'x', true) ", "$$"),
    ("DO ", "'BEGIN SET search_path' ", ""),
    ("DO $x$ ", "+", "$x$"),
    ("", "SET search_path = 'x';", ""),
    ("SET search_path = ", "'x',", "'x'"),
    ("SET ROLE ", "x ", ""),
    ("", "SET ROLE x;", ""),
    ("", "UPDATE ", ""),
    ("UPDATE ", "ONLY ", "UPDATE"),
    ("", "UPDATE ((((", ""),
    ("UPDATE ", "\"pg_catalog\".", ""),
    ("SELECT ", "INTO ", ""),
    ("SELECT ", "INTO LOCAL ", ""),
    ("SELECT INTO ", "TABLE ", "t"),
    ("SELECT ", "pgtenant.", ""),
    ("SELECT ", "pgtenant.current_tenant ", ""),
    ("COPY ", "COPY ", ""),
    ("", "COPY t;", ""),
    ("", "COPY (", ""),
    ("CREATE ", "TEMP ", "TABLE t ()"),
    ("CREATE ", "OR REPLACE ", "TEMP VIEW t"),
    ("CREATE TABLE ", "IF NOT EXISTS ", "t"),
    ("", "CREATE INDEX;", ""),
    ("CREATE INDEX ", "REFERENCE ", ""),
    ("", "CREATE FUNCTION f() BEGIN ATOMIC ", ""),
    ("", "CREATE FUNCTION f() BEGIN ATOMIC COPY ", ""),
    ("", "CREATE FUNCTION BEGIN ATOMIC ALTER TABLE ", ""),
    ("", "PREPARE ", ""),
    ("DEALLOCATE ", ";", "x"),
    ("RESET ", "a.", "b"),
    ("RESET ", "\"a\" . ", "b"),
    ("SET SESSION ", "a.", "b = DEFAULT"),
    ("/*", "tenant='a',", "*/"),
    ("", "/*tenant='a'*/", ""),
    ("SELECT 1 /*", "\\'", "'*/"),
    ("SELECT 1", " ;", ""),
    ("DECLARE c CURSOR WITH ", "HOLD ", ""),
];

#[test]
fn the_known_families_cost_their_length_and_no_more() {
    let mut dear = Vec::new();
    for (beginning, piece, end) in FAMILIES {
        let text = repeated(beginning, piece, end, 40_000);
        let (reading, steps) = dearest(text.as_bytes());
        if steps > allowed(text.as_bytes()) {
            dear.push(format!("{beginning}({piece})*{end}: {reading}, {} a byte", steps / text.len()));
        }
    }
    assert!(dear.is_empty(), "{} of {}: {dear:#?}", dear.len(), FAMILIES.len());
}

/// Of what every reader of texts takes notice, in one way or the other.
const PIECES: &[&str] = &[
    " ",
    "\n",
    "\t",
    "--",
    "-- x\n",
    "/*",
    "*/",
    "/**/",
    "+",
    "-",
    "*",
    "/",
    "<",
    "=",
    "~",
    "@",
    "|",
    "?",
    ":",
    "::",
    ".",
    "..",
    ",",
    ";",
    "(",
    ")",
    "[",
    "]",
    "\\",
    "'",
    "''",
    "'a'",
    "'search_path'",
    "'app.tenant_id'",
    "'a'\n",
    "E'",
    "E'\\'",
    "N'",
    "B'1'",
    "X'",
    "U&'",
    "U&\"",
    "u&",
    "\"",
    "\"a\"",
    "\"\"",
    "$",
    "$$",
    "$a$",
    "$a",
    "$1",
    "0",
    "1",
    "1.",
    "1e",
    "1e+",
    ".5",
    "a",
    "\u{e9}",
    "\u{130}",
    "SELECT ",
    "SET ",
    "RESET ",
    "LOCAL ",
    "SESSION ",
    "ROLE ",
    "AUTHORIZATION ",
    "TO ",
    "DEFAULT ",
    "ALL ",
    "search_path ",
    "app.tenant_id ",
    "client_encoding ",
    "names ",
    "set_config",
    "set_config(",
    "true",
    "pg_settings ",
    "UPDATE ",
    "ONLY ",
    "pg_catalog",
    "INTO ",
    "TEMP ",
    "TABLE ",
    "pg_temp",
    "pgtenant",
    "pgtenant.",
    "COPY ",
    "FROM ",
    "STDIN ",
    "CREATE ",
    "OR REPLACE ",
    "IF NOT EXISTS ",
    "INDEX ",
    "VIEW ",
    "FUNCTION ",
    "f() ",
    "BEGIN ",
    "ATOMIC ",
    "END ",
    "ALTER ",
    "RENAME ",
    "DO ",
    "$$BEGIN ",
    "THEN ",
    ">>",
    "REFERENCES ",
    "PARTITION ",
    "PREPARE ",
    "TRANSACTION ",
    "DEALLOCATE ",
    "DECLARE ",
    "WITH ",
    "HOLD ",
    "LISTEN ",
    "DISCARD ",
    "COMMENT ",
    "ON ",
    "tenant='a'",
    "=",
    "text ",
    "x ",
];

fn pieces(count: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let piece = (0..PIECES.len()).prop_map(|at| *PIECES.get(at).unwrap());
    proptest::collection::vec(piece, count).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_repeated_piece_costs_its_length_and_no_more(
        beginning in pieces(0..5), piece in pieces(1..6), end in pieces(0..3)
    ) {
        let text = repeated(&beginning, &piece, &end, 30_000);
        let (reading, steps) = dearest(text.as_bytes());
        prop_assert!(steps <= allowed(text.as_bytes()), "{}: {} a byte", reading, steps / text.len());
    }

    #[test]
    fn a_text_within_a_text_costs_its_length_and_no_more(opening in pieces(1..4), closing in pieces(1..4)) {
        let depth = 30_000 / (opening.len() + closing.len());
        let text = format!("SELECT {}1{}", opening.repeat(depth), closing.repeat(depth));
        let (reading, steps) = dearest(text.as_bytes());
        prop_assert!(steps <= allowed(text.as_bytes()), "{}: {} a byte", reading, steps / text.len());
    }

    #[test]
    fn a_text_of_any_pieces_costs_its_length_and_no_more(text in pieces(0..400)) {
        let (reading, steps) = dearest(text.as_bytes());
        prop_assert!(steps <= allowed(text.as_bytes()), "{}: {} steps", reading, steps);
    }
}
