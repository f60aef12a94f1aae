//! Both sides of each bound, and what is none of its business.

use super::*;
use crate::directory::GuardLevel;
use crate::guard::{GRANTABLE, Rules, Verdict, inspect};

/// Whether a text is refused for its cost, which no grant changes, and no level but the one that is off.
#[track_caller]
fn is_costly(text: &str) -> bool {
    let verdict = |level| match inspect(text.as_bytes(), &Rules::new("app.tenant_id", level, GRANTABLE)) {
        Verdict::Pass(_) => false,
        Verdict::Refuse(refused) => {
            assert_eq!(refused.rule, COSTLY_TEXT, "{}", refused.detail);
            assert!(refused.is_about_cost());
            true
        }
        Verdict::Tenant(..) => panic!("a change of tenant"),
    };
    assert!(!verdict(GuardLevel::Off));
    let is_costly = verdict(GuardLevel::Context);
    assert_eq!(verdict(GuardLevel::Strict), is_costly);
    is_costly
}

/// One and more of something, so that the whole is as heavy as allowed, and one more.
#[track_caller]
fn bound(most: u32, text: impl Fn(usize) -> String) {
    let most = usize::try_from(most).unwrap();
    assert!(!is_costly(&text(most)), "at the bound");
    assert!(is_costly(&text(most + 1)), "over the bound");
    assert!(!is_costly(&format!("{};{}", text(most), text(most))), "each statement by itself");
}

fn list(item: &str, count: usize) -> String {
    vec![item; count].join(",")
}

#[test]
fn the_scanner_is_not_made_to_read_a_long_run_again_and_again() {
    for piece in ["+", "-+", "/**/", "/*", "+/**/", "<>/**/"] {
        assert!(
            !is_costly(&format!("SELECT 1 {} 1 /*", piece.repeat(100)).replace("/*", "/* */")),
            "{piece}"
        );
    }
    for (front, piece, back) in [
        ("SELECT 1 ", "+", "1"),
        ("SELECT 1 ", "+-", "1"),
        ("SELECT 1 ", "/**/", ""),
        ("SELECT 1 /*", "/**/", "*/"),
        ("SELECT 1 ", "/*/**/*/", ""),
        ("SELECT '' ", "/**/", "\n''"),
        ("DO $$ ", "+", "$$"),
    ] {
        assert!(is_costly(&format!("{front}{}{back}", piece.repeat(4_000))), "{front}{piece}");
    }
    let nested =
        |opening: &str, closing: &str| format!("SELECT 1 {}{}", opening.repeat(4_000), closing.repeat(4_000));
    assert!(is_costly(&nested("/*", "*/")));
    assert!(!is_costly(&nested("/* a ", " b */")), "nothing is read again");
    let open = format!("SELECT 1 {}", "/*".repeat(4_000));
    let context = Rules::new("app.tenant_id", GuardLevel::Context, &[]);
    assert!(
        matches!(inspect(open.as_bytes(), &context), Verdict::Refuse(refused) if refused.is_about_cost())
    );
    for harmless in ["=", "-", "*", "/", "+-/*"] {
        let text = harmless.repeat(50_000);
        for text in [
            format!("SELECT 1 -- {text}\n"),
            format!("SELECT '{text}'"),
            format!("SELECT $$ {text} $$"),
            format!("SELECT \"{text}\""),
        ] {
            assert!(!is_costly(&text), "{harmless}");
        }
    }
    assert!(!is_costly(&format!("/*{}*/ SELECT 1 /*{}*/", "=".repeat(50_000), "-".repeat(50_000))));
    assert!(!is_costly(&"/* x */\n".repeat(50_000)));
}

