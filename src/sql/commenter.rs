//! Comments in the form of sqlcommenter (its specification, "Comment format"): `/*key='value',other='value'*/` at the
//! end of a text or at its beginning, keys and values percent-encoded.

use percent_encoding::percent_decode;

use super::steps;

/// The longest comment that is looked at, in bytes.
const MAX_COMMENT_BYTES: usize = 4096;

/// What the comments of a text say about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    Nothing,
    /// This.
    Value(String),
    /// Two different things.
    Different,
}

/// Looks for a key in the comments at both ends of a text. What is not in that form is a comment like any other.
pub fn commented(text: &[u8], key: &str) -> Said {
    let mut said = Said::Nothing;
    steps::count(text.len().saturating_add(2 * MAX_COMMENT_BYTES));
    for comment in [at_end(text), at_beginning(text)].into_iter().flatten() {
        for value in pairs(comment).unwrap_or_default().into_iter().filter(|(name, _)| name == key) {
            said = match said {
                Said::Nothing => Said::Value(value.1),
                Said::Value(known) if known == value.1 => Said::Value(known),
                Said::Value(_) | Said::Different => Said::Different,
            };
        }
    }
    said
}

fn at_end(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().rposition(|byte| !byte.is_ascii_whitespace() && *byte != b';')?;
    let inside = text.get(..=end)?.strip_suffix(b"*/")?;
    let first = inside.len().saturating_sub(MAX_COMMENT_BYTES);
    let tail = inside.get(first..)?;
    let at = tail.windows(2).rposition(|two| two == b"/*")?;
    tail.get(at..)?.strip_prefix(b"/*")
}

fn at_beginning(text: &[u8]) -> Option<&[u8]> {
    let inside = text.trim_ascii_start().strip_prefix(b"/*")?;
    let head = inside.get(..MAX_COMMENT_BYTES.min(inside.len()))?;
    let end = head.windows(2).position(|two| two == b"*/")?;
    head.get(..end)
}

/// All pairs, or none if anything in the comment is no pair.
fn pairs(comment: &[u8]) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = comment.trim_ascii();
    loop {
        let equals = rest.iter().position(|byte| *byte == b'=')?;
        let (key, behind) = rest.split_at_checked(equals)?;
        let behind = behind.strip_prefix(b"=")?.strip_prefix(b"'")?;
        // A quote inside a value has a backslash in front.
        let mut escaped = false;
        let end = behind.iter().position(|byte| {
            let ends = *byte == b'\'' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        })?;
        let (value, behind) = behind.split_at_checked(end)?;
        pairs.push((decoded(key)?, decoded(value)?));
        let behind = behind.strip_prefix(b"'")?.trim_ascii_start();
        if behind.is_empty() {
            return Some(pairs);
        }
        rest = behind.strip_prefix(b",")?.trim_ascii_start();
    }
}

fn decoded(bytes: &[u8]) -> Option<String> {
    let plain: Vec<u8> = bytes.trim_ascii().iter().copied().filter(|byte| *byte != b'\\').collect();
    percent_decode(&plain)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(text: &str) -> Said {
        commented(text.as_bytes(), "tenant")
    }

    fn value(text: &str) -> Said {
        Said::Value(text.to_owned())
    }

    #[test]
    fn a_key_is_read_at_either_end() {
        for text in [
            "SELECT 1 /*tenant='acme'*/",
            "SELECT 1 /*tenant='acme'*/ ;\n",
            "/* tenant='acme' */ SELECT 1",
            "SELECT 1/*action='%2Fa*',tenant='acme', traceparent='00-5bd6-01'*/",
            "/*tenant='acme'*/ SELECT 1 /*tenant='acme'*/",
            "SELECT /*tenant='globex'*/ 1 /*tenant='acme'*/",
            "/*tenant='acme'*/",
        ] {
            assert_eq!(tenant(text), value("acme"), "{text}");
        }
        assert_eq!(tenant("SELECT 1 /*tenant='a%20b%27c'*/"), value("a b'c"));
        assert_eq!(tenant(r"SELECT 1 /*x='it\'s',tenant='acme'*/"), value("acme"));
    }

    #[test]
    fn what_is_not_of_that_form_says_nothing() {
        for text in [
            "",
            "SELECT 1",
            "SELECT 1 /*tenant=acme*/",
            "SELECT 1 /*tenant='acme'",
            "SELECT 1 /* for tenant='acme' please */",
            "SELECT 1 /*tenant='acme',*/",
            "SELECT 1 /*tenant=''*/",
            "SELECT 1 /*tenants='acme'*/",
            "SELECT '/*tenant=''acme''*/'",
            "SELECT 1 -- tenant='acme'",
            "SELECT 1 /*tenant='%ff'*/",
            "*/",
            "/*",
        ] {
            assert_eq!(tenant(text), Said::Nothing, "{text}");
        }
        let long = format!("SELECT 1 /*x='{}',tenant='acme'*/", "y".repeat(MAX_COMMENT_BYTES));
        assert_eq!(tenant(&long), Said::Nothing);
    }

    #[test]
    fn two_different_tenants_are_none() {
        assert_eq!(tenant("/*tenant='acme'*/ SELECT 1 /*tenant='globex'*/"), Said::Different);
        assert_eq!(tenant("SELECT 1 /*tenant='acme',tenant='globex'*/"), Said::Different);
    }
}
