//! The tenant's context: what goes to a server in front of a transaction's first message.
//!
//! ```text
//!   [ Query: reset ]              only if the server served another client or tenant
//!   [ Parse Bind Execute: check ] fails unless the reset succeeded
//!   Parse Bind Execute: enter     no Sync of its own, so the client's messages join its transaction
//!   … the client's messages …     skipped by the server if one of those failed
//! ```
//!
//! A transaction that the client opens with BEGIN is entered right behind it, by a statement that takes no
//! snapshot, so that it can still choose its isolation level. The setting is local to the transaction: an
//! idle server carries no context.

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
    /// The frames that enter the context in front of a transaction.
    frames: Arc<[u8]>,
    /// Those that enter it in an open transaction block.
    in_block: Arc<[u8]>,
}

impl Enter {
    fn new(setting: &str, value: &str) -> Self {
        let (mut frames, mut in_block) = (Vec::new(), Vec::new());
        statement::enter(&mut frames, setting, value);
        statement::enter_in_block(&mut in_block, setting, value);
        Self { frames: frames.into(), in_block: in_block.into() }
    }
}

/// Whether a reset was written.
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

    /// Writes the frames that enter the context in front of a transaction.
    pub(crate) fn write_enter(&self, server: &mut Server) {
        if let Some(enter) = &self.enter {
            server.channel.output.space().extend_from_slice(&enter.frames);
            server.unnamed = None;
        }
    }

    /// Writes the frames that enter the context in an open transaction block.
    pub(crate) fn write_enter_in_block(&self, server: &mut Server) {
        if let Some(enter) = &self.enter {
            server.channel.output.space().extend_from_slice(&enter.in_block);
            server.unnamed = None;
        }
    }

    /// Writes a reset and its check, if the server needs one, and stamps the server.
    pub(crate) fn write_reset(
        &self,
        server: &mut Server,
        client: ClientKey,
        parameters: &SessionParameters,
    ) -> Part {
        let part = match self.needs_reset(server, client, parameters) {
            Reset::Unneeded => Part::Left,
            Reset::Needed => {
                let nonce = statement::nonce();
                let out = server.channel.output.space();
                encode::query(out, statement::reset(&nonce, parameters).as_bytes());
                statement::check_reset(out, &nonce);
                server.clear_prepared();
                server.wear = Wear::Clean;
                Part::Sent
            }
        };
        if server.wear == Wear::Unused {
            server.wear = Wear::Clean;
        }
        server.stamp =
            Some(Stamp { tenant: self.tenant.clone(), client, parameters: parameters.fingerprint() });
        part
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
