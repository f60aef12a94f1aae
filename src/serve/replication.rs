//! A login that asks for a replication connection: allowed to maintenance users as far as the configuration says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::auth::{self, Identity};
use crate::clients::Membership;
use crate::directory::{Grant, Maintenance};
use crate::fault::{Report, sqlstate};
use crate::names::UserName;
use crate::net::Channel;
use crate::observability::metrics::ReplicationGauge;
use crate::serve::{Shared, database, shutdown};
use crate::session::{End, tunnel};
use crate::startup::{Claim, Replication};
use crate::tenant::reach;
use crate::upstream::{ReplicationServer, Role};
use crate::wire::encode;

/// A client and its server.
pub(super) struct Admitted {
    server: ReplicationServer,
    membership: Membership,
    _permit: ReplicationPermit,
    _gauge: ReplicationGauge,
}

/// One of a user's replication connections.
struct ReplicationPermit(Arc<AtomicUsize>);

impl Drop for ReplicationPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets a proven user in, or says why not.
pub(super) async fn admit(
    shared: &Shared,
    (identity, address): (&Identity, Option<SocketAddr>),
    claim: &Claim,
    kind: Replication,
) -> Result<Admitted, Report> {
    let user = identity.user();
    let Grant::Maintenance(maintenance) = &user.grant else { return Err(not_allowed()) };
    let live = shared.live.load_full();
    if reach(identity, claim, &live.directory).is_narrow() {
        return Err(not_allowed());
    }
    let database = database::chosen(shared, &live, user, claim)?;
    let permit = take_permit(shared, &user.name, maintenance)?;
    let key_bytes = if claim.minor >= 2 { 32 } else { 4 };
    let membership =
        shared.clients.register(user.name.clone(), None, key_bytes, (address, identity.expires()));
    let role = Role { user: maintenance.server_user.clone(), password: maintenance.server_password.clone() };
    let kind = match kind {
        Replication::Physical => "true",
        Replication::Logical => "database",
    };
    let mut parameters: Vec<(&str, &str)> =
        claim.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    parameters.push(("replication", kind));
    let server =
        shared.upstreams.replication(&maintenance.upstream, (role, database.as_deref()), &parameters);
    let server = server.await.map_err(|fault| database::told(&fault, user, claim))?;
    if membership.client().order().is_some() {
        return Err(shutdown());
    }
    tracing::warn!(user = %user.name, role = maintenance.server_user, kind, "replication connection");
    let gauge = ReplicationGauge::new(maintenance.upstream.as_str());
    Ok(Admitted { server, membership, _permit: permit, _gauge: gauge })
}

/// The login's last messages, and then the server's own.
pub(super) async fn run(mut admitted: Admitted, mut channel: Channel, identity: &Identity) -> End {
    let client = admitted.membership.client();
    let out = channel.output.space();
    auth::accept(identity, out);
    for (name, value) in &admitted.server.parameters {
        encode::parameter_status(out, name, value);
    }
    encode::backend_key_data(out, client.process_id(), client.key());
    encode::ready_for_query(out, b'I');
    tunnel::run(&mut channel, &admitted.membership, &mut admitted.server).await
}

fn take_permit(
    shared: &Shared,
    user: &UserName,
    maintenance: &Maintenance,
) -> Result<ReplicationPermit, Report> {
    if maintenance.max_replication == 0 {
        return Err(not_allowed());
    }
    let count = Arc::clone(&shared.replication.entry(user.clone()).or_default());
    let more = |now| (now < maintenance.max_replication).then_some(now + 1);
    match count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
        Ok(_) => Ok(ReplicationPermit(count)),
        Err(_) => {
            Err(Report::new(sqlstate::TOO_MANY_CONNECTIONS, "too many replication connections of this user")
                .hint("End one, or raise the user's maintenance.max_replication."))
        }
    }
}

fn not_allowed() -> Report {
    Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "replication connections are not allowed to this user")
        .hint("Use a maintenance user with max_replication, or connect to PostgreSQL directly.")
}
