//! Tokens by PostgreSQL's rules, and properties that hold for any bytes.

use super::TokenKind::*;
use super::*;
use proptest::prelude::*;

fn tokens(text: &str) -> Vec<(TokenKind, String)> {
    Lexer::new(text.as_bytes())
        .map(|token| (token.kind, String::from_utf8_lossy(token.bytes).into_owned()))
        .collect()
}

fn check(text: &str, expected: &[(TokenKind, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(kind, bytes)| (*kind, (*bytes).to_owned())).collect();
    assert_eq!(tokens(text), expected, "{text}");
}

#[test]
fn words_and_blanks_end_where_postgresql_ends_them() {
    check("", &[]);
    check(" \t\r\n\u{b}\u{c}", &[]);
    check("a$b é_1 a\u{b}b", &[(Word, "a$b"), (Word, "é_1"), (Word, "a"), (Word, "b")]);
    check("a--x\rb", &[(Word, "a"), (Word, "b")]);
    check("a/* /* */ ' */b", &[(Word, "a"), (Word, "b")]);
    check("a/**/b/***/c/*/ */d", &[(Word, "a"), (Word, "b"), (Word, "c"), (Word, "d")]);
    check("a /* /* */", &[(Word, "a"), (Unterminated, "/* /* */")]);
    check("a -- '", &[(Word, "a")]);
}

#[test]
fn quotes_end_where_postgresql_ends_them() {
    check(r#""a""b"c"#, &[(QuotedWord, r#""a""b""#), (Word, "c")]);
    check(r"'a\' b", &[(Text, r"'a\'"), (Word, "b")]);
    check(r"E'a\' b' c", &[(EscapeText, r"E'a\' b'"), (Word, "c")]);
    check(r"e'\\' b", &[(EscapeText, r"e'\\'"), (Word, "b")]);
    check("n'a''b'x'1f'B'0'", &[(Text, "n'a''b'"), (BitText, "x'1f'"), (BitText, "B'0'")]);
    check(
        "u&'a' U&\"b\" u&c",
        &[(UnicodeText, "u&'a'"), (UnicodeWord, "U&\"b\""), (Word, "u"), (Operator, "&"), (Word, "c")],
    );
    check("type'a'", &[(Word, "type"), (Text, "'a'")]);
    check("'a", &[(Unterminated, "'a")]);
    check("\"a", &[(Unterminated, "\"a")]);
    check(r"E'a\", &[(Unterminated, r"E'a\")]);
    check(r"E'a\'", &[(Unterminated, r"E'a\'")]);
}

#[test]
fn a_literal_goes_on_behind_a_newline_only() {
    check("'a' 'b'", &[(Text, "'a'"), (Text, "'b'")]);
    check("'a'\n'b'", &[(Text, "'a'\n'b'")]);
    check("'a' -- '\n -- '\n 'b'", &[(Text, "'a' -- '\n -- '\n 'b'")]);
    check("'a' /* */\n'b'", &[(Text, "'a'"), (Text, "'b'")]);
    check("'a'\n/**/'b'", &[(Text, "'a'"), (Text, "'b'")]);
    check("'a' -- 'b'", &[(Text, "'a'")]);
    check("'a'\n-- 'b'", &[(Text, "'a'")]);
    check("E'a'\n'\\' b'", &[(EscapeText, "E'a'\n'\\' b'")]);
    check("'a'\n'b", &[(Unterminated, "'a'\n'b")]);
}

#[test]
fn dollar_quotes_end_at_their_own_tag() {
    check("$$a'$$b", &[(DollarText, "$$a'$$"), (Word, "b")]);
    check("$a$ $b$ $A$ $a$", &[(DollarText, "$a$ $b$ $A$ $a$")]);
    check("$a$x$a$a$", &[(DollarText, "$a$x$a$"), (Word, "a$")]);
    check("$1 $23", &[(Parameter, "$1"), (Parameter, "$23")]);
    check("$1$ x", &[(Parameter, "$1"), (Unknown, "$"), (Word, "x")]);
    check("a$$b$$", &[(Word, "a$$b$$")]);
    check("$a$ $", &[(Unterminated, "$a$ $")]);
}

#[test]
fn numbers_and_operators_end_where_postgresql_ends_them() {
    check(
        "1.5e-3 .5 1..2 1e'x'",
        &[
            (Number, "1.5e-3"),
            (Number, ".5"),
            (Number, "1"),
            (Dot, "."),
            (Number, ".2"),
            (Number, "1"),
            (EscapeText, "e'x'"),
        ],
    );
    check("a=-1", &[(Word, "a"), (Operator, "="), (Operator, "-"), (Number, "1")]);
    check("a@-1", &[(Word, "a"), (Operator, "@-"), (Number, "1")]);
    check("1+--x\n2", &[(Number, "1"), (Operator, "+"), (Number, "2")]);
    check("1*/*x*/2", &[(Number, "1"), (Operator, "*"), (Number, "2")]);
    check(
        "a[1]::b.c,(\0",
        &[
            (Word, "a"),
            (Punctuation, "["),
            (Number, "1"),
            (Punctuation, "]"),
            (Punctuation, ":"),
            (Punctuation, ":"),
            (Word, "b"),
            (Dot, "."),
            (Word, "c"),
            (Comma, ","),
            (Open, "("),
            (Unknown, "\0"),
        ],
    );
}

#[test]
fn a_run_of_operator_characters_is_split_where_postgresql_splits_it() {
    check("+-+1", &[(Operator, "+"), (Operator, "-"), (Operator, "+"), (Number, "1")]);
    check("<=+-1", &[(Operator, "<="), (Operator, "+"), (Operator, "-"), (Number, "1")]);
    check(
        "+=-+/**/-1",
        &[(Operator, "+="), (Operator, "-"), (Operator, "+"), (Operator, "-"), (Number, "1")],
    );
    check("+@-/**/+-", &[(Operator, "+@-"), (Operator, "+"), (Operator, "-")]);
    check("-+--+\n@+", &[(Operator, "-"), (Operator, "+"), (Operator, "@+")]);
    check("+-*-+", &[(Operator, "+-*"), (Operator, "-"), (Operator, "+")]);
}

#[test]
fn what_postgresql_reads_again_is_counted() {
    for (text, bytes) in [
        ("SELECT a <= b || c -- +++", 0),
        ("SELECT 1 /* ---- +++ **** */", 0),
        ("SELECT 1 /*==== x ====*/", 4),
        ("SELECT '+-+-/*/*' $$+-+-/*$$ \"+-+-\"", 0),
        ("a=-1", 1),
        // 4 + 3 + 2 + 1, without the last one's own.
        ("+-+-+1", 10),
        // The first opening takes four bytes, two of them for nothing; the second one its own two.
        ("/*/* a */*/", 2),
        ("/* /**/ */", 2),
        ("/**//**/", 6 + 2),
        ("1+/**/1", 4 + 2),
        ("/*/*", 2),
    ] {
        let mut lexer = Lexer::new(text.as_bytes());
        while lexer.next().is_some() {}
        assert_eq!(lexer.reread_bytes(), bytes, "{text}");
    }
}

#[test]
fn the_content_of_a_quote_is_what_it_says() {
    let says = |text: &str| content(&Lexer::new(text.as_bytes()).next().unwrap());
    assert_eq!(says("'a''b'"), b"a'b");
    assert_eq!(says("'a' -- '\n 'b'"), b"ab");
    assert_eq!(says("N'a'"), b"a");
    assert_eq!(says(r"E'a\'b'"), b"a'b");
    assert_eq!(says("\"a\"\"\"\"b\""), b"a\"\"b");
    assert_eq!(says("$x$a$x$"), b"a");
    assert_eq!(says("$$$$"), b"");
}

/// What lies between tokens, read without the lexer: white space and comments, and nothing else.
fn is_blank(mut gap: &[u8]) -> bool {
    while let Some((first, rest)) = gap.split_first() {
        gap = if b" \t\n\r\x0b\x0c".contains(first) {
            rest
        } else if gap.starts_with(b"--") {
            let end = gap.iter().position(|byte| b"\n\r".contains(byte)).unwrap_or(gap.len());
            gap.get(end..).unwrap()
        } else if gap.starts_with(b"/*") {
            let Some(rest) = behind_comment(gap) else { return false };
            rest
        } else {
            return false;
        };
    }
    true
}

fn behind_comment(comment: &[u8]) -> Option<&[u8]> {
    let inner = comment.strip_prefix(b"/*")?;
    let mut rest = inner;
    loop {
        rest = if rest.starts_with(b"/*") {
            behind_comment(rest)?
        } else if let Some(behind) = rest.strip_prefix(b"*/") {
            return Some(behind);
        } else {
            rest.split_first()?.1
        };
    }
}

fn covers(text: &[u8]) -> Result<(), TestCaseError> {
    let mut end = 0;
    for token in Lexer::new(text) {
        let range = token.range();
        prop_assert!(range.start >= end && range.end > range.start && range.end <= text.len());
        prop_assert!(is_blank(text.get(end..range.start).unwrap()));
        prop_assert_eq!(text.get(range.clone()).unwrap(), token.bytes);
        end = range.end;
        let _says = content(&token);
    }
    prop_assert!(is_blank(text.get(end..).unwrap()));
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_covered(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        covers(&text)?;
    }

    #[test]
    fn anything_that_looks_like_sql_is_covered(text in r#"([a-eEnNuUxX$1.'"\\/*+=@;() \n-]|--|/\*|\*/|U&|\$\$|\$a\$){0,60}"#) {
        covers(text.as_bytes())?;
    }
}
