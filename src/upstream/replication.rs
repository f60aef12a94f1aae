//! Replication connections: one to the server for each of a client's, outside every pool, because their protocol has
//! no transactions to pool. For maintenance users that are allowed them only.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::timeout;

use crate::names::UpstreamName;
use crate::net::Channel;
use crate::upstream::error::{ConnectError, UpstreamFault};
use crate::upstream::pool::login::Connector;
use crate::upstream::{Role, Upstreams, settings};

/// A server that waits for replication commands.
#[derive(Debug)]
pub struct ReplicationServer {
    /// Its stream and buffers; nothing is owed.
    pub channel: Channel,
    /// What it reported at login.
    pub parameters: BTreeMap<String, String>,
    connector: Arc<Connector>,
    address: settings::ServerAddress,
    cancel_key: (u32, Vec<u8>),
}

impl Upstreams {
    /// Logs in at the first host that takes us, as this role and with these startup parameters; to the upstream's own
    /// database unless another is named.
    pub async fn replication(
        &self,
        upstream: &UpstreamName,
        (role, database): (Role, Option<&str>),
        parameters: &[(&str, &str)],
    ) -> Result<ReplicationServer, UpstreamFault> {
        let settings = self.settings.get(upstream).cloned();
        let settings = settings.ok_or(UpstreamFault::Doubt("the upstream is not configured"))?;
        let settings = settings.in_database(database);
        let connector = Arc::new(Connector::with_role(settings, role.user, role.password)?);
        let (hosts, limit) = connector.hosts();
        let mut last = ConnectError::ReadOnly;
        for address in hosts {
            match timeout(limit, connector.log_in(address, parameters))
                .await
                .unwrap_or(Err(ConnectError::Timeout))
            {
                Ok((channel, (parameters, cancel_key))) => {
                    let address = address.clone();
                    return Ok(ReplicationServer {
                        channel,
                        parameters,
                        connector: Arc::clone(&connector),
                        address,
                        cancel_key,
                    });
                }
                Err(error) => {
                    tracing::warn!(%upstream, ?address, %error, "cannot connect for replication");
                    last = error;
                }
            }
        }
        Err(last.into())
    }
}

impl ReplicationServer {
    /// Sends a cancel request for what runs there.
    pub fn cancel(&self) -> impl Future<Output = ()> + Send + use<> {
        let (connector, address) = (Arc::clone(&self.connector), self.address.clone());
        let (process_id, key) = self.cancel_key.clone();
        async move {
            if let Err(error) = connector.cancel(&address, process_id, &key).await {
                tracing::warn!(%error, "a cancel request did not reach the server");
            }
        }
    }
}
