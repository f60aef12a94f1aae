//! `pgtenant doctor`: every upstream of a configuration examined, told as text or JSON.
//! Exit codes: 0 nothing but advice, 1 warnings or worse, 2 usage or configuration.

use std::path::Path;
use std::process::ExitCode;

use super::{complain, on_runtime, say};
use crate::config;
use crate::doctor::{FindingSeverity, as_json, as_text, examine};

/// How the findings are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For machines.
    Json,
}

pub(super) fn run(path: &Path, format: Format) -> ExitCode {
    let config = match config::load(path) {
        Ok(config) => config,
        Err(problems) => return complain(&problems.to_string(), 2),
    };
    on_runtime(async move {
        let mut examinations = Vec::new();
        for settings in config.upstreams.values() {
            examinations.push(examine(settings, &config.directory).await);
        }
        let said = say(&match format {
            Format::Text => as_text(&examinations),
            Format::Json => as_json(&examinations),
        });
        let is_fine = examinations
            .iter()
            .all(|one| one.count(FindingSeverity::Critical) == 0 && one.count(FindingSeverity::Warning) == 0);
        if is_fine { said } else { ExitCode::from(1) }
    })
}
