//! What PostgreSQL says by itself: parameters that changed, and notifications.

use crate::net::Channel;
use crate::relay::answers::Fate;
use crate::relay::ledger::Owed;
use crate::relay::state::PutBack;
use crate::relay::{Conversation, RelayFault};
use crate::sql::StatementKind;
use crate::upstream::{APPLICATION_NAME, Server, TenantServer};
use crate::wire::{backend, encode};

/// What PostgreSQL reports and a client may change; carried from server to server.
const CARRIED: &[&str] = &[
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "IntervalStyle",
    "application_name",
    "default_transaction_read_only",
];

/// Whether PostgreSQL reports each change of this setting, so that nobody has to ask for it.
pub(super) fn is_carried(name: &str) -> bool {
    CARRIED.iter().any(|carried| carried.eq_ignore_ascii_case(name))
}

impl Conversation {
    /// Passes on what came while a statement of the proxy's own ran.
    pub fn notify(&self, client: &mut Channel, server: &mut Server) {
        for body in std::mem::take(&mut server.notifications) {
            if self.notification(&body, client, server) == Fate::Forward {
                encode::frame(client.output.space(), b'A', |out| out.extend_from_slice(&body));
            }
        }
    }

    /// A notification names the process of its sender; a client of this pool is named as clients know it.
    pub(super) fn notification(&self, body: &[u8], client: &mut Channel, server: &Server) -> Fate {
        if !self.listens() || matches!(self.ledger.front(), Some(Owed::Reset)) {
            // It was meant for who had the server before.
            return Fate::Swallow;
        }
        let Some((sender, rest)) = body.split_first_chunk::<4>() else { return Fate::Forward };
        match server.sender.behind(u32::from_be_bytes(*sender)) {
            Some(sender) => {
                encode::notification(client.output.space(), sender, rest);
                Fate::Swallow
            }
            None => Fate::Forward,
        }
    }

    pub(super) fn parameter(
        &mut self,
        body: &[u8],
        client: &mut Channel,
        tenant_server: &mut TenantServer,
    ) -> Result<Fate, RelayFault> {
        let (name, value) =
            backend::parameter_status(body).ok_or(RelayFault::Doubt("a malformed ParameterStatus"))?;
        let server = tenant_server.server();
        if server.parameters.get(name).is_none_or(|known| known != value) {
            server.parameters.insert(name.to_owned(), value.to_owned());
        }
        if self.ledger.is_ours() {
            return Ok(Fate::Swallow);
        }
        // RESET ALL among several statements: what the client asked for at startup is put back behind the
        // transaction, and is what it goes on to believe.
        if self.bound == StatementKind::ResetAll && self.startup.get(&name.to_ascii_lowercase()).is_some() {
            self.state.put_back_later(PutBack::Startup);
            return Ok(Fate::Swallow);
        }
        if name == APPLICATION_NAME && tenant_server.name(&self.parameters).is_some() {
            return Ok(self.application_name(value, client, tenant_server));
        }
        if is_carried(name) {
            self.state.save(&self.parameters);
            self.parameters.set(name, value);
            tenant_server.believes(&self.parameters);
        }
        Ok(Fate::Forward)
    }

    /// On servers the tenant is part of the name. The client reads its own, also when a rollback brings that back.
    fn application_name(&mut self, value: &str, client: &mut Channel, server: &mut TenantServer) -> Fate {
        let before = self.state.before(&self.parameters).clone();
        let is_back = server.name(&before).as_deref() == Some(value);
        let own = if is_back { before.get(APPLICATION_NAME).unwrap_or_default() } else { value };
        if is_back && self.parameters.get(APPLICATION_NAME).unwrap_or_default() == own {
            // The proxy's own doing, reported late.
            return Fate::Swallow;
        }
        client.input.forget();
        encode::parameter_status(client.output.space(), APPLICATION_NAME, own);
        self.state.save(&before);
        self.parameters.set(APPLICATION_NAME, own);
        server.believes(&self.parameters);
        self.state.put_back_later(if is_back { PutBack::Nothing } else { PutBack::Name });
        Fate::Swallow
    }
}
