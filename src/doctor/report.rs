//! What was found, as a text for people and as JSON for machines. Keys and words are stable.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Examination, Finding, FindingSeverity};

/// One finding as JSON says it.
#[derive(Serialize)]
struct Row<'f> {
    upstream: &'f str,
    id: &'static str,
    severity: &'static str,
    object: &'f str,
    message: &'f str,
    why: &'static str,
    fix: &'f str,
}

/// An array of findings, one a line.
pub fn as_json(examinations: &[Examination]) -> String {
    let rows = examinations.iter().flat_map(|examination| {
        let upstream = &examination.upstream;
        examination.findings.iter().map(move |finding| row(upstream, finding))
    });
    // A struct of texts has no way to fail.
    let lines: Vec<String> = rows.map(|row| serde_json::to_string(&row).unwrap_or_default()).collect();
    if lines.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", lines.join(",\n")) }
}

fn row<'f>(upstream: &'f str, finding: &'f Finding) -> Row<'f> {
    Row {
        upstream,
        id: finding.id,
        severity: finding.severity.word(),
        object: &finding.object,
        message: &finding.message,
        why: finding.why,
        fix: &finding.fix,
    }
}

/// By upstream and severity; each check with its reason, its findings aligned below, what mends it indented.
pub fn as_text(examinations: &[Examination]) -> String {
    let mut text = String::new();
    for examination in examinations {
        line(&mut text, format_args!("upstream {}", printable(&examination.upstream)));
        if examination.findings.is_empty() {
            line(&mut text, format_args!("  nothing found"));
        }
        for severity in FindingSeverity::ALL {
            let found: Vec<&Finding> =
                examination.findings.iter().filter(|finding| finding.severity == severity).collect();
            if !found.is_empty() {
                line(&mut text, format_args!("\n  {} ({})", severity.word().to_uppercase(), found.len()));
                for check in found.chunk_by(|a, b| a.id == b.id) {
                    one_check(&mut text, check);
                }
            }
        }
        text.push('\n');
    }
    let total = |severity| examinations.iter().map(|one| one.count(severity)).sum::<usize>();
    let [critical, warning, advice] = FindingSeverity::ALL.map(total);
    line(&mut text, format_args!("{critical} critical, {warning} warnings, {advice} advice"));
    text
}

fn one_check(text: &mut String, findings: &[&Finding]) {
    let Some(first) = findings.first() else { return };
    line(text, format_args!("    {}  {}", first.id, first.name));
    line(text, format_args!("         {}", first.why));
    let width = findings.iter().map(|finding| printable(&finding.object).chars().count()).max();
    let width = width.unwrap_or(0).min(40);
    for finding in findings {
        let (object, message) = (printable(&finding.object), printable(&finding.message));
        line(text, format_args!("       - {object:width$}  {message}"));
        for fix in finding.fix.lines() {
            line(text, format_args!("             {}", printable(fix)));
        }
    }
}

/// Names come from a catalog that others write: no control character of theirs reaches a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String has no way to fail.
    if writeln!(text, "{arguments}").is_err() {
        text.push('\n');
    }
}
