//! The tenant's context: what goes to a server in front of a transaction's first message.
//!
//! ```text
//!   [ Query: reset ]              only if the server served another client or tenant
//!   [ Parse Bind Execute: check ] fails unless the reset succeeded
//!   Parse Bind Execute: enter     no Sync of its own, so the client's messages join its transaction
//!   … the client's messages …     skipped by the server if one of those failed
//! ```
//!
//! What is set is local to the transaction: an idle server carries no context. When it is entered in a
//! transaction that the client opens with BEGIN: `relay::entry`.
//!
//! A *sealed* context carries a proof besides the tenant, made for this server and this moment; PostgreSQL
//! verifies it ([`seal`]). It replaces one statement and changes nothing else.

pub(super) mod application;
pub(super) mod parameters;
pub(super) mod seal;
pub(super) mod statement;

use std::sync::Arc;

use crate::directory::{ContextMode, Tenancy};
use crate::names::TenantId;
use crate::upstream::pool::server::{ClientKey, Server, Stamp, Wear};
use crate::wire::encode;
use application::NameForm;
pub use parameters::SessionParameters;
use seal::Seal;

/// What a client's transactions run under.
#[derive(Debug, Clone)]
pub struct Context {
    tenant: Option<TenantId>,
    enter: Option<Enter>,
    /// What its clients are called on servers.
    name: Option<Arc<NameForm>>,
}

#[derive(Debug, Clone)]
enum Enter {
    /// The same frames every time.
    Plain {
        /// In front of a transaction.
        entry: Arc<statement::Entry>,
        /// In an open transaction block.
        in_block: Arc<[u8]>,
    },
    /// With a proof for the server at hand.
    Sealed(Arc<Seal>, TenantId),
}

impl Enter {
    fn plain(setting: &str, value: &str) -> Self {
        let mut in_block = Vec::new();
        statement::enter_in_block(&mut in_block, setting, value);
        Self::Plain { entry: Arc::new(statement::enter(setting, value)), in_block: in_block.into() }
    }
}

/// Makes contexts, all of one kind.
#[derive(Debug, Clone)]
pub struct Contexts {
    setting: String,
    name_form: String,
    seal: Option<Arc<Seal>>,
}

impl Contexts {
    /// As `[tenancy]` says.
    pub fn new(tenancy: &Tenancy) -> Self {
        let seal = match &tenancy.context {
            ContextMode::Plain => None,
            ContextMode::Sealed(key) => Some(Arc::new(Seal::new(key.clone()))),
        };
        Self { setting: tenancy.setting.clone(), name_form: tenancy.application_name.clone(), seal }
    }

    /// A new key after a reload; proofs are made with it from the next transaction on.
    pub fn replace_key(&self, mode: &ContextMode) {
        if let (Some(seal), ContextMode::Sealed(key)) = (&self.seal, mode) {
            seal.replace(key.clone());
        }
    }

    /// The context of a tenant.
    pub fn tenant(&self, tenant: &TenantId) -> Context {
        let enter = match &self.seal {
            None => Enter::plain(&self.setting, tenant.as_str()),
            Some(seal) => Enter::Sealed(Arc::clone(seal), tenant.clone()),
        };
        let name = NameForm::new(&self.name_form, tenant.as_str()).map(Arc::new);
        Context { tenant: Some(tenant.clone()), enter: Some(enter), name }
    }

    /// The context of a tenant that shares no tables: the setting alone, since what keeps it apart is its role or its
    /// database, and needs no proof.
    pub fn tenant_of_its_own(&self, tenant: &TenantId) -> Context {
        let name = NameForm::new(&self.name_form, tenant.as_str()).map(Arc::new);
        let enter = Some(Enter::plain(&self.setting, tenant.as_str()));
        Context { tenant: Some(tenant.clone()), enter, name }
    }

    /// The context of nobody: the setting is the empty string, which policies take for no tenant. Under a seal
    /// there is no proof either, and the policies refuse.
    pub fn nobody(&self) -> Context {
        Context { tenant: None, enter: Some(Enter::plain(&self.setting, "")), name: None }
    }
}

/// Where a context is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In front of a transaction.
    InFront,
    /// In an open transaction block.
    InBlock,
    /// In front of a text that opens a block and may choose its isolation level: no snapshot may be taken.
    InText,
}

/// What follows a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The context.
    Context,
    /// The client's statement.
    Client,
}

/// What was written in front of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A reset and its check.
    Sent,
    /// The application's name, on a server that nobody has used.
    Named,
    /// Nothing: it was not needed.
    Left,
}

impl Context {
    /// No context: a maintenance user.
    pub const fn none() -> Self {
        Self { tenant: None, enter: None, name: None }
    }

    /// Whose it is.
    pub const fn tenant_id(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// Whether a context is entered at all.
    pub const fn enters(&self) -> bool {
        self.enter.is_some()
    }

    /// What a client with these parameters is called on servers, if that is not what it calls itself.
    pub(super) fn name(&self, parameters: &SessionParameters) -> Option<String> {
        self.name.as_ref().map(|form| form.of(parameters))
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

    /// Writes the frames that enter the context in front of a transaction, or in an open block of one. How many
    /// statements they are.
    pub(crate) fn write_enter(&self, server: &mut Server, place: Place) -> usize {
        let marker = if place == Place::InText { None } else { server.marker.take() };
        if let Some(nonce) = &marker {
            server.unnamed = None;
            statement::end_reset(server.channel.output.space(), nonce);
        }
        match (&self.enter, place) {
            (None, _) => {}
            (Some(Enter::Plain { entry, .. }), Place::InFront) => entry.write(server),
            (Some(Enter::Plain { in_block, .. }), Place::InBlock | Place::InText) => {
                server.channel.output.space().extend_from_slice(in_block);
                server.unnamed = None;
            }
            (Some(Enter::Sealed(seal, tenant)), _) => seal.write_enter(server, tenant),
        }
        if marker.is_some() { 2 } else { 1 }
    }

    /// Writes a reset and its check, if the server needs one, and stamps the server. The check takes no snapshot if
    /// the context does not follow at once.
    pub(crate) fn write_reset(
        &self,
        server: &mut Server,
        (client, parameters): (ClientKey, &SessionParameters),
        next: Next,
    ) -> Part {
        let part = match self.needs_reset(server, client, parameters) {
            Reset::Unneeded if server.wear != Wear::Unused => Part::Left,
            Reset::Unneeded => match self.name(parameters) {
                Some(name) => {
                    // Not in the client's transaction, whose end might take it back.
                    let sql = statement::apply(parameters, Some(&name));
                    encode::query(server.channel.output.space(), sql.as_bytes());
                    Part::Named
                }
                None => Part::Left,
            },
            Reset::Needed => {
                let nonce = statement::nonce();
                let out = server.channel.output.space();
                let name = self.name(parameters);
                encode::query(out, statement::reset(Some(&nonce), parameters, name.as_deref()).as_bytes());
                server.marker = match next {
                    Next::Context => {
                        statement::end_reset(out, &nonce);
                        None
                    }
                    Next::Client => {
                        statement::check_reset(out, &nonce);
                        Some(nonce)
                    }
                };
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
