//! The configuration: a TOML file goes in, each part's settings come out, or every problem at once.
//! Promise: a [`Config`] that exists can be served; nothing in it is checked again later.
//! Steps: `file` reads what is written, `compile` and `directory` turn it into settings, `change` compares two.

mod canary;
mod change;
mod compile;
mod directory;
mod file;
pub mod keys;
mod named;
mod problem;
mod reader;
pub mod rows;
mod shown;
mod tenancy;
mod token;
mod value;
mod verifier;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub use change::needs_restart;
pub use problem::{Problem, Problems};
pub use verifier::{stored_verifier, verifier_of};

use crate::auth::settings::TokenSettings;
use crate::names::UpstreamName;
use crate::net::settings::ListenSettings;
use crate::observability::settings::{LogSettings, MetricsSettings};
use crate::tenant::{AuthQuery, Canary, Directory, Tables};
use crate::upstream::settings::UpstreamSettings;

/// A whole configuration, valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[listen]`
    pub listen: ListenSettings,
    /// `[metrics]`
    pub metrics: MetricsSettings,
    /// `[log]`
    pub log: LogSettings,
    /// Every `[upstream.NAME]`, at least one.
    pub upstreams: BTreeMap<UpstreamName, UpstreamSettings>,
    /// `[token]`, if there is one.
    pub token: Option<TokenSettings>,
    /// `[directory]`, if there is one.
    pub tables: Option<Tables>,
    /// `[auth_query]`, if there is one.
    pub auth_query: Option<AuthQuery>,
    /// `[canary]`, if there is one.
    pub canary: Option<Canary>,
    /// `[tenancy]`, `[defaults]`, `[[tenant]]` and `[[user]]`.
    pub directory: Directory,
}

/// Reads the file at `path`; relative paths inside it start from its directory.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let text = fs::read_to_string(path).map_err(|error| {
        Problems(vec![Problem {
            place: path.display().to_string(),
            line: None,
            what: format!("cannot be read: {error}"),
            hint: "give the path of a configuration file, for example a copy of config.example.toml".into(),
        }])
    })?;
    let base_dir = path.parent().unwrap_or(Path::new(""));
    parse(&text, base_dir, &|name| std::env::var(name).ok())
}

/// Reads a configuration from text. Touches nothing but the files that it names.
pub fn parse(
    text: &str,
    base_dir: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Problems> {
    let page = file::Page::new(text, base_dir, environment);
    let table = page.syntax(text)?;
    let config = compile::config(&page.top(&table));
    match (config, page.problems()) {
        (Some(config), problems) if problems.is_empty() => Ok(config),
        (_, problems) => Err(Problems(problems)),
    }
}
