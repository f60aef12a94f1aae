//! The directory: all tenants, all users, and what each user may do. Plain data, immutable.

mod pattern;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::names::{TenantId, UpstreamName, UserName};
use crate::secret::Secret;
pub use pattern::{Fit, Pattern};

/// Everything that a reload replaces at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Every tenant by id.
    pub tenants: HashMap<TenantId, Arc<Tenant>>,
    /// Every user by name.
    pub users: HashMap<UserName, Arc<User>>,
    /// `[tenancy]`
    pub tenancy: Tenancy,
    /// `[defaults]`: what a tenant may use that says nothing else.
    pub defaults: Limits,
}

impl Directory {
    /// The roles that any user may set.
    pub fn roles(&self) -> BTreeSet<String> {
        self.users.values().flat_map(|user| user.roles.iter().cloned()).collect()
    }
}

/// `[tenancy]`: what holds for all tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "two questions with yes or no for an answer, asked apart")]
pub struct Tenancy {
    /// The custom setting that carries the tenant's id, for example `app.tenant_id`.
    pub setting: String,
    /// What clients are called in `pg_stat_activity`: `{tenant}` and `{application_name}` are filled in.
    pub application_name: String,
    /// The tenant that a TLS server name stands for, in lower case: `{tenant}.db.example.com`.
    pub server_name: Option<Pattern>,
    /// Refuse a gateway user's statements (28000) as long as no tenant is chosen.
    pub require_tenant: bool,
    /// What carries the tenant to the policies.
    pub context: ContextMode,
    /// How much of what clients say is refused.
    pub guard: GuardLevel,
    /// Serve even where `doctor` finds that the database does not isolate.
    pub allow_unsafe: bool,
    /// How often `serve` runs the doctor's checks again; zero: only at start.
    pub doctor_interval: Duration,
    /// Functions of the database by which applications choose the tenant.
    pub choosers: Vec<ChooserName>,
    /// The setting by which applications hand claims over, the tenant among them.
    pub claims: Option<ClaimsSetting>,
}

/// A setting whose value is an object of JSON that names the tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimsSetting {
    /// The setting, in lower case.
    pub setting: String,
    /// Where the tenant is in its value: a JSON pointer (RFC 6901).
    pub pointer: String,
}

/// A function of the database with one argument of type text, the tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChooserName {
    /// Its schema, in lower case.
    pub schema: String,
    /// Its name, in lower case.
    pub name: String,
}

/// `tenancy.context`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextMode {
    /// The setting alone; any SQL that reaches PostgreSQL could change it.
    Plain,
    /// The setting and a proof made with this key, verified inside PostgreSQL.
    Sealed(SealKey),
}

/// The key that proves a context: 32 bytes that the proxy shares with the database.
pub type SealKey = Secret<[u8; 32]>;

/// `tenancy.guard`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardLevel {
    /// Nothing is inspected.
    Off,
    /// The direct routes to the context are closed.
    Context,
    /// Only kinds of statement that are known to stay within the tenant pass.
    Strict,
}

/// `[canary]`: two tenants that nobody but the proxy uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Their ids.
    pub tenants: [TenantId; 2],
    /// How often they walk.
    pub interval: Duration,
    /// What they read; its first column is the tenant's id.
    pub query: Option<String>,
}

/// `[directory]`: tables in a database that hold tenants and users besides the file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Where, and as whom they are read.
    pub login: ReaderLogin,
    /// How often they are read even if nobody has said that they changed.
    pub interval: Duration,
    /// The most rows that are taken of each.
    pub max_rows: usize,
}

/// `[auth_query]`: a query that knows users whom nothing else knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthQuery {
    /// Where, and as whom it is asked.
    pub login: ReaderLogin,
    /// The query: `$1` is the login name, the columns are `verifier` and `tenant`.
    pub query: String,
    /// How long an answer holds.
    pub ttl: Duration,
    /// How long the answer holds that there is no such user.
    pub negative_ttl: Duration,
    /// The most answers that are remembered.
    pub max_entries: usize,
}

/// As whom the proxy reads for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderLogin {
    /// The upstream.
    pub upstream: UpstreamName,
    /// Its database, if it is not the upstream's.
    pub database: Option<String>,
    /// The role.
    pub user: String,
    /// Its password, if the server asks for one.
    pub password: Option<Secret<String>>,
}

/// `[[tenant]]` with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Where its rows are.
    pub upstream: UpstreamName,
    /// How its rows are kept apart.
    pub isolation: Isolation,
    /// Its own place there; empty for shared tables.
    pub place: Place,
    /// What it may use.
    pub limits: Limits,
}

impl Tenant {
    /// Whether another description puts it in the same place.
    pub fn is_where(&self, other: &Self) -> bool {
        (&self.upstream, self.isolation, &self.place) == (&other.upstream, other.isolation, &other.place)
    }
}

/// `tenant.isolation`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Shared tables, row-level security.
    Row,
    /// A schema of its own, reached as a server role of its own.
    Schema,
    /// A database of its own.
    Database,
}