#[test]
fn what_is_read_again_may_be_so_much_and_no_more() {
    // Of a run of signs each is an operator, behind which the rest is read again.
    let signs = |count: usize| format!("SELECT {}1", "+".repeat(count));
    let reread = |count: usize| count * (count - 1) / 2;
    let allowed = |count: usize| MAX_REREADS * signs(count).len() + FREE_REREAD_BYTES;
    let most = (1..1_000).rfind(|count| reread(*count) <= allowed(*count)).unwrap();
    assert!(!is_costly(&signs(most)) && is_costly(&signs(most + 1)), "{most}");
}

#[test]
fn joins_and_tables_are_bounded_together() {
    bound(MAX_RELATIONS, |count| format!("SELECT 1 FROM t{}", " JOIN t USING (a, b)".repeat(count)));
    bound(MAX_RELATIONS, |count| format!("SELECT 1 FROM t{}", ", t".repeat(count)));
    bound(MAX_RELATIONS, |count| format!("DELETE FROM t USING t{} WHERE true", ", t".repeat(count)));
    bound(MAX_RELATIONS, |count| {
        format!("SELECT 1 FROM t{}{}", ", t".repeat(count - 9), " LEFT JOIN t".repeat(9))
    });
    bound(MAX_RELATIONS, |count| {
        format!("SELECT (SELECT 1 FROM (SELECT 1 FROM t{}) x), 1", ", t".repeat(count))
    });
    for text in [
        format!("INSERT INTO t VALUES {}", list("(1, 'a')", 10_000)),
        format!("UPDATE t SET a = v.a FROM (VALUES {}) v (a, b) WHERE true", list("(1, 'a')", 10_000)),
        format!("SELECT 1 FROM t WHERE a IN ({})", list("1", 10_000)),
        format!("SELECT {} FROM t", list("a", 1_600)),
        format!("SELECT 1 FROM f({})", list("1", 1_000)),
        format!("SELECT 1 FROM unnest(ARRAY[{}]) x", list("1", 10_000)),
        format!("SELECT a IS DISTINCT FROM b, {} FROM t", list("a", 1_600)),
        format!("INSERT INTO t SELECT 1 FROM t ON CONFLICT (a) DO UPDATE SET {}", list("a = 1", 1_000)),
        format!("MERGE INTO t USING u ON true WHEN MATCHED THEN UPDATE SET {}", list("a = 1", 1_000)),
        format!("COPY t ({}) FROM STDIN", list("a", 1_000)),
        format!("SELECT 1 {}", "UNION ALL SELECT a FROM t ".repeat(2_000)),
    ] {
        assert!(!is_costly(&text), "{text:.60}");
    }
}

#[test]
fn natural_joins_and_names_over_many_tables_are_bounded() {
    bound(MAX_RELATIONS / NATURAL_RELATIONS, |count| {
        format!("SELECT 1 FROM t {}", "NATURAL LEFT JOIN t ".repeat(count))
    });
    // SELECT, FROM and the tables are words, too.
    bound(u32::try_from(MAX_LOOKUPS / 10 - 13).unwrap(), |count| {
        format!("SELECT 1 FROM t{} WHERE {}", ", t".repeat(10), list("a", count - 1))
    });
    assert!(!is_costly(&format!("SELECT 1 FROM t WHERE {}", "a = 1 OR ".repeat(300_000))));
}

