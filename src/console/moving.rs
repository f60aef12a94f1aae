//! MOVE TENANT: hold its transactions at their boundary, switch its place, let them go on.
//!
//! ```text
//!   read the file ─> does it say the destination? ─> hold ─> nothing under way ─> switch ─> let go
//!   (not for rows)       no: refused                            no: let go, refused, nothing has changed
//! ```
//!
//! What is said here lasts: the place is in the file (or the tables) before the first transaction runs there, so that
//! a restart finds the tenant where it is.

use std::sync::Arc;
use std::time::Duration;

use pgwire::error::{PgWireError, PgWireResult};
use tokio::time::Instant;

use super::handlers::refusal;
use super::{Console, PAUSE_LIMIT, ProcessRequest, moving};
use crate::config::{self, Config};
use crate::directory::Tenant;
use crate::names::TenantId;
use crate::registry::{Destination, Mover};

impl Console {
    pub(super) async fn move_tenant(
        &self,
        id: &TenantId,
        to: &Destination,
        who: &str,
    ) -> PgWireResult<&'static str> {
        let from = self.tenant(id)?;
        let switch = self.prepare(&from, to).await?;
        let began = Instant::now();
        let hold = self.shared.clients.hold(&from).ok_or_else(|| moving(id))?;
        if !self.shared.clients.quiet(&from, patience(&from)).await {
            return Err(refusal(
                "55000",
                format!("nothing has changed: transactions of tenant \"{id}\" are still under way"),
            ));
        }
        match switch {
            Switch::File(config, over) => {
                self.request(|reply| ProcessRequest::Install(config, over, reply)).await?;
            }
            Switch::Tables(mover) => mover.relocate(id, to).await.map_err(|why| unchanged(&why))?,
        }
        drop(hold);
        tracing::info!(
            target: "audit",
            who,
            action = "moved",
            tenant = %id,
            from = from.isolation.label(),
            to = to.isolation.label(),
            held_ms = began.elapsed().as_millis(),
            "console"
        );
        Ok("MOVE")
    }

    /// What will be done once the tenant is held.
    async fn prepare(&self, from: &Tenant, to: &Destination) -> PgWireResult<Switch> {
        let id = &from.id;
        if let Some(mover) = &self.sources.mover
            && !self.sources.file.load().directory.tenants.contains_key(id)
        {
            return Ok(Switch::Tables(mover.clone()));
        }
        let (path, over) = (self.sources.path.clone(), self.sources.file.load_full());
        // Reading the file may take a second where it is long, and nobody has to wait for that yet.
        let read = tokio::task::spawn_blocking(move || config::load(&path)).await;
        let config = read
            .map_err(|error| refusal("XX000", error.to_string()))?
            .map_err(|problems| refusal("F0000", format!("nothing has changed: {problems}")))?;
        let there = config.directory.tenants.get(id);
        let there = there.ok_or_else(|| unchanged(&format!("the file has no tenant \"{id}\" any more")))?;
        let wrong = differences(to, there);
        if !wrong.is_empty() {
            return Err(unchanged(&format!(
                "the file does not put tenant \"{id}\" there; write {} in its [[tenant]] table, then MOVE again",
                wrong.join(", ")
            )));
        }
        if there.is_where(from) {
            return Err(refusal("55000", format!("tenant \"{id}\" is there already")));
        }
        Ok(Switch::File(Box::new(config), over))
    }
}

/// How the place of a held tenant is changed.
enum Switch {
    /// By taking the file as it is now, in the place of what was read of it before.
    File(Box<Config>, Arc<Config>),
    /// By writing its row.
    Tables(Mover),
}

fn unchanged(why: &str) -> PgWireError {
    refusal("55000", format!("nothing has changed: {why}"))
}

/// How long transactions under way are waited for. Those held back wait no longer than `queue_timeout`, and must not
/// be refused because of a move that succeeds.
fn patience(tenant: &Tenant) -> Duration {
    let limit = tenant.limits.queue_timeout;
    if limit.is_zero() { PAUSE_LIMIT } else { limit / 2 }
}

/// What the tenant's table would have to say, where it says something else.
fn differences(to: &Destination, tenant: &Tenant) -> Vec<String> {
    let place = &tenant.place;
    let role = place.role.as_ref().map(|(name, _)| name.as_str());
    let isolation = Some(to.isolation.label().to_owned());
    let rows = [
        ("isolation", &isolation, Some(tenant.isolation.label())),
        ("upstream", &to.upstream, Some(tenant.upstream.as_str())),
        ("database", &to.database, place.database.as_deref()),
        ("schema", &to.schema, place.schema.as_deref()),
        ("role", &to.role, role),
    ];
    let wrong = rows.into_iter().filter(|(_, said, is)| said.is_some() && said.as_deref() != *is);
    wrong.map(|(key, said, _)| format!("{key} = {:?}", said.as_deref().unwrap_or_default())).collect()
}
