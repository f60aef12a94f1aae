//! What is asked of a server behind a transaction that may have changed its session: what settings are now, and
//! which state is left there. PostgreSQL alone knows what a transaction's end, a savepoint or an error took back.

use crate::guard::footprint::{State, States};
use crate::upstream::Nonce;
use crate::upstream::context::statement::value_expression;
use crate::wire::backend;

/// The longest value of a setting that is carried, in bytes.
const MAX_VALUE_BYTES: usize = 8192;

/// In front of a statement of the proxy's own in a session that a client has used: under the client's defaults
/// (serializable, read only, deferrable) its snapshot would wait until all serializable transactions that write are over.
/// The access mode stays, because a standby refuses READ WRITE.
pub(super) const WAITS_FOR_NO_OTHER: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE;";

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// The values of these settings.
    pub settings: Vec<String>,
    /// Whether any of these is there.
    pub states: States,
}

/// What the server said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The values in the order of the question; none: it knows no such setting, or the value is too long to carry.
    pub settings: Vec<Option<String>>,
    /// Settings whose values are too long to carry.
    pub too_long: Vec<String>,
    /// What is there; all that was asked for, if the server would not say.
    pub states: States,
}

impl Question {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.states.is_empty()
    }

    /// The statement, a transaction that waits for no other. Values come as hexadecimal, whatever the client's encoding is. The nonce comes back in the first
    /// column, so that an answer of another statement is not taken for this one's.
    pub(super) fn sql(&self, login: &str, nonce: &Nonce) -> String {
        let mut columns = vec![format!("'{}'", nonce.as_str())];
        for name in &self.settings {
            let value = format!("pg_catalog.current_setting({},true)", value_expression(name));
            let hex = format!("pg_catalog.encode(pg_catalog.convert_to({value},'UTF8'),'hex')");
            columns.push(format!(
                "CASE WHEN pg_catalog.octet_length({value}) OPERATOR(pg_catalog.>) {MAX_VALUE_BYTES} THEN '-' ELSE {hex} END"
            ));
        }
        columns.extend(self.states.iter().map(|state| condition(state, login)));
        format!("{WAITS_FOR_NO_OTHER}SELECT {}", columns.join(","))
    }

    /// Reads the row that answers it; none if it answers something else.
    pub(super) fn read(&self, row: &[u8], nonce: &Nonce) -> Option<Answer> {
        if backend::column(row, 0) != Some(nonce.as_str()) {
            return None;
        }
        let mut too_long = Vec::new();
        let mut settings = Vec::with_capacity(self.settings.len());
        for (place, name) in (1..).zip(&self.settings) {
            let value = backend::column(row, place);
            if value == Some("-") {
                too_long.push(name.clone());
            }
            settings.push(value.and_then(from_hexadecimal).and_then(|bytes| String::from_utf8(bytes).ok()));
        }
        let mut states = States::default();
        for (place, state) in (1 + self.settings.len()..).zip(self.states.iter()) {
            if backend::column(row, place) != Some("f") {
                states.add(state);
            }
        }
        Some(Answer { settings, too_long, states })
    }

    /// The part of it that every role may ask.
    pub(super) fn about_settings(&self) -> Self {
        Self { settings: self.settings.clone(), states: States::default() }
    }
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Whether such state is there. Catalogs only, all names qualified.
fn condition(state: State, login: &str) -> String {
    let found = match state {
        State::Temporary => {
            let own = "OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()";
            return format!(
                "EXISTS(SELECT FROM pg_catalog.pg_class WHERE relnamespace {own} \
                 UNION ALL SELECT FROM pg_catalog.pg_proc WHERE pronamespace {own} \
                 UNION ALL SELECT FROM pg_catalog.pg_type WHERE typnamespace {own})"
            );
        }
        State::Role => {
            let login = value_expression(login);
            return format!(
                "(pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none' \
                 OR pg_catalog.current_setting('session_authorization') OPERATOR(pg_catalog.<>) {login})"
            );
        }
        State::HeldCursor => "pg_catalog.pg_cursors WHERE is_holdable",
        State::AdvisoryLock => {
            "pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
             AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
        }
        State::Listen => "pg_catalog.pg_listening_channels()",
        State::Prepared => "pg_catalog.pg_prepared_statements WHERE from_sql",
        // Nothing takes them back but the end of the session.
        State::Library | State::Setting => return "true".to_owned(),
    };
    format!("EXISTS(SELECT FROM {found})")
}
