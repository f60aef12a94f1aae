//! The conversation between a client and the server it holds: frames both ways, each looked into only as
//! far as it must be.
//!
//! ```text
//!   client ──input──> pump ──────> server.output        requests.rs, extended.rs, entry.rs
//!                      │ pushes what is owed
//!                   [ledger]
//!                      │ pops what was answered
//!   client <─output── absorb <──── server.input         answers.rs
//! ```
//!
//! A *segment* is what a client sends up to and including a Query or Sync. One segment is under way at a
//! time: where the next one begins, the transaction status is known, and so is whether a context is needed.

mod answers;
pub mod choice;
mod comment;
mod description;
mod entry;
pub mod error;
mod extended;
pub mod ledger;
pub mod prepared;
mod refusals;
mod reports;
mod requests;
pub mod state;
mod statements;

use std::sync::Arc;

use tokio::time::Instant;

use crate::fault::{Report, sqlstate};
use crate::guard::{Rules, Verdicts};
use crate::observability::metrics::{ContextSwitches, TenantMetrics};
use crate::relay::choice::{Acting, Choice, Chooser};
use crate::relay::ledger::{Ledger, Owed, Undone};
use crate::relay::prepared::{Interner, Statements};
use crate::relay::state::{Policy, SessionState};
use crate::sql::StatementKind;
use crate::upstream::{ClientKey, Server, SessionParameters, StatementId};
use crate::wire::backend::Status;
pub use error::RelayFault;

/// What all conversations share.
#[derive(Debug)]
pub struct Relay {
    /// What the guard said about texts that come again.
    pub verdicts: Verdicts,
    /// Shared statement texts.
    pub interner: Arc<Interner>,
    /// Largest message that is collected, in bytes.
    pub max_message_bytes: usize,
    /// Counts resets.
    pub switches: ContextSwitches,
}

/// Where the segment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// None has begun.
    Between,
    /// It has begun; more of it may come.
    Open,
    /// It was sent whole; its ReadyForQuery is owed.
    Closed,
}

/// A COPY from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyIn {
    /// None.
    No,
    /// The server reads rows; it was started by a simple query.
    Simple,
    /// The server reads rows; it was started by Execute.
    Extended,
}

/// A Sync that is held back, because a server that starts to read rows would swallow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeldSync {
    /// None.
    No,
    /// The client's own.
    Client,
    /// Ours, behind a converted simple query.
    Ours,
}

/// Whether the client's frames are dropped up to a Sync that has not come yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Discard {
    /// They are not.
    No,
    /// The server reported an error, and would skip them.
    ServerSkips,
    /// No server saw the beginning of the segment, or it was lost.
    Refused,
}

/// Whether the context stands in an open transaction block. `COMMIT AND CHAIN`, a COMMIT and a BEGIN in one
/// text, `RESET ALL` and whatever cannot be told take it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It does.
    Sure,
    /// Perhaps not: it is entered again in front of the next segment.
    Doubtful,
    /// Not yet, or no more: it is entered in front of the next statement that could read a row.
    Awaited,
}

/// What became of the segment, as far as it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    /// A statement failed, or the client rolled back.
    RolledBack,
}

/// How far the server has come with the segment, as far as it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// The context: nothing of the client can have run.
    Context,
    /// The client's statement.
    Statement,
}

/// Whether a statement that a server has prepared anew has the columns that the client was told. The client's next
/// frame waits for that, because nothing may be executed otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    No,
    /// The server was asked.
    Awaited(StatementId),
    /// It has others.
    Differs(StatementId),
}

/// A frame that is passed on in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// Between frames.
    No,
    /// So many bytes of it are still to come, and go on to the other side.
    Pass(usize),
    /// So many bytes of it are still to come, and go nowhere.
    Drop(usize),
}

/// One client's conversation; it outlives the servers it is held with.
#[derive(Debug)]
pub struct Conversation {
    relay: Arc<Relay>,
    /// What it must not say.
    rules: Arc<Rules>,
    /// The tenant that it chose.
    choice: Choice,
    /// What its session has beyond its transactions.
    state: SessionState,
    /// The series of its tenant.
    pub metrics: Arc<TenantMetrics>,
    /// Who it is to servers.
    pub client: ClientKey,
    /// What the client asked for at startup, which is what RESET and DISCARD return to.
    startup: SessionParameters,
    /// What the client believes to be set.
    pub parameters: SessionParameters,
    statements: Statements,
    ledger: Ledger,
    status: Status,
    gate: Gate,
    copy_in: CopyIn,
    held: HeldSync,
    /// Whether frames are dropped up to a Sync.
    discard: Discard,
    /// Whether the context still stands in the open transaction block.
    standing: Standing,
    /// A COPY from the client may start in this segment.
    may_copy: bool,
    /// What the last Bind of this segment bound.
    bound: StatementKind,
    /// The statement that it deallocates, if the protocol named that.
    deallocates: Option<Box<[u8]>>,
    from_server: Stream,
    from_client: Stream,
    started: Option<Instant>,
    /// Whether anything of the segment was taken back.
    outcome: Outcome,
    /// What the next request is answered with: its server was lost while the client was silent.
    owed_error: Option<Box<Report>>,
    /// Why a segment is being refused, unless PostgreSQL would refuse it too and go on with the next.
    refused_for: Option<Box<Report>>,
    check: Check,
    /// The unnamed statement that this segment has parsed and neither bound nor described yet.
    unbound: Option<StatementId>,
    reach: Reach,
    /// The parameters of a statement, until its columns are known, too.
    description: Vec<u8>,
    /// Bytes that the next client frame has in all, if it is not there yet.
    wanted: usize,
    /// Bytes that were passed on to the client and are not counted yet.
    passed_on: usize,
}

