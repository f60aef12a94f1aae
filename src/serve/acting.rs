//! From a standing to the one a client acts for: its way to servers, its limits, its seat. Used at login, and
//! again for each tenant that a client chooses by SET, which is checked against the grant as it is then.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::Reach;
use crate::clients::{NoSeat, TenantSeat};
use crate::directory::{Grant, GuardLevel, Isolation, User};
use crate::fault::{Fault as _, Report, sqlstate};
use crate::guard::Rules;
use crate::names::{TenantId, UserName};
use crate::relay::core::tenant_choice::{Acting, Chooser, closed, no_tenant};
use crate::serve::{Live, Shared};
use crate::session::shutdown;
use crate::tenant::{Limits, Standing, Tenant};
use crate::upstream::{Access, Context, PoolTarget, Role};

/// No limits: maintenance users, and gateway users who can do nothing yet.
const UNLIMITED: Limits = Limits {
    max_clients: usize::MAX,
    max_servers: usize::MAX,
    max_pins: usize::MAX,
    queue_timeout: Duration::from_secs(60),
    statement_timeout: Duration::ZERO,
    idle_transaction_timeout: Duration::ZERO,
};

/// What a standing gives. `database`: a maintenance user's, if it is not the upstream's own.
pub(super) fn act(
    shared: &Shared,
    user: &UserName,
    standing: Standing,
    database: Option<String>,
) -> Result<Arc<Acting>, Report> {
    match standing {
        Standing::Tenant(tenant) => for_tenant(shared, &tenant.id),
        Standing::Undecided => {
            let upstream = shared.upstreams.first().ok_or_else(no_tenant)?;
            let access = shared.upstreams.access(upstream, PoolTarget::default(), shared.contexts.nobody());
            Ok(unseated(shared, access.map_err(|fault| fault.report())?))
        }
        Standing::Maintenance(maintenance) => {
            tracing::warn!(%user, role = maintenance.server_user, "maintenance login: no tenant context");
            let role = Role { user: maintenance.server_user, password: maintenance.server_password };
            let target = PoolTarget { role: Some(role), database, ..PoolTarget::default() };
            let access = shared.upstreams.access(&maintenance.upstream, target, Context::none());
            Ok(unseated(shared, access.map_err(|fault| fault.report())?))
        }
    }
}

fn for_tenant(shared: &Shared, id: &TenantId) -> Result<Arc<Acting>, Report> {
    let seat = shared.clients.join_tenant(&*known(shared, id)?).map_err(|reason| match reason {
        NoSeat::Full => Report::new(sqlstate::TOO_MANY_CONNECTIONS, "too many clients of this tenant")
            .hint("Close connections, or raise the tenant's max_clients."),
        NoSeat::Closed(status) => closed(status),
    })?;
    seated(shared, id, seat)
}

fn known(shared: &Shared, id: &TenantId) -> Result<Arc<Tenant>, Report> {
    shared.live.load().directory.tenants.get(id).map(Arc::clone).ok_or_else(shutdown)
}

/// From a seat to the tenant's place, looked up behind the seat: a tenant is moved by storing its new place first and
/// counting the move then, so that a seat which is not stale belongs to the place as it is.
fn seated(shared: &Shared, id: &TenantId, seat: TenantSeat) -> Result<Arc<Acting>, Report> {
    let tenant = &*known(shared, id)?;
    let (target, context) = match tenant.isolation {
        Isolation::Row => (PoolTarget::default(), shared.contexts.tenant(&tenant.id)),
        Isolation::Schema | Isolation::Database => {
            (own_place(tenant), shared.contexts.tenant_of_its_own(&tenant.id))
        }
    };
    let access =
        shared.upstreams.access(&tenant.upstream, target, context).map_err(|fault| fault.report())?;
    let metrics = shared.labels.of(Some(&tenant.id));
    let gauge = metrics.client();
    Ok(Arc::new(Acting { access, unseated: tenant.limits, seat: Some(seat), metrics, gauge }))
}

