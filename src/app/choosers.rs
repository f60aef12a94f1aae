//! Looks up what the chooser functions return, once, in the catalog of the first upstream that has them.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::control;
use crate::guard::{ChooserFunction, ChooserResult};
use crate::upstream::settings::UpstreamSettings;

/// How soon the catalogs are looked at again for a function that was not found.
const AGAIN: Duration = Duration::from_secs(10);
/// How long one upstream may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The OIDs of void and text, which no version changes.
const VOID: i64 = 2278;
const TEXT: i64 = 25;

/// Looks until all are found.
pub(super) async fn find(functions: &[ChooserFunction], config: &Config) {
    while functions.iter().any(|function| function.result.get().is_none()) {
        sleep(AGAIN).await;
        look(functions, config).await;
    }
}

/// Looks once.
pub(super) async fn look(functions: &[ChooserFunction], config: &Config) {
    for upstream in config.upstreams.values() {
        let missing: Vec<_> = functions.iter().filter(|function| function.result.get().is_none()).collect();
        if missing.is_empty() {
            return;
        }
        let read = timeout(LIMIT, read(upstream, &missing)).await;
        if let Ok(Err(error)) = read {
            tracing::warn!(%error, "the chooser functions could not be looked up");
        }
    }
    for function in functions.iter().filter(|function| function.result.get().is_none()) {
        let name = signature(function);
        tracing::warn!(name, "the chooser function was not found; its calls are refused until it is");
    }
}

async fn read(
    upstream: &UpstreamSettings,
    functions: &[&ChooserFunction],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let client = control::connect(upstream, &upstream.user, upstream.password.as_ref()).await?;
    for function in functions {
        // The names are plain identifiers.
        let sql = format!(
            "SELECT p.prorettype::pg_catalog.int8, \
             NOT p.proretset AND p.proargmodes IS NULL AND p.prokind OPERATOR(pg_catalog.=) 'f' \
             FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
             WHERE n.nspname OPERATOR(pg_catalog.=) '{}' AND p.proname OPERATOR(pg_catalog.=) '{}' \
             AND p.pronargs OPERATOR(pg_catalog.=) 1 AND p.proargtypes[0] OPERATOR(pg_catalog.=) {TEXT}",
            function.name.schema, function.name.name,
        );
        let rows = client.query_typed(&sql, &[]).await?;
        let Some(row) = rows.first() else { continue };
        let (oid, is_plain): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
        let result = match oid {
            VOID if is_plain => ChooserResult::Void,
            TEXT if is_plain => ChooserResult::Text,
            _ => {
                let name = signature(function);
                tracing::error!(
                    name,
                    "the chooser function returns neither void nor text; its calls are refused"
                );
                ChooserResult::Unfit
            }
        };
        let _known = function.result.set(result);
    }
    Ok(())
}

fn signature(function: &ChooserFunction) -> String {
    format!("{}.{}(text)", function.name.schema, function.name.name)
}
