//! From an identity to the role it plays: which tenant, or none.
//! Promise: a tenant is reached only through a grant; an unknown one looks like a wrong password.

use std::sync::Arc;

use crate::auth::{AuthFault, Identity, Reach, Reason};
use crate::directory::{Directory, Fit, Grant, Maintenance, Tenant};
use crate::fault::{Fault, Kind, Report, sqlstate};
use crate::names::TenantId;
use crate::startup::Claim;

/// What a client may do from now on.
#[derive(Debug, Clone)]
pub enum Standing {
    /// It acts for this tenant.
    Tenant(Arc<Tenant>),
    /// A gateway user that has chosen no tenant: its statements are refused.
    Undecided,
    /// No tenant context, a server role of its own.
    Maintenance(Maintenance),
}

impl Standing {
    /// The tenant it acts for.
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Tenant(tenant) => Some(&tenant.id),
            Self::Undecided | Self::Maintenance(_) => None,
        }
    }
}

/// Why an identity has no standing.
#[derive(Debug, thiserror::Error)]
pub enum ResolveFault {
    /// The tenant does not exist: told as a wrong password.
    #[error("{0}")]
    Unknown(AuthFault),
    /// The tenant exists, the user may not act for it.
    #[error("user \"{user}\" may not act for tenant \"{tenant}\"")]
    NotGranted {
        /// The user as claimed.
        user: String,
        /// The tenant as named by the client.
        tenant: String,
    },
    /// The login is for tenants that the user has nothing to do with, or for different ones at a time.
    #[error("user \"{user}\" may not act for the tenant that this login is for")]
    NoneLeft {
        /// The user as claimed.
        user: String,
    },
    /// The user name and the startup parameters name different tenants.
    #[error("user name and startup parameters name different tenants")]
    TwoNames,
    /// The console is not there.
    #[error("the console is not available in this version")]
    Console,
}

impl Fault for ResolveFault {
    fn kind(&self) -> Kind {
        Kind::Client
    }

    fn report(&self) -> Report {
        match self {
            Self::Unknown(fault) => fault.report(),
            Self::NotGranted { .. } | Self::NoneLeft { .. } => {
                Report::new(sqlstate::INVALID_AUTHORIZATION, self.to_string())
                    .hint("Name a tenant that is granted to this user.")
            }
            Self::TwoNames => Report::new(sqlstate::INVALID_AUTHORIZATION, self.to_string())
                .hint("Name the tenant in one of the two places."),
            Self::Console => Report::new(sqlstate::FEATURE_NOT_SUPPORTED, self.to_string()),
        }
    }
}

impl ResolveFault {
    /// What the log says of it and the client does not read.
    pub fn reason(&self) -> Option<Box<str>> {
        match self {
            Self::Unknown(fault) => fault.reason(),
            Self::NotGranted { .. } | Self::NoneLeft { .. } | Self::TwoNames | Self::Console => None,
        }
    }
}

/// For whom a client acts, and the tenants it may choose from later; the tenant setting is taken out of the claim's
/// parameters.
pub fn resolve(
    identity: &Identity,
    claim: &mut Claim,
    directory: &Directory,
) -> Result<(Standing, Reach), ResolveFault> {
    let reach = reach(identity, claim, directory);
    // First that applies: the startup packet (named on its own before options), then the user name, then what the
    // proofs and the server name leave. Packet and user name are both the client's own words: they must not differ.
    let asked = claim.take(&directory.tenancy.setting.to_ascii_lowercase()).filter(|asked| !asked.is_empty());
    if asked.as_deref().zip(identity.suffix()).is_some_and(|(parameter, suffix)| parameter != suffix) {
        return Err(ResolveFault::TwoNames);
    }
    let asked = asked.or_else(|| identity.suffix().map(str::to_owned));
    let asked = asked.or_else(|| reach.only().map(str::to_owned));
    let user = identity.user();
    let tenant_of = |name: &str| {
        TenantId::parse(name).ok().and_then(|id| directory.tenants.get(&id)).ok_or_else(|| {
            ResolveFault::Unknown(AuthFault::refused(&claim.user, Reason::UnknownTenant(name.to_owned())))
        })
    };
    let not_granted =
        |tenant: &str| ResolveFault::NotGranted { user: user.name.to_string(), tenant: tenant.to_owned() };
    let none_left = || ResolveFault::NoneLeft { user: user.name.to_string() };
    if reach.is_empty() {
        return Err(none_left());
    }
    let standing = match &user.grant {
        Grant::Tenant(own) => match asked {
            Some(asked) if asked != own.as_str() => {
                tenant_of(&asked)?;
                return Err(not_granted(&asked));
            }
            _ if !reach.allows(own.as_str()) => return Err(not_granted(own.as_str())),
            _ => Standing::Tenant(Arc::clone(tenant_of(own.as_str())?)),
        },
        Grant::Tenants(_) | Grant::AnyTenant => match asked {
            None => Standing::Undecided,
            Some(asked) => {
                let tenant = tenant_of(&asked)?;
                if !user.grant.covers(&tenant.id) || !reach.allows(&asked) {
                    return Err(not_granted(&asked));
                }
                Standing::Tenant(Arc::clone(tenant))
            }
        },
        Grant::Maintenance(maintenance) => match asked {
            Some(asked) => return Err(not_granted(&asked)),
            None if reach.is_narrow() => return Err(none_left()),
            None => Standing::Maintenance(maintenance.clone()),
        },
        Grant::Operator => return Err(ResolveFault::Console),
    };
    Ok((standing, reach))
}

/// What the proofs and the TLS server name leave. A name that fits the pattern names a tenant, be there one or not.
pub fn reach(identity: &Identity, claim: &Claim, directory: &Directory) -> Reach {
    let mut reach = identity.reach().clone();
    if let (Some(pattern), Some(name)) = (&directory.tenancy.server_name, &claim.server_name)
        && let Fit::Tenant(tenant) = pattern.fit(name)
    {
        reach.narrow(vec![tenant.to_owned()]);
    }
    reach
}
