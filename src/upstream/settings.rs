//! What an operator can set about one upstream.

use std::path::PathBuf;
use std::time::Duration;

use crate::names::UpstreamName;
use crate::net::settings::ServerTls;
use crate::secret::Secret;

/// `[upstream.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// The name after `upstream.`.
    pub name: UpstreamName,
    /// Where `PostgreSQL` listens, tried in order; the first that accepts writes is used.
    pub hosts: Vec<ServerAddress>,
    /// Database to connect to.
    pub database: String,
    /// Login role; must be neither owner nor superuser nor BYPASSRLS.
    pub user: String,
    /// Its password, if the server asks for one.
    pub password: Option<Secret<String>>,
    /// TLS towards the server.
    pub tls: ServerTls,
    /// PEM roots for `VerifyCa` and `VerifyFull`; none: the system's roots.
    pub ca: Option<PathBuf>,
    /// Server connections in all, per database and role.
    pub pool_size: usize,
    /// Server connections of a pool that is one tenant's own.
    pub tenant_pool_size: usize,
    /// How long such a pool keeps an idle connection.
    pub tenant_idle_timeout: Duration,
    /// Server connections of all pools of this upstream.
    pub max_connections: usize,
    /// Time to connect and log in to the server.
    pub connect_timeout: Duration,
    /// Prepared statements kept on one server connection.
    pub max_prepared: usize,
}

impl UpstreamSettings {
    /// The same server, in another database.
    #[must_use]
    pub fn in_database(&self, database: Option<&str>) -> Self {
        let database = database.unwrap_or(&self.database).to_owned();
        Self { database, ..self.clone() }
    }
}

/// One place where `PostgreSQL` listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket file, `/dir/.s.PGSQL.5432`.
    Unix(PathBuf),
}
