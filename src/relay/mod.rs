//! The conversation between a client and the server it holds: frames both ways, each looked into only as far as it must
//! be. A pure core: frames in, frames out, no socket, no clock, no pool. `session` moves the bytes.
//!
//! ```text
//!   client ──input──> pump ──────> server.output        requests/
//!                      │ pushes what is owed
//!                   [replies]                            core/
//!                      │ pops what was answered
//!   client <─output── absorb <──── server.input         answers/
//! ```
//!
//! A *segment* is what a client sends up to and including a Query or Sync. One segment is under way at a time: where the
//! next one begins, the transaction status is known, and so is whether a hand-over is needed.

mod answers;
pub mod core;
pub mod error;
mod requests;

use std::sync::Arc;

use self::core::block::Block;
use self::core::copy::CopyIn;
use self::core::framing::{FromClient, FromServer};
use self::core::portals::{Portals, Unbind};
use self::core::replies::{Replies, Reply, Then};
use self::core::segment::{AwaitedReply, Executed, InFront, Outcome, Progress, Segment, Skip, Unnamed};
use self::core::session_state::{Policy, SessionState};
use self::core::statements::{Interner, Statements};
use self::core::tenant_choice::{Acting, Chooser, TenantChoice};
use crate::fault::{Report, sqlstate};
use crate::guard::{Findings, Rules, Verdicts};
use crate::memory::{Account, Budget, Whose};
use crate::observability::metrics::{ContextSwitches, TenantMetrics};
use crate::sql::Course;
use crate::upstream::{
    APPLICATION_NAME, ClientKey, Defaults, Greeting, ServerSide, ServerState, SessionParameters, StatementId,
};
use crate::wire::backend::Status;
use crate::wire::encode;
pub use answers::Absorbed;
pub use error::RelayFault;
pub use requests::choice::TextRead;
pub use requests::{ClientSide, LongTexts, Pumped};

/// What all conversations share.
#[derive(Debug)]
pub struct Relay {
    /// What the guard said about texts that come again.
    pub verdicts: Verdicts,
    /// Shared statements.
    pub interner: Arc<Interner>,
    /// Largest message that is collected, in bytes.
    pub max_message_bytes: usize,
    /// The most that the texts of one client's prepared statements may take, in bytes; zero: no limit.
    pub max_prepared_bytes: usize,
    /// The most that one client may keep in memory, in bytes; zero: no limit.
    pub max_client_memory: usize,
    /// What all clients keep.
    pub memory: Arc<Budget>,
    /// Counts hand-overs.
    pub switches: ContextSwitches,
}

/// One client's conversation; it outlives the servers it is held with.
#[derive(Debug)]
pub struct Conversation {
    relay: Arc<Relay>,
    /// What it must not say.
    rules: Arc<Rules>,
    /// The tenant that it chose.
    choice: TenantChoice,
    /// What its session has beyond its transactions.
    session: SessionState,
    /// The series of its tenant.
    pub metrics: Arc<TenantMetrics>,
    /// Key under which servers remember this client.
    pub client: ClientKey,
    /// What the client asked for at startup, which is what RESET and DISCARD return to.
    startup: SessionParameters,
    /// What PostgreSQL reported to it at login, and since then of changed defaults.
    greeting: Greeting,
    /// The defaults of the server that it had last.
    defaults: Defaults,
    /// What the client believes to be set.
    pub parameters: SessionParameters,
    statements: Statements,
    portals: Portals,
    replies: Replies,
    /// The transaction's status, as the server's last ReadyForQuery said, or as it will be behind what was sent.
    status: Status,
    /// The client's transaction block, as far as no server has it.
    block: Block,
    segment: Segment,
    copy_in: CopyIn,
    /// What the client's next message waits for.
    hold: Option<AwaitedReply>,
    from_server: FromServer,
    from_client: FromClient,
    outcome: Outcome,
    progress: Progress,
    /// The way of the segment's statements through transactions.
    course: Course,
    executed: Executed,
    unnamed: Unnamed,
    in_front: InFront,
    /// Whether the context is lost with the running transaction, so that the server needs a hand-over.
    loses_context: bool,
    /// What the client has not been told yet; apart, because an idle client has none.
    untold: Box<Untold>,
    /// Bytes that the next client frame has in all, if it is not there yet.
    wanted: u32,
    /// What the client keeps in memory.
    memory: Arc<Budget>,
    /// What was found in the long text of the frame that is being taken.
    findings: Option<Box<Findings>>,
}

/// What a client has not been told yet.
#[derive(Debug, Default)]
struct Untold {
    /// The parameter types of a statement, until its columns are known, too.
    types: Box<[u8]>,
    /// Parameters that a DISCARD ALL changed, as messages that go in front of the ReadyForQuery.
    reports: Box<[u8]>,
    /// What a Query is answered with for which no server is needed.
    local: Option<Box<Report>>,
    /// What the next request is answered with: its server was lost while the client was silent.
    owed: Option<Box<Report>>,
    /// The statement whose columns turned out to be others than its client was told.
    changed: Option<StatementId>,
    /// Why a segment is being refused, unless PostgreSQL would refuse it too and go on with the next.
    refused_for: Option<Box<Report>>,
}

