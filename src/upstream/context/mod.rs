//! The tenant's context: what goes to a server in front of a transaction's first message.
//!
//! ```text
//!   [ Query: reset ]            only if the server served another client or tenant
//!   Parse Bind Execute: enter   no Sync of its own, so the client's messages join its transaction
//!   … the client's messages …   skipped by the server if entering failed
//! ```
//!
//! The setting is local to the transaction, so an idle server carries no context. After a reset the enter
//! statement also asks for the nonce that the reset left: a failed reset makes entering fail.

pub(super) mod parameters;
pub(super) mod statement;

use std::sync::Arc;

use crate::names::TenantId;
use crate::upstream::pool::server::{ClientKey, Server, Stamp, Wear};
use crate::wire::encode;
pub use parameters::SessionParameters;

/// What a client's transactions run under.
#[derive(Debug, Clone)]
pub struct Context {
    tenant: Option<TenantId>,
    enter: Option<Enter>,
}

#[derive(Debug, Clone)]
struct Enter {
    setting: Arc<str>,
    /// The frames that enter the context on a server that needs no reset.
    frames: Arc<[u8]>,
    value: Arc<str>,
}

impl Enter {
    fn new(setting: &str, value: &str) -> Self {
        let mut frames = Vec::new();
        statement::enter(&mut frames, setting, value);
        Self { setting: Arc::from(setting), frames: frames.into(), value: Arc::from(value) }
    }
}

/// Which answers of its own the proxy has to expect before the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prelude {
    /// A Query that resets, ended by ReadyForQuery.
    pub reset: Part,
    /// `ParseComplete`, `BindComplete`, one row, `CommandComplete`.
    pub enter: Part,
}

/// Whether a part of the prelude was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It was.
    Sent,
    /// It was not needed.
    Left,
}

impl Context {
    /// The context of a tenant: `setting` is set to its id.
    pub fn tenant(setting: &str, tenant: &TenantId) -> Self {
        Self { tenant: Some(tenant.clone()), enter: Some(Enter::new(setting, tenant.as_str())) }
    }

    /// The context of nobody: `setting` is set to the empty string, which policies take for no tenant.
    pub fn nobody(setting: &str) -> Self {
        Self { tenant: None, enter: Some(Enter::new(setting, "")) }
    }

    /// No context: a maintenance user.
    pub const fn none() -> Self {
        Self { tenant: None, enter: None }
    }

    /// Whose it is.
    pub const fn tenant_id(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// Whether a context is entered at all.
    pub const fn enters(&self) -> bool {
        self.enter.is_some()
    }

    /// Whether the server has to be reset before this client may use it.
    pub fn needs_reset(&self, server: &Server, client: ClientKey, parameters: &SessionParameters) -> Reset {
        match &server.stamp {
            Some(stamp) if stamp.tenant == self.tenant && stamp.parameters == parameters.fingerprint() => {
                if stamp.client == client || server.wear != Wear::Dirty {
                    Reset::Unneeded
                } else {
                    Reset::Needed
                }
            }
            None if server.wear == Wear::Unused && parameters.is_empty() => Reset::Unneeded,
            _ => Reset::Needed,
        }
    }

    /// Writes the frames that enter the context.
    pub fn write_enter(&self, server: &mut Server) {
        if let Some(enter) = &self.enter {
            server.channel.output.space().extend_from_slice(&enter.frames);
            server.unnamed = None;
        }
    }

    /// Writes the prelude of a transaction and stamps the server.
    pub fn write_prelude(
        &self,
        server: &mut Server,
        client: ClientKey,
        parameters: &SessionParameters,
    ) -> Prelude {
        let reset = self.needs_reset(server, client, parameters);
        let reset = match reset {
            Reset::Unneeded => {
                self.write_enter(server);
                Part::Left
            }
            Reset::Needed => {
                let nonce = statement::nonce();
                let out = server.channel.output.space();
                encode::query(out, statement::reset(&nonce, parameters).as_bytes());
                if let Some(enter) = &self.enter {
                    statement::enter_after_reset(out, &enter.setting, &enter.value, &nonce);
                }
                server.clear_prepared();
                server.wear = Wear::Clean;
                Part::Sent
            }
        };
        if self.enter.is_some() {
            server.unnamed = None;
        }
        if server.wear == Wear::Unused {
            server.wear = Wear::Clean;
        }
        server.stamp =
            Some(Stamp { tenant: self.tenant.clone(), client, parameters: parameters.fingerprint() });
        Prelude { reset, enter: if self.enter.is_some() { Part::Sent } else { Part::Left } }
    }
}

/// What a server needs before a client may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// It is this client's, or carries nothing.
    Unneeded,
    /// It was another's.
    Needed,
}
