//! Trials of a table's policies: what its query only suspects, a check tries before it is believed.
//! Promise: nothing is written, and no row is read; where a trial cannot tell, the suspicion stands.

use serde_json::Value;
use tokio_postgres::{Client, Error, Row, SimpleQueryMessage};

/// How a suspicion is tried: by the statements in a row's `attempts`, with `given` as the tenant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trial {
    /// Plans, which show whether the planner merges the policies with a client's condition.
    Merging,
    /// Expressions, which show whether the policies are true of a row. `suspected` says it where they cannot.
    Empty,
}

/// Plans that read rows one by one: an index condition would hide what a filter shows.
const SETUP: &str = "SAVEPOINT attempt; SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; \
     SET LOCAL enable_indexonlyscan = off";

/// The name under which plans read the table, and the setting that stands for the client's condition.
const PROBE: &str = "pgtenant_probe";
const GIVEN: &str = "pgtenant_probe.given";

impl Trial {
    /// Whether the suspicion stands. The transaction is as it was afterwards.
    pub(super) async fn confirms(self, client: &Client, setting: &str, row: &Row) -> Result<bool, Error> {
        let attempts: Vec<String> = row.try_get("attempts")?;
        if attempts.is_empty() {
            return Ok(true);
        }
        let (given, column): (&str, &str) = (row.try_get("given")?, row.try_get("tenant_column")?);
        for attempt in &attempts {
            let answer = answer(client, (setting, given), attempt).await;
            client.batch_execute("ROLLBACK TO attempt; RELEASE attempt").await?;
            let stands = match (self, answer) {
                (Self::Merging, Ok(Some(plan))) => !is_kept(&plan, column, setting),
                (Self::Merging, _) => true,
                (Self::Empty, Ok(Some(truth))) => truth == "t",
                (Self::Empty, _) => row.try_get("suspected")?,
            };
            if stands {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The value that the statement answers with, under the given tenant. One round trip, for there may be thousands of tables.
async fn answer(client: &Client, (setting, given): (&str, &str), sql: &str) -> Result<Option<String>, Error> {
    let set = |name: &str| format!("set_config({}, {}, true)", literal(name), literal(given));
    let text = format!("{SETUP}; SELECT {}, {}; {sql}", set(setting), set(GIVEN));
    let messages = client.simple_query(&text).await?;
    let answers = messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
        _ => None,
    });
    Ok(answers.flatten())
}

/// A text between quotes; `standard_conforming_strings` is on here.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether each scan of the table in a plan compares every row with the tenant, not only with what a client gave.
fn is_kept(plan: &str, column: &str, setting: &str) -> bool {
    let Ok(plan) = serde_json::from_str::<Value>(plan) else { return false };
    let mut filters = Vec::new();
    gather(&plan, &mut filters);
    let is_tied = |filter: &&str| conjuncts(filter).iter().any(|part| is_tie(part, column, setting));
    !filters.is_empty() && filters.iter().all(is_tied)
}

/// The filters of all scans of the table.
fn gather<'p>(node: &'p Value, filters: &mut Vec<&'p str>) {
    match node {
        Value::Array(nodes) => nodes.iter().for_each(|node| gather(node, filters)),
        Value::Object(fields) => {
            let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
            if text("Alias").starts_with(PROBE) {
                filters.push(text("Filter"));
            }
            fields.values().for_each(|value| gather(value, filters));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a condition compares the column with the tenant's setting, or with a value computed once before the scan.
fn is_tie(condition: &str, column: &str, setting: &str) -> bool {
    let call = format!("current_setting('{setting}'").to_ascii_lowercase();
    let reads_setting = condition.to_ascii_lowercase().contains(&call);
    let bare = without_literals(condition);
    let is_computed = bare.contains("InitPlan ") || bare.contains("SubPlan ") || has_parameter(&bare);
    !condition.contains(GIVEN) && has_word(&bare, column) && (is_computed || reads_setting)
}

/// Everything outside of `'…'`.
fn without_literals(condition: &str) -> String {
    condition.split('\'').step_by(2).collect()
}

/// Whether there is a `$` with a number, as plans show what is computed before them.
fn has_parameter(condition: &str) -> bool {
    let is_number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    condition.split('$').skip(1).any(is_number)
}

/// Whether a name stands there, and not only as a part of another.
fn has_word(condition: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '"';
    condition.match_indices(name).any(|(at, _)| {
        let (before, after) = (&condition[..at], &condition[at + name.len()..]);
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

/// The conditions that a printed filter joins by AND; parentheses stand around each and around all.
fn conjuncts(filter: &str) -> Vec<&str> {
    let inner = filter.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(filter);
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_usize, None);
    for (at, byte) in inner.bytes().enumerate() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, b'(') => depth += 1,
            (None, b')') => depth = depth.saturating_sub(1),
            (None, b' ') if depth == 0 && inner[at..].starts_with(" AND ") => {
                parts.push(&inner[start..at]);
                start = at + " AND ".len();
            }
            (Some(_) | None, _) => {}
        }
    }
    parts.push(&inner[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN_CONDITION: &str = "(t = current_setting('pgtenant_probe.given'::text))";

    fn kept(filter: &str) -> bool {
        let plan = serde_json::json!([{ "Plan": { "Node Type": "Result", "Plans": [
            { "Node Type": "Seq Scan", "Alias": "pgtenant_probe", "Filter": filter },
            { "Node Type": "Seq Scan", "Alias": "other", "Filter": "(x = 1)" },
        ] } }]);
        is_kept(&plan.to_string(), "t", "app.tenant_id")
    }

    #[test]
    fn a_filter_that_compares_with_the_tenant_is_kept() {
        for condition in [
            "COALESCE((t = ANY (ARRAY[$0])), false)",
            "COALESCE((t = ANY (ARRAY[(InitPlan 1).col1])), false)",
            "((t = $12) OR is_public)",
            "(t <= current_setting('App.Tenant_Id'::text, true))",
            "(ANY (t = (hashed SubPlan 2).col1))",
            "((t)::text = $0)",
        ] {
            assert!(kept(condition), "{condition}");
            assert!(kept(&format!("({GIVEN_CONDITION} AND {condition})")), "{condition}");
            assert!(kept(&format!("({condition} AND (n > 0) AND {GIVEN_CONDITION})")), "{condition}");
        }
    }

    #[test]
    fn a_filter_that_only_a_client_has_given_is_not() {
        for condition in [
            "",
            GIVEN_CONDITION,
            &format!("({GIVEN_CONDITION} AND (n > 0))"),
            &format!("({GIVEN_CONDITION} AND (t <> 'a'::text))"),
            &format!("({GIVEN_CONDITION} AND (n > $0))"),
            &format!("({GIVEN_CONDITION} AND (n = ') AND (t = $0'::text))"),
            "(t = '$0'::text)",
            "(tt = $0)",
            "(a.t_t = $0)",
        ] {
            assert!(!kept(condition), "{condition}");
        }
        assert!(!is_kept("[]", "t", "app.tenant_id"), "no scan tells nothing");
        assert!(!is_kept("no plan", "t", "app.tenant_id"));
    }

    #[test]
    fn a_quoted_name_is_a_name() {
        let odd = r#""te(n*an.t""#;
        assert!(is_tie(&format!("({odd} = $0)"), odd, "app.tenant_id"));
        assert!(!is_tie(&format!("('{odd}'::text = $0)"), odd, "app.tenant_id"));
    }

    #[test]
    fn every_scan_of_the_table_counts() {
        let scan = |filter: &str| serde_json::json!({ "Alias": "pgtenant_probe_1", "Filter": filter });
        let plan = serde_json::json!([scan("(t = $0)"), scan(GIVEN_CONDITION)]);
        assert!(!is_kept(&plan.to_string(), "t", "app.tenant_id"));
    }
}
