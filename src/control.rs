//! Connections of our own to PostgreSQL, for the operator's side: looking at catalogs, installing protection.
//! No client's bytes ever travel on one; they share the pool's way to a host, its TLS and its limits.

use std::io;

use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls};

use crate::secret::Secret;
use crate::upstream::settings::{ServerAddress, UpstreamSettings};
use crate::upstream::{ConnectError, Connector};

/// Connects to an upstream as a role: to the first host that takes us and, if there are several, accepts
/// writes. The session is as the server gives it; settings are for the caller to make, in a transaction.
pub async fn connect(
    settings: &UpstreamSettings,
    user: &str,
    password: Option<&Secret<String>>,
) -> Result<Client, ConnectError> {
    let connector = Connector::with_role(settings.clone(), user.to_owned(), password.cloned())?;
    let mut login = Config::new();
    login.user(user).dbname(&settings.database).application_name("pgtenant");
    if let Some(password) = password {
        login.password(password.expose());
    }
    let mut last = ConnectError::ReadOnly;
    for address in &settings.hosts {
        let attempt = timeout(settings.connect_timeout, log_in(&connector, address, &login));
        match attempt.await.unwrap_or(Err(ConnectError::Timeout)) {
            Ok((client, true)) => return Ok(client),
            Ok((client, false)) if settings.hosts.len() == 1 => return Ok(client),
            Ok((_, false)) => last = ConnectError::ReadOnly,
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The session, and whether it accepts writes.
async fn log_in(
    connector: &Connector,
    address: &ServerAddress,
    login: &Config,
) -> Result<(Client, bool), ConnectError> {
    // The stream is encrypted already where it has to be, which is why no TLS is asked for on top of it.
    let stream = connector.open(address).await?;
    let (client, connection) = login.connect_raw(stream, NoTls).await.map_err(refused)?;
    // What goes wrong on the connection is told to whoever asks the client next; dropping that ends this.
    tokio::spawn(async move { drop(connection.await) });
    let sql = "SELECT NOT pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool";
    let writes = client.query_typed(sql, &[]).await.map_err(refused)?;
    let accepts_writes = writes.first().is_some_and(|row| row.try_get(0).unwrap_or(false));
    Ok((client, accepts_writes))
}

fn refused(error: tokio_postgres::Error) -> ConnectError {
    match error.as_db_error() {
        Some(db) => {
            ConnectError::Refused { sqlstate: db.code().code().to_owned(), message: db.message().to_owned() }
        }
        None => ConnectError::Io(io::Error::other(error)),
    }
}