#[test]
fn expressions_to_group_and_order_by_are_bounded_together() {
    for (weight, front, back) in [
        (LISTED_BY - 1, "SELECT 1 FROM t GROUP BY ", ""),
        (LISTED_BY - 1, "SELECT 1 FROM t ORDER BY ", " LIMIT 1"),
        (0, "SELECT DISTINCT ", " FROM t"),
        (0, "INSERT INTO t DEFAULT VALUES RETURNING ", ""),
        (0, "UPDATE t SET a = 1 FROM u RETURNING ", ""),
        (1, "SELECT DISTINCT ON (", ") 1 FROM t"),
        (LISTED_BY, "SELECT 1 FROM t GROUP BY ROLLUP (", ")"),
        (LISTED_BY, "SELECT 1 FROM t GROUP BY (", ")"),
        (LISTED_BY - 1, "SELECT sum(a) OVER (PARTITION BY ", ") FROM t"),
        (LISTED_BY - 1, "SELECT sum(a ORDER BY ", ") FROM t"),
        (0, "SELECT 1 FROM xmltable('/' PASSING x COLUMNS ", ")"),
        (0, "SELECT xmlelement(name x, xmlattributes(", "))"),
    ] {
        bound(MAX_LISTED - weight, |count| format!("{front}{}{back}", list("a", count)));
    }
    bound(MAX_LISTED / LISTED_BY, |count| {
        format!("SELECT {} FROM t", list("sum(a) OVER (ORDER BY a)", count))
    });
    bound((MAX_LISTED - LISTED_BY) / 2, |count| {
        format!("SELECT 1 FROM t GROUP BY GROUPING SETS ({})", list("(a)", count))
    });
    bound(MAX_LISTED - 2 * LISTED_BY + 2 - 200, |count| {
        format!("SELECT 1 FROM t GROUP BY {} ORDER BY {}", list("(a)", 100), list("a", count))
    });
    // A name that looks like the end of the list, and a list inside the list.
    for piece in ["t.from", "t.where", "(SELECT 1 FROM t WHERE true)", "sum(a) OVER (ORDER BY b)", "a[1]"] {
        let text = format!("SELECT 1 FROM t GROUP BY a, {piece}, {}", list("a", 1_000));
        assert!(is_costly(&text), "{piece}");
    }
    assert!(is_costly(&format!("SELECT DISTINCT a AS from, {}", list("a", 1_000))));
    for text in [
        format!("SELECT 1 FROM t ORDER BY array_position(ARRAY[{}], a)", list("1", 10_000)),
        format!("SELECT DISTINCT a FROM t WHERE a IN ({}) ORDER BY a", list("1", 10_000)),
        format!("SELECT 1 FROM t GROUP BY a HAVING a IN ({})", list("1", 10_000)),
        format!("SELECT 1 FROM t ORDER BY CASE a {} END", "WHEN 1 THEN 1 ".repeat(10_000)),
        format!("INSERT INTO columns VALUES {}", list("(1, 2)", 10_000)),
        format!("INSERT INTO by VALUES {}", list("(1, 2)", 10_000)),
        format!("INSERT INTO t SELECT DISTINCT a FROM (VALUES {}) v (a)", list("(1, 2)", 10_000)),
    ] {
        assert!(!is_costly(&text), "{text:.60}");
    }
}

#[test]
fn queries_of_with_and_digits_of_other_bases_are_bounded() {
    bound(MAX_WITH_QUERIES, |count| format!("WITH {} SELECT 1", list("x AS (SELECT 1)", count)));
    bound(MAX_WITH_QUERIES, |count| {
        format!("WITH {} SELECT 1", list("x AS NOT MATERIALIZED (SELECT 1)", count))
    });
    let digits = |count: usize| format!("SELECT 0x{}", "f".repeat(count));
    assert!(!is_costly(&digits(MAX_RADIX_DIGITS)) && is_costly(&digits(MAX_RADIX_DIGITS + 1)));
    assert!(!is_costly(&format!("SELECT 1 x{}, {}", "f".repeat(5_000), "1".repeat(5_000))));
}

#[test]
fn brackets_deeper_than_postgresql_reads_keep_the_levels_outside() {
    for depth in [1, PACKED - 1, PACKED, PACKED + 1, MAX_DEPTH - 1, MAX_DEPTH + 20] {
        let brackets = format!("f{}1{}", "(".repeat(depth), ")".repeat(depth));
        let text = |count| format!("SELECT 1 FROM t ORDER BY {brackets}, {}", list("a", count));
        assert!(!is_costly(&text(996)) && is_costly(&text(997)), "{depth}");
    }
    assert!(!is_costly(&format!("SELECT 1 {} FROM t, t", ")".repeat(50))));
}
