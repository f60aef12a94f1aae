//! The tenant's context. A server belongs to one tenant from one hand-over to the next; a hand-over goes to it in front
//! of the tenant's first message, in the same write.
//!
//! ```text
//!   Query: BEGIN, reset            takes away what the last tenant left; plain: sets the tenant, returns the nonce
//!   Parse Bind Execute: enter      sealed: verifies the proof, sets the tenant for the session, returns the nonce;
//!                                  plain: fails unless the reset has come to its end
//!   Parse Bind Execute: SET ROLE   sealed: if the client has one; plain: the reset sets it behind the tenant
//!   Parse Bind Execute: COMMIT     the entry lasts, whatever becomes of the client's statement
//!   … the client's messages …      skipped by the server if the entry failed
//! ```
//!
//! Where the tenant's first message is a Query that reads, a plain hand-over stands in front of its text, up to COMMIT: what fails
//! there ends the text, so that nothing has to be asked in between.
//!
//! Until the next hand-over a sealed context needs nothing in front of a transaction: a register inside PostgreSQL,
//! which no SQL can write, holds it ([`seal`]). A plain context is a setting, which code of the database can change, so
//! it is asserted again in front of each transaction.

pub(super) mod application;
pub(super) mod parameters;
pub(super) mod seal;
pub(super) mod statement;

use std::sync::Arc;

use crate::directory::{ContextMode, Tenancy};
use crate::names::TenantId;
use crate::upstream::pool::server::{ClientKey, ContextState, ServerState, Stamp, Wear};
use crate::wire::encode;
use application::NameForm;
pub use parameters::SessionParameters;
use seal::Seal;
use statement::{Answered, ResetText};
pub use statement::{Nonce, Span};

/// What a client's transactions run under.
#[derive(Debug, Clone)]
pub struct Context {
    tenant: Option<TenantId>,
    entry: Option<Entry>,
    /// What its clients are called on servers.
    name: Option<Arc<NameForm>>,
}

#[derive(Debug, Clone)]
struct Entry {
    setting: Arc<str>,
    mode: EntryMode,
}

#[derive(Debug, Clone)]
enum EntryMode {
    Plain(Arc<statement::Assertion>),
    Sealed(Arc<Seal>),
}

/// Makes contexts, all of one kind.
#[derive(Debug, Clone)]
pub struct Contexts {
    setting: Arc<str>,
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
        let setting = tenancy.setting.as_str().into();
        Self { setting, name_form: tenancy.application_name.clone(), seal }
    }

    /// A new key after a reload; proofs are made with it from the next hand-over on.
    pub fn replace_key(&self, mode: &ContextMode) {
        if let (Some(seal), ContextMode::Sealed(key)) = (&self.seal, mode) {
            seal.replace(key.clone());
        }
    }

    /// The context of a tenant.
    pub fn tenant(&self, tenant: &TenantId) -> Context {
        let mode = match &self.seal {
            None => self.plain(tenant.as_str()),
            Some(seal) => EntryMode::Sealed(Arc::clone(seal)),
        };
        self.context(Some(tenant), mode)
    }

    /// The context of a tenant that shares no tables: the setting alone, because its role or its database keeps it
    /// apart, and needs no proof.
    pub fn tenant_of_its_own(&self, tenant: &TenantId) -> Context {
        self.context(Some(tenant), self.plain(tenant.as_str()))
    }

    /// The context of a client without a tenant: the setting is the empty string, which policies take for no tenant.
    /// Under a seal the register is empty, and the policies refuse.
    pub fn nobody(&self) -> Context {
        self.context(None, self.plain(""))
    }

    fn plain(&self, value: &str) -> EntryMode {
        EntryMode::Plain(Arc::new(statement::Assertion::new(&self.setting, value)))
    }

    fn context(&self, tenant: Option<&TenantId>, mode: EntryMode) -> Context {
        let name = tenant.and_then(|tenant| NameForm::new(&self.name_form, tenant.as_str())).map(Arc::new);
        let entry = Some(Entry { setting: Arc::clone(&self.setting), mode });
        Context { tenant: tenant.cloned(), entry, name }
    }
}

impl Context {
    /// No context: a maintenance user.
    pub const fn none() -> Self {
        Self { tenant: None, entry: None, name: None }
    }