/// What `pump` came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// Everything that could be sent on was.
    All,
    /// The client said goodbye.
    Goodbye,
}

/// What `absorb` came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absorbed {
    /// Everything that could be passed on was.
    All,
    /// A segment was answered with this status, and nothing is owed.
    Ready(Status),
}

impl Conversation {
    /// A conversation that has not begun.
    pub fn new(
        relay: Arc<Relay>,
        (rules, policy): (Arc<Rules>, Policy),
        (acting, chooser): (Arc<Acting>, Option<Arc<dyn Chooser>>),
        client: ClientKey,
        parameters: SessionParameters,
    ) -> Self {
        Self {
            relay,
            rules,
            metrics: Arc::clone(&acting.metrics),
            choice: Choice::new(chooser, acting),
            state: SessionState::new(policy),
            client,
            startup: parameters.clone(),
            parameters,
            statements: Statements::default(),
            ledger: Ledger::default(),
            status: Status::Idle,
            gate: Gate::Between,
            copy_in: CopyIn::No,
            held: HeldSync::No,
            discard: Discard::No,
            standing: Standing::Sure,
            may_copy: false,
            bound: StatementKind::Nothing,
            deallocates: None,
            from_server: Stream::No,
            from_client: Stream::No,
            started: None,
            outcome: Outcome::Open,
            owed_error: None,
            refused_for: None,
            check: Check::No,
            unbound: None,
            reach: Reach::Context,
            description: Vec::new(),
            wanted: 0,
            passed_on: 0,
        }
    }

    /// Whether a segment is under way, or the client is in the middle of one.
    pub fn is_between(&self) -> bool {
        self.gate == Gate::Between
    }

    /// Whether the whole segment was taken from the client.
    pub fn is_closed(&self) -> bool {
        self.gate == Gate::Closed && self.held != HeldSync::Client
    }

    /// Whether anything runs on the server. That it is still ours cannot be told: PostgreSQL holds the
    /// answers to the context back until the client's statement has answered, too.
    pub fn is_running(&self) -> bool {
        !self.ledger.is_empty()
    }

    /// Whether the server waits for the client in a transaction block.
    pub fn is_idle_in_transaction(&self) -> bool {
        self.ledger.is_empty() && self.gate == Gate::Between && self.status != Status::Idle
    }

    /// Whether the server could be given to others right away but for a ROLLBACK.
    pub fn is_quiet(&self) -> bool {
        self.ledger.is_empty()
            && self.gate == Gate::Between
            && self.from_server == Stream::No
            && self.from_client == Stream::No
    }

    /// Whether nothing of the segment can have run.
    pub fn has_run_nothing(&self) -> bool {
        self.reach == Reach::Context
    }

    /// Whether the client would see a torn frame if it were told something now.
    pub fn is_mid_frame(&self) -> bool {
        matches!(self.from_server, Stream::Pass(_))
    }

    /// When the running segment began.
    pub const fn started(&self) -> Option<Instant> {
        self.started
    }

    /// How many bytes the next frame of the client needs to be whole.
    pub const fn wanted(&self) -> usize {
        self.wanted
    }

    /// DISCARD ALL: the client's own state is gone. To servers it is another client from here on, so the
    /// one it had is reset before its next transaction.
    pub fn discard_all(&mut self) {
        self.statements.clear();
        self.client += 1 << 32;
        self.parameters = self.startup.clone();
        self.state.discard();
        self.choice.forget();
    }

    /// What the client asked for at startup.
    pub const fn startup(&self) -> &SessionParameters {
        &self.startup
    }

    /// The server is gone or given up: whatever it owed will not come. `why`: whether anything of it can have run.
    pub fn abandon(&mut self, why: Undone) {
        let all = self.ledger.abandon();
        self.undo(all, why, None);
        self.status = Status::Idle;
        self.gate = Gate::Between;
        self.copy_in = CopyIn::No;
        self.held = HeldSync::No;
        self.discard = Discard::No;
        self.standing = Standing::Sure;
        self.may_copy = false;
        self.check = Check::No;
        self.unbound = None;
        self.description.clear();
        self.from_server = Stream::No;
        self.started = None;
        self.outcome = Outcome::Open;
        self.choice.abandon();
        if let Some(before) = self.state.abandon() {
            self.parameters = before;
        }
        self.metrics = Arc::clone(&self.choice.acting().metrics);
    }

    fn undo(&mut self, undone: Vec<Owed>, why: Undone, mut server: Option<&mut Server>) {
        for owed in undone {
            match owed {
                Owed::Parse(_, undo) | Owed::Told(_, undo) => self.undo_one(undo, why, server.as_deref_mut()),
                Owed::DescribeStatement(_, name, statement) => {
                    self.was_not_described(&name, &statement, server.as_deref_mut());
                }
                Owed::Evict(number) => {
                    if let Some(server) = server.as_deref_mut() {
                        server.copies.put_back(number);
                    }
                }
                Owed::Enter => {
                    // It may have been about to be prepared.
                    if let Some(server) = server.as_deref_mut() {
                        server.entries.clear();
                    }
                }
                _ => {}
            }
        }
    }
}

/// The report of a refusal by the guard.
fn refusal(refusal: crate::guard::Refusal) -> Report {
    let report = if refusal.is_about_syntax() {
        // As PostgreSQL would say it, so that applications tell a slip of the pen from a missing privilege.
        Report::new(sqlstate::SYNTAX_ERROR, "syntax error: the proxy cannot read this statement")
    } else {
        Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, "statement refused by the proxy")
    };
    report.detail(refusal.detail).hint(refusal.hint)
}
