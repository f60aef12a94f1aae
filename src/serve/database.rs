//! The database that a client names. For tenants it says nothing about the place of their rows, so that a connection string
//! outlasts a move; it must be a name that the proxy has. A maintenance user chooses by it among those that it was granted.

use crate::directory::{Grant, User};
use crate::fault::{Fault as _, Report, sqlstate};
use crate::serve::{Live, Shared};
use crate::startup::{Claim, Replication};
use crate::upstream::{ConnectError, UpstreamFault};

/// The database that is not the upstream's own, if a maintenance user chose one; or why a login is refused.
pub(super) fn chosen(
    shared: &Shared,
    live: &Live,
    user: &User,
    claim: &Claim,
) -> Result<Option<String>, Report> {
    let name = &claim.database;
    // A physical replication connection is of all databases.
    if claim.replication == Some(Replication::Physical) {
        return Ok(None);
    }
    let Grant::Maintenance(maintenance) = &user.grant else {
        let is_known = shared.upstreams.has_database(name) || live.databases.contains(name);
        return if is_known { Ok(None) } else { Err(unknown(name)) };
    };
    let is_own = shared.upstreams.database_of(&maintenance.upstream) == Some(name);
    let is_granted = match &maintenance.databases[..] {
        [] => is_own,
        granted => granted.contains(name),
    };
    if is_granted { Ok((!is_own).then(|| name.clone())) } else { Err(unknown(name)) }
}

/// What a client is told that cannot be connected. A maintenance user is told of a database that PostgreSQL does not have.
pub(super) fn told(fault: &UpstreamFault, user: &User, claim: &Claim) -> Report {
    match (fault, &user.grant) {
        (UpstreamFault::Connect(ConnectError::Refused { sqlstate, .. }), Grant::Maintenance(_))
            if sqlstate == sqlstate::INVALID_CATALOG_NAME.0 =>
        {
            unknown(&claim.database)
        }
        _ => fault.report(),
    }
}

fn unknown(name: &str) -> Report {
    Report::new(sqlstate::INVALID_CATALOG_NAME, format!("database \"{name}\" does not exist"))
        .hint("The proxy knows its upstreams' databases and those of listen.databases; maintenance users reach those that they were granted.")
}