/// What stands in front of a client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// Nothing that waits for more.
    Nothing,
    /// A part of a message, to be collected.
    Part,
}

/// What a conversation begins with.
#[derive(Debug)]
pub struct Beginning {
    /// What the client must not say.
    pub rules: Arc<Rules>,
    /// What holds for its user's sessions.
    pub policy: Policy,
    /// For whom it acts.
    pub acting: Arc<Acting>,
    /// Which tenants it may choose; none: a maintenance user.
    pub chooser: Option<Arc<dyn Chooser>>,
    /// Key under which servers remember it.
    pub client: ClientKey,
    /// What it asked for at startup.
    pub parameters: SessionParameters,
    /// What PostgreSQL reported to it at login.
    pub greeting: Greeting,
}

impl Conversation {
    /// A conversation that has not begun.
    pub fn new(relay: Arc<Relay>, beginning: Beginning) -> Self {
        let Beginning { rules, policy, acting, chooser, client, parameters, greeting } = beginning;
        let told = as_told(&parameters, &greeting);
        Self {
            memory: Arc::new(Budget::new(Whose::Client, relay.max_client_memory)),
            findings: None,
            relay,
            rules,
            metrics: Arc::clone(&acting.metrics),
            choice: TenantChoice::new(chooser, acting, policy.choice),
            session: SessionState::new(policy),
            client,
            startup: parameters,
            greeting,
            defaults: Defaults::default(),
            parameters: told,
            statements: Statements::default(),
            portals: Portals::default(),
            replies: Replies::default(),
            status: Status::Idle,
            block: Block::default(),
            segment: Segment::default(),
            copy_in: CopyIn::default(),
            hold: None,
            from_server: FromServer::default(),
            from_client: FromClient::default(),
            outcome: Outcome::default(),
            progress: Progress::default(),
            course: Course::IDLE,
            executed: Executed::default(),
            unnamed: Unnamed::default(),
            in_front: InFront::default(),
            loses_context: false,
            untold: Box::default(),
            wanted: 0,
        }
    }

    /// Whether no segment is under way.
    pub fn is_between(&self) -> bool {
        self.segment == Segment::Between
    }

    /// Whether the client was told an error and sends messages that nobody reads, outside a transaction block.
    pub fn was_told(&self) -> bool {
        self.segment == Segment::Skipping(Skip::ServerError) && self.status == Status::Idle
    }

    /// Whether the whole segment was taken from the client.
    pub fn is_closed(&self) -> bool {
        self.segment == Segment::Closed
    }