/// Where a tenant is that shares no tables.
fn own_place(tenant: &Tenant) -> PoolTarget {
    let role = tenant.place.role.as_ref();
    PoolTarget {
        database: tenant.place.database.clone(),
        schema: tenant.place.schema.clone(),
        role: role.map(|(user, password)| Role { user: user.clone(), password: password.clone() }),
        is_tenants_own: true,
    }
}

fn unseated(shared: &Shared, access: Access) -> Arc<Acting> {
    let metrics = shared.labels.of(None);
    let gauge = metrics.client();
    Arc::new(Acting { access, unseated: UNLIMITED, seat: None, metrics, gauge })
}

/// What a user may say. Those without a context have nothing to be guarded.
pub(super) fn rules(shared: &Shared, live: &Live, user: &User) -> Arc<Rules> {
    let tenancy = &live.directory.tenancy;
    let level = match user.grant {
        Grant::Maintenance(_) => GuardLevel::Off,
        Grant::Tenant(_) | Grant::Tenants(_) | Grant::AnyTenant | Grant::Operator => tenancy.guard,
    };
    let rules = Rules::new(&tenancy.setting, level, &user.allow).with_roles(&user.roles);
    Arc::new(match user.grant {
        // They have no tenant to choose: the functions are run for them.
        Grant::Maintenance(_) | Grant::Operator => rules,
        Grant::Tenant(_) | Grant::Tenants(_) | Grant::AnyTenant => {
            rules.with_choosers(Arc::clone(&shared.choosers)).with_claims(tenancy.claims.as_ref())
        }
    })
}

/// Who decides about the tenants that a user names by SET; nobody for maintenance users, who have none.
pub(super) fn chooser(shared: &Arc<Shared>, user: &User, reach: Reach) -> Option<Arc<dyn Chooser>> {
    match user.grant {
        Grant::Maintenance(_) | Grant::Operator => None,
        Grant::Tenant(_) | Grant::Tenants(_) | Grant::AnyTenant => {
            Some(Arc::new(Granted { shared: Arc::clone(shared), user: user.name.clone(), reach }))
        }
    }
}

/// One user's grant, looked up anew each time, as far as its login has left of it.
struct Granted {
    shared: Arc<Shared>,
    user: UserName,
    reach: Reach,
}

impl std::fmt::Debug for Granted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Granted({})", self.user)
    }
}

impl Chooser for Granted {
    fn choose(&self, tenant: &str) -> Result<Arc<Acting>, Report> {
        let live = self.shared.live.load();
        let grant = live.directory.users.get(&self.user).map(|user| &user.grant);
        let Some(grant) = grant.filter(|grant| grant.is_gateway()) else {
            return Err(Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "statement refused by the proxy")
                .detail("rule \"context-change\": the tenant of this user is fixed".to_owned())
                .hint("The proxy sets the tenant by the login; leave the setting alone."));
        };
        let known = TenantId::parse(tenant).ok().and_then(|id| live.directory.tenants.get(&id));
        match known {
            Some(known) if grant.covers(&known.id) && self.reach.allows(tenant) => {
                for_tenant(&self.shared, &known.id)
            }
            _ => {
                let message = format!("user \"{}\" may not act for this tenant", self.user);
                Err(Report::new(sqlstate::INVALID_AUTHORIZATION, message)
                    .hint("Name a tenant that is granted to this user."))
            }
        }
    }

    fn again(&self, acting: &Acting) -> Result<Arc<Acting>, Report> {
        match (acting.tenant(), &acting.seat) {
            (Some(tenant), Some(seat)) => seated(&self.shared, tenant, seat.again()),
            // Who has no tenant has none that could have moved.
            _ => Err(no_tenant()),
        }
    }

    fn is_gateway(&self) -> bool {
        self.shared.live.load().directory.users.get(&self.user).is_some_and(|user| user.grant.is_gateway())
    }

    fn requires_tenant(&self) -> bool {
        self.shared.live.load().directory.tenancy.require_tenant
    }
}
