//! Where a segment begins: what has to stand in front of it or behind its first statement, so that nothing
//! of a client runs without its context and on another's leavings.

use tokio::time::Instant;

use crate::relay::ledger::Owed;
use crate::relay::{Conversation, Gate, Standing};
use crate::sql::{Count, SessionState, StatementKind, Survey};
use crate::upstream::{Part, SessionParameters, TenantServer, Wear};
use crate::wire::backend::Status;

/// How a transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lead {
    /// By BEGIN alone.
    Begin,
    /// By BEGIN and more in one text.
    BeginAndMore,
    /// By anything else.
    Other,
}

impl Lead {
    pub(super) fn of(survey: Survey) -> Self {
        match (survey.first, survey.statements) {
            (StatementKind::Begin, Count::One) => Self::Begin,
            (StatementKind::Begin, _) => Self::BeginAndMore,
            _ => Self::Other,
        }
    }
}

impl Conversation {
    /// The first message of a segment; the first of a transaction is preceded by the context.
    pub(super) fn begin(&mut self, lead: Lead, server: &mut TenantServer) {
        if self.gate != Gate::Between {
            return;
        }
        self.gate = Gate::Open;
        self.started = Some(Instant::now());
        if !server.enters_context() {
            return;
        }
        match (self.status, self.standing) {
            (Status::Idle, _) => {}
            (Status::Transaction, Standing::Doubtful | Standing::Awaited) => {
                self.enter_in_block(server);
                return;
            }
            // In a failed block nothing runs, so nothing can run without a context.
            (Status::Transaction | Status::Failed, _) => return,
        }
        if server.reset(self.client, &self.parameters) == Part::Sent {
            self.relay.switches.increment();
            self.ledger.push(Owed::Reset);
            self.ledger.push(Owed::Enter);
        }
        match lead {
            Lead::Begin => self.standing = Standing::Awaited,
            // PostgreSQL warns that there is no block yet; there will be one before the first query.
            Lead::BeginAndMore => self.enter_in_block(server),
            Lead::Other => self.enter(server),
        }
    }

    pub(super) fn enter(&mut self, server: &mut TenantServer) {
        server.enter();
        self.ledger.push(Owed::Enter);
        self.standing = Standing::Sure;
    }

    fn enter_in_block(&mut self, server: &mut TenantServer) {
        server.enter_in_block();
        self.ledger.push(Owed::Enter);
        self.standing = Standing::Sure;
    }

    /// What has to follow a statement in the same write: the context behind BEGIN, and what the client
    /// asked for at startup behind RESET ALL.
    pub(super) fn follow_up(&mut self, executed: StatementKind, server: &mut TenantServer) {
        if executed == StatementKind::ResetAll {
            let startup = self.startup.clone();
            self.restore(&startup, server);
        }
        if self.standing == Standing::Awaited {
            self.enter_in_block(server);
        }
    }

    pub(super) fn restore(&mut self, parameters: &SessionParameters, server: &mut TenantServer) {
        if !parameters.is_empty() {
            server.restore(parameters);
            self.ledger.push(Owed::Enter);
        }
    }

    /// What a statement may do to its session and to the context, as far as its text tells.
    pub(super) fn note_effects(&mut self, survey: Survey, server: &mut TenantServer) {
        if survey.session_state == SessionState::Maybe {
            server.server().wear = Wear::Dirty;
            self.standing = Standing::Doubtful;
        }
        let chains = matches!(survey.first, StatementKind::CommitAndChain | StatementKind::RollbackAndChain);
        if chains || !matches!(survey.statements, Count::One | Count::None) {
            self.standing = Standing::Doubtful;
        }
    }
}