impl Isolation {
    /// The word in the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Schema => "schema",
            Self::Database => "database",
        }
    }
}

/// Where a tenant is that shares no tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Its database, if it is not the upstream's.
    pub database: Option<String>,
    /// Its schema.
    pub schema: Option<String>,
    /// The server role that its connections log in as, if it is not the upstream's, with its password.
    pub role: Option<(String, Option<Secret<String>>)>,
}

/// What one tenant may use; zero durations mean no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client connections.
    pub max_clients: usize,
    /// Server connections at one time, in each pool.
    pub max_servers: usize,
    /// Clients pinned to a server at one time, then 53300.
    pub max_pins: usize,
    /// Wait for a server, then 53300.
    pub queue_timeout: Duration,
    /// One statement, then 57014.
    pub statement_timeout: Duration,
    /// A client idle inside a transaction, then 25P03.
    pub idle_transaction_timeout: Duration,
}

/// `[[user]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: UserName,
    /// The password that proves it, if one is asked for.
    pub verifier: Option<Verifier>,
    /// The client certificate that proves it, if one is asked for; with a password, both are.
    pub certificate: Option<CertificateName>,
    /// How a token proves it, in place of a password.
    pub token: Option<TokenUse>,
    /// What it may do.
    pub grant: Grant,
    /// Rules of the guard that do not hold for it.
    pub allow: Vec<&'static str>,
    /// Roles of PostgreSQL that it may SET.
    pub roles: Vec<String>,
    /// Whether its statements may name their tenant in a comment.
    pub tenant_comment: bool,
    /// For how long its choices of a tenant hold.
    pub choice: ChoiceSpan,
    /// How long it keeps a server.
    pub pool_mode: PoolMode,
    /// What becomes of statements that would pin it to a server.
    pub pinning: Pinning,
}

/// `user.choice`: for how long the tenant that a gateway user chooses holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChoiceSpan {
    /// As PostgreSQL keeps the setting: `SET` for the session, `SET LOCAL` for the transaction.
    #[default]
    Session,
    /// For one transaction, whatever the form.
    Transaction,
}

/// `user.certificate`: a name that the client's certificate must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateName {
    /// Where in the certificate.
    pub kind: SubjectKind,
    /// What stands there.
    pub pattern: Pattern,
}

/// The names of a certificate's subject that are looked at (RFC 5280, 4.1.2.6 and 4.2.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectKind {
    /// The common name.
    Cn,
    /// A DNS name among the alternative names; case is ignored.
    Dns,
    /// A URI among the alternative names, for example a SPIFFE id.
    Uri,
}

/// `user.token`: how a client hands in its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// As a cleartext password.
    Password,
    /// By SASL OAUTHBEARER (RFC 7628).
    OauthBearer,
}

/// `user.pool_mode`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PoolMode {
    /// For a transaction, or for as long as it is pinned.
    #[default]
    Transaction,
    /// From its first transaction to its end.
    Session,
}

/// `user.pinning`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pinning {
    /// The client keeps the server while its state is there.
    #[default]
    Allow,
    /// The statement is refused.
    Refuse,
}

/// A SCRAM-SHA-256 verifier as `PostgreSQL` stores it in `pg_authid.rolpassword`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Iteration count, 4096 by default.
    pub iterations: usize,
    /// Salt, decoded.
    pub salt: Vec<u8>,
    /// `SHA256(ClientKey)`, 32 bytes.
    pub stored_key: Secret<Vec<u8>>,
    /// `HMAC(SaltedPassword, "Server Key")`, 32 bytes.
    pub server_key: Secret<Vec<u8>>,
}

/// What a user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// A bound user: `tenant = "acme"`.
    Tenant(TenantId),
    /// A gateway user: `tenants = ["acme", "globex"]`.
    Tenants(Vec<TenantId>),
    /// A gateway user for every tenant: `tenants = ["*"]`.
    AnyTenant,
    /// `maintenance = {…}`: no tenant context, its own server role and pool.
    Maintenance(Maintenance),
    /// `operator = true`: the console.
    Operator,
}

/// Where and as whom a maintenance user runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// The upstream.
    pub upstream: UpstreamName,
    /// The server role.
    pub server_user: String,
    /// Its password, if the server asks for one.
    pub server_password: Option<Secret<String>>,
    /// The databases that it reaches, by the name that it connects to; empty: the upstream's own.
    pub databases: Vec<String>,
    /// Replication connections at one time.
    pub max_replication: usize,
}

impl Grant {
    /// Whether the user names its tenant itself.
    pub const fn is_gateway(&self) -> bool {
        matches!(self, Self::Tenants(_) | Self::AnyTenant)
    }

    /// Whether a user with it may act for a tenant.
    pub fn covers(&self, tenant: &TenantId) -> bool {
        match self {
            Self::Tenant(own) => own == tenant,
            Self::Tenants(granted) => granted.contains(tenant),
            Self::AnyTenant => true,
            Self::Maintenance(_) | Self::Operator => false,
        }
    }
}