    /// The tenant; none for maintenance and for a client that has none yet.
    pub const fn tenant_id(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// Whether a context is entered at all.
    pub const fn enters(&self) -> bool {
        self.entry.is_some()
    }

    /// What a client with these parameters is called on servers, if that is not what it calls itself.
    pub(crate) fn name(&self, parameters: &SessionParameters) -> Option<String> {
        self.name.as_ref().map(|form| form.of(parameters))
    }

    /// Whether the server is in this context, and has this client's parameters and nothing that another client left.
    pub fn is_in_force(
        &self,
        state: &ServerState,
        client: ClientKey,
        parameters: &SessionParameters,
    ) -> bool {
        state.stamp.as_ref().is_some_and(|stamp| {
            stamp.context == ContextState::InForce
                && stamp.tenant == self.tenant
                && stamp.parameters == parameters.fingerprint()
                && (stamp.client == client || state.wear != Wear::Dirty)
        })
    }

    /// What a hand-over finds on the server. A client that keeps its servers (`keeper`) has its session there, even if the
    /// context was lost.
    pub(crate) fn session_on(&self, state: &ServerState, keeper: Option<ClientKey>) -> ServerSession {
        match &state.stamp {
            Some(stamp) if stamp.tenant == self.tenant && Some(stamp.client) == keeper => ServerSession::Kept,
            None if state.wear == Wear::Reset => ServerSession::IsReset,
            Some(_) | None => ServerSession::Reset,
        }
    }

    /// Writes a hand-over: the reset, and the entry into this context. From its first byte on, the server belongs to
    /// this tenant or to nobody. A client that keeps its server keeps what its session has there, too.
    pub(crate) fn write_hand_over(
        &self,
        (state, out): (&mut ServerState, &mut Vec<u8>),
        (client, parameters): (ClientKey, &SessionParameters),
        session: ServerSession,
    ) -> HandOver {
        let nonce = Nonce::new();
        let sealed = match &self.entry {
            Some(Entry { mode: EntryMode::Sealed(seal), .. }) => self.tenant.as_ref().map(|id| (seal, id)),
            Some(Entry { mode: EntryMode::Plain(_), .. }) | None => None,
        };
        let (answered, expected) = match (sealed, session) {
            (None, ServerSession::Reset) => (Answered::InReset(&nonce), Expect::Nonce(nonce.clone())),
            (Some(_), _) | (None, ServerSession::IsReset | ServerSession::Kept) => {
                (Answered::AtEntry, Expect::Nothing)
            }
        };
        let ResetText { statements: mut text, at_entry } = match session {
            ServerSession::Reset => self.reset(state, answered, parameters),
            ServerSession::IsReset | ServerSession::Kept => {
                ResetText { statements: self.begin_again(state, parameters), at_entry: Vec::new() }
            }
        };
        let role = match session {
            ServerSession::Reset | ServerSession::IsReset => statement::set_role(parameters),
            ServerSession::Kept => {
                // The login role enters; the session's own role is back behind that.
                text.push("SET LOCAL ROLE NONE");
                None
            }
        };
        let mut behind = None;
        let entry = if let Some((seal, tenant)) = sealed {
            text.push(&statement::set_nonce(&nonce));
            encode::query(out, text.sql.as_bytes());
            seal.write_entry((state, out), tenant, &nonce, &at_entry);
            if let Some(role) = role {
                statement::run(out, &role, &[]);
                behind = Some(Expect::Nothing);
            }
            Expect::Nonce(nonce)
        } else {
            if let Some(set) = self.set_again() {
                text.push(&set);
            }
            text.extend(role.as_deref());
            text.push(statement::SAVE_RESET);
            encode::query(out, text.sql.as_bytes());
            statement::release_reset(out);
            Expect::Nothing
        };
        statement::commit(out);
        match session {
            ServerSession::Reset | ServerSession::IsReset => {
                self.has_handed_over(state, (client, parameters));
            }
            ServerSession::Kept => {
                state.unnamed = None;
                self.stamp(state, client, parameters);
            }
        }
        HandOver { reset: expected, entry, behind }
    }

    /// A hand-over into a plain context as statements that stand in front of a text, in one Query; none for a sealed one,
    /// whose proof must not stand in a text.
    pub(crate) fn hand_over_in_text(
        &self,
        state: &mut ServerState,
        (client, parameters): (ClientKey, &SessionParameters),
        session: ServerSession,
    ) -> Option<(statement::OwnText, Expect)> {
        let Some(Entry { mode: EntryMode::Plain(_), .. }) = &self.entry else { return None };
        let nonce = Nonce::new();
        let (mut text, expected) = match session {
            ServerSession::Kept => return None,
            ServerSession::IsReset => (self.begin_again(state, parameters), Expect::Nothing),
            ServerSession::Reset => {
                let reset = self.reset(state, Answered::InReset(&nonce), parameters);
                (reset.statements, Expect::Nonce(nonce))
            }
        };
        text.push(&self.set_again()?);
        text.extend(statement::set_role(parameters).as_deref());
        self.has_handed_over(state, (client, parameters));
        Some((text.commit(), expected))
    }

    /// What stands in the place of a reset.
    fn begin_again(&self, state: &ServerState, parameters: &SessionParameters) -> statement::OwnText {
        statement::begin_again(parameters, self.name(parameters).as_deref(), state)
    }

    fn reset(
        &self,
        state: &ServerState,
        answered: Answered<'_>,
        parameters: &SessionParameters,
    ) -> ResetText {
        statement::reset(answered, parameters, self.name(parameters).as_deref(), state)
    }

    fn has_handed_over(
        &self,
        state: &mut ServerState,
        (client, parameters): (ClientKey, &SessionParameters),
    ) {
        state.clear_prepared();
        state.notifications = Vec::new();
        state.wear = Wear::Clean;
        self.stamp(state, client, parameters);
    }

    /// The server is in this context from here on.
    fn stamp(&self, state: &mut ServerState, client: ClientKey, parameters: &SessionParameters) {
        state.stamp = Some(Stamp {
            tenant: self.tenant.clone(),
            client,
            parameters: parameters.fingerprint(),
            context: ContextState::InForce,
        });
    }

    /// Takes over a server that is in force for another client of the tenant.
    pub(crate) fn take_over(
        &self,
        state: &mut ServerState,
        client: ClientKey,
        parameters: &SessionParameters,
    ) {
        self.stamp(state, client, parameters);
    }

    /// What asserts the context in front of a transaction; none: nothing has to.
    pub(crate) fn assertion(&self) -> Option<&statement::Assertion> {
        match &self.entry {
            Some(Entry { mode: EntryMode::Plain(assertion), .. }) => Some(assertion),
            Some(Entry { mode: EntryMode::Sealed(_), .. }) | None => None,
        }
    }

    /// The statement that sets the tenant again where something of the client has reset it; none without a context. The
    /// register of a sealed context still holds.
    pub(crate) fn set_again(&self) -> Option<String> {
        let entry = self.entry.as_ref()?;
        let tenant = self.tenant.as_ref().map_or("", TenantId::as_str);
        Some(statement::set_tenant(&entry.setting, tenant, Span::Session))
    }

    /// Whether the database verifies it.
    pub(crate) fn is_sealed(&self) -> bool {
        matches!(&self.entry, Some(Entry { mode: EntryMode::Sealed(_), .. }))
    }

    /// The statements that set these parameters again, for the session or for the transaction; on servers the client has
    /// the name that its tenant's clients have.
    pub(crate) fn applied(&self, parameters: &SessionParameters, span: Span) -> Vec<String> {
        statement::apply(parameters, self.name(parameters).as_deref(), span)
    }

    /// Writes a statement of the proxy in front of a client's segment: Parse, Bind, Execute of the unnamed ones.
    pub(crate) fn write_alone(out: &mut Vec<u8>, sql: &str) {
        statement::run(out, sql, &[]);
    }

    /// Writes a statement of the proxy inside a client's segment: Parse, Bind, Execute, Close of a portal of its own.
    pub(crate) fn write_beside(out: &mut Vec<u8>, sql: &str) {
        statement::run_beside(out, sql, &[]);
    }

    /// Writes what begins a transaction of the proxy's own in front of a client's.
    pub(crate) fn write_begin(out: &mut Vec<u8>) {
        statement::begin(out);
    }

    /// Writes what ends it.
    pub(crate) fn write_commit(state: &mut ServerState, out: &mut Vec<u8>) {
        state.unnamed = None;
        statement::commit(out);
    }

    /// Writes the entry into this context inside a client's transaction, for as long as the client's own choice lasts.
    /// The server needs a hand-over afterwards. `before` is the context of the session, which returns when a choice for
    /// the transaction ends.
    pub(crate) fn write_choice(
        &self,
        (state, out): (&mut ServerState, &mut Vec<u8>),
        span: Span,
        before: &Self,
    ) -> Vec<Expect> {
        state.unnamed = None;
        state.stamp = None;
        let Some(Entry { setting, mode }) = &self.entry else { return Vec::new() };
        let tenant = self.tenant.as_ref().map_or("", TenantId::as_str);
        let mut expected = Vec::new();
        let mut session = span;
        if let (EntryMode::Sealed(seal), Some(id)) = (mode, &self.tenant) {
            let nonce = Nonce::new();
            seal.write_entry_beside(state, out, id, &nonce);
            expected.extend([Expect::Nothing, Expect::Nonce(nonce)]);
            if span == Span::Session {
                return expected;
            }
            // The entry is for the session. What comes behind this transaction finds the register of another tenant
            // than the setting names, and is refused.
            let own = before.tenant.as_ref().map_or("", TenantId::as_str);
            statement::run_beside(out, &statement::set_tenant(setting, own, Span::Session), &[]);
            expected.push(Expect::Nothing);
            session = Span::Transaction;
        }
        statement::run_beside(out, &statement::set_tenant(setting, tenant, session), &[]);
        expected.push(Expect::Nothing);
        expected
    }
}

/// What a hand-over does with the session on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerSession {
    /// It was another client's, or may have been: it is reset.
    Reset,
    /// It was reset while the server was idle: only the context is entered.
    IsReset,
    /// It is the client's own, which keeps its server: only the context is entered again.
    Kept,
}

/// What was written of a hand-over.
#[derive(Debug)]
pub struct HandOver {
    /// What its reset answers.
    pub reset: Expect,
    /// What its entry answers.
    pub entry: Expect,
    /// What the statement behind the entry answers, which sets the client's role, if it has one.
    pub behind: Option<Expect>,
}

/// What a statement of the proxy answers besides its completion.
#[derive(Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing that is looked at.
    Nothing,
    /// A row that holds the nonce.
    Nonce(Nonce),
}