    /// Whether anything runs on the server. That it is still the proxy's cannot be told: PostgreSQL holds its answers back
    /// until the client's statement has answered, too.
    pub fn is_running(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Whether the server waits for the client in a transaction block.
    pub fn is_idle_in_transaction(&self) -> bool {
        self.replies.is_empty() && self.segment == Segment::Between && self.status != Status::Idle
    }

    /// Whether a server owes nothing and is at a frame boundary, so that others may have it after a ROLLBACK. The one place
    /// that decides this; towards the server there are whole frames only ([`core::framing`]).
    pub fn is_quiet(&self) -> bool {
        self.replies.is_empty() && self.segment == Segment::Between && self.from_server.is_boundary()
    }

    /// Whether nothing of the segment can have run.
    pub fn has_run_nothing(&self) -> bool {
        self.progress == Progress::Entering
    }

    /// Whether the segment may have committed a transaction, for all that was answered so far.
    pub fn is_outcome_unknown(&self) -> bool {
        // Rows that have not ended commit nothing.
        let commits_at_end =
            self.course.commits_at_end() && self.replies.owes_end() && self.copy_in == CopyIn::No;
        !self.replies.is_empty() && (self.course.may_have_committed() || commits_at_end)
    }

    /// Whether the client would see a torn frame if it were told something now.
    pub const fn is_mid_frame(&self) -> bool {
        self.from_server.is_torn()
    }

    /// Where the client's memory is counted from here on.
    pub fn account(&self) -> Account {
        Account {
            client: Arc::clone(&self.memory),
            tenant: self.choice.acting().seat.as_ref().map(|seat| Arc::clone(seat.memory())),
            process: Arc::clone(&self.relay.memory),
        }
    }

    /// Whether the client has begun a message that is not whole yet. Rows of a COPY are no such message.
    pub const fn front(&self) -> Front {
        if self.wanted > 0 { Front::Part } else { Front::Nothing }
    }

    /// How many bytes the next frame of the client needs to be whole.
    pub const fn wanted(&self) -> usize {
        self.wanted as usize
    }

    /// DISCARD ALL: the client's own state is gone, and it is told the parameters that change by that, as PostgreSQL would.
    /// To servers it is another client from here on, so its server is handed over before its next transaction.
    fn discard_all(&mut self, out: &mut Vec<u8>) {
        for (name, value) in self.greeting.iter() {
            let known = self.parameters.get(&name.to_ascii_lowercase());
            if known.is_some_and(|known| known != value) {
                encode::parameter_status(out, name, value);
            }
        }
        self.client += 1 << 32;
        self.parameters = as_told(&self.startup, &self.greeting);
        self.session.discard();
        self.choice.forget();
    }

    /// DISCARD ALL in a Query that no server sees, which closes the unnamed statement too.
    pub fn discard_all_between(&mut self, out: &mut Vec<u8>) {
        drop(self.statements.take_named());
        self.statements.unnamed = None;
        self.discard_all(out);
    }

    /// The server is gone or given up: whatever it owed will not come.
    pub fn abandon(&mut self) {
        let all = self.replies.abandon();
        self.undo(all, None);
        self.status = Status::Idle;
        self.block.close();
        if self.block == Block::Served {
            self.choice.abandon();
        }
        self.segment = Segment::default();
        self.copy_in = CopyIn::default();
        self.hold = None;
        self.from_client.drop_rest();
        self.from_server = FromServer::default();
        self.portals.clear();
        self.outcome = Outcome::default();
        self.progress = Progress::default();
        self.loses_context = false;
        self.untold.reports = Box::default();
        self.untold.changed = None;
        if let Some(before) = self.session.abandon() {
            self.parameters = before;
        }
        self.metrics = Arc::clone(&self.choice.acting().metrics);
    }

    fn undo(&mut self, skipped: Vec<Reply>, mut server: Option<&mut dyn ServerSide>) {
        for reply in skipped {
            let state = server.as_deref_mut().map(ServerSide::state);
            match reply {
                Reply::Parse(_, undo) | Reply::Local(_, undo) => {
                    if let Some(state) = state {
                        undo.on_server(state);
                    }
                    self.statements.undo(undo);
                }
                Reply::Bind(_, unbind) => self.portals.undo(unbind),
                Reply::Execute(then) => self.did_not_complete(then, state),
                Reply::Query(text) => {
                    for (_, then) in text.then.into_iter().rev() {
                        self.did_not_complete(then, None);
                    }
                    let Some(closed) = text.closed else { continue };
                    if let Some(state) = state {
                        state.unnamed = closed.on_server;
                    }
                    self.statements.unnamed = closed.statement;
                    self.portals.undo(Unbind::Unnamed(closed.portal));
                }
                Reply::CloseStatement(id) => {
                    if let Some(state) = state {
                        state.keep_unneeded(id);
                    }
                }
                Reply::Own(_) | Reply::OwnClose => {
                    // The assertion may have been about to be prepared.
                    if let Some(state) = state {
                        state.has_assertion = false;
                    }
                }
                Reply::OwnQuery
                | Reply::Reset(_)
                | Reply::Begin
                | Reply::OpenBlock(_)
                | Reply::DescribeStatement(..)
                | Reply::DescribePortal(_)
                | Reply::LocalDescription(_)
                | Reply::ClosePortal
                | Reply::FunctionCall
                | Reply::Sync
                | Reply::Refused(_) => {}
            }
        }
    }

    /// What was to follow a statement does not.
    fn did_not_complete(&mut self, then: Then, state: Option<&mut ServerState>) {
        match then {
            Then::Nothing => {}
            Then::Deallocate(known) => self.statements.insert(known.0, known.1),
            Then::DiscardAll(all) => self.statements.restore(*all),
            Then::DeallocateAll(all) => {
                let (all, deallocated) = *all;
                self.statements.restore(all);
                if let Some(state) = state {
                    state.restore_prepared(deallocated);
                }
            }
        }
    }

    /// What a client is called on servers is put back under this name.
    pub(in crate::relay) fn own_name(&self) -> SessionParameters {
        self.parameters.only(APPLICATION_NAME)
    }
}

/// What a client asked for at startup, as PostgreSQL spells what it reports.
fn as_told(startup: &SessionParameters, greeting: &Greeting) -> SessionParameters {
    let mut told = startup.clone();
    for (name, value) in greeting.iter() {
        if startup.get(&name.to_ascii_lowercase()).is_some() {
            told.set(name, value);
        }
    }
    told
}

/// The report of a refusal by the guard.
fn refusal(refusal: crate::guard::Refusal) -> Report {
    let report = if refusal.is_about_syntax() {
        // As PostgreSQL would say it, so that applications tell a typing error from a missing privilege.
        Report::new(sqlstate::SYNTAX_ERROR, "syntax error: the proxy cannot read this statement")
    } else if refusal.is_about_cost() {
        Report::new(sqlstate::PROGRAM_LIMIT, "statement refused by the proxy")
    } else {
        Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "statement refused by the proxy")
    };
    report.detail(refusal.detail).hint(refusal.hint)
}

#[cfg(test)]
mod tests;
#[cfg(all(fuzzing, not(test)))]
mod tests;
#[cfg(fuzzing)]
pub use tests::random::walk;
