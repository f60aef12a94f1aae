//! Where a segment begins: what has to stand in front of it, so that nothing of a client runs without its
//! context and on another's leavings.
//!
//! ```text
//!   client        server                                      standing
//!   SELECT        [reset] enter SELECT                        sure
//!   SET           [reset] SET                                 awaited, if more of the segment follows
//!   BEGIN         [reset] BEGIN                               awaited
//!   SET TRANS…    SET TRANS…                                  awaited: it must come before any query
//!   SELECT        enter SELECT                                sure
//!   COMMIT        COMMIT                                      awaited, if more of the segment follows
//! ```
//!
//! What ends or opens a transaction and what sets a setting reads no rows, so it needs no context; and a
//! transaction can still choose its isolation level, which it cannot once a context was entered by a query.

use tokio::time::Instant;

use crate::relay::ledger::Owed;
use crate::relay::{Conversation, Gate, Standing};
use crate::sql::{Count, SessionState, StatementKind, Survey};
use crate::upstream::{Next, Part, Place, SessionParameters, TenantServer, Wear};
use crate::wire::backend::Status;

/// How a transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lead {
    /// By BEGIN alone.
    Begin,
    /// By BEGIN and more in one text.
    BeginAndMore,
    /// By what reads nothing: one statement that ends a transaction or sets a setting, or a message that goes on
    /// with what was begun before.
    Control,
    /// By anything else.
    Other,
}

impl Lead {
    pub(super) fn of(survey: Survey) -> Self {
        match (survey.first, survey.statements) {
            (StatementKind::Begin, Count::One) => Self::Begin,
            (StatementKind::Begin, _) => Self::BeginAndMore,
            (first, Count::One) if first.ends_transaction() || first == StatementKind::Set => Self::Control,
            _ => Self::Other,
        }
    }
}

impl Conversation {
    /// A message of a segment that may be its first; what a transaction reads is preceded by the context.
    pub(super) fn begin(&mut self, lead: Lead, server: &mut TenantServer) {
        if self.gate == Gate::Between {
            self.gate = Gate::Open;
            self.started = Some(Instant::now());
            if server.enters_context() {
                self.open(lead, server);
            }
        } else if self.standing == Standing::Awaited
            // In a failed block nothing runs, a context neither.
            && self.status != Status::Failed
            && lead == Lead::Other
            && server.enters_context()
            // Whose context that would be is known only once the transaction in front has ended.
            && !self.has_chosen()
        {
            self.enter(Place::InFront, server);
        }
    }

    fn open(&mut self, lead: Lead, server: &mut TenantServer) {
        match (self.status, self.standing) {
            (Status::Idle, _) => {}
            (Status::Transaction, Standing::Doubtful) => return self.enter(Place::InBlock, server),
            (Status::Transaction, Standing::Awaited) if matches!(lead, Lead::Other | Lead::BeginAndMore) => {
                return self.enter(Place::InBlock, server);
            }
            // In a failed block nothing runs, so nothing can run without a context.
            (Status::Transaction | Status::Failed, _) => return,
        }
        let next = match lead {
            Lead::Begin | Lead::BeginAndMore | Lead::Control => Next::Client,
            Lead::Other => Next::Context,
        };
        match server.reset(self.client, &self.parameters, next) {
            Part::Sent => {
                self.relay.switches.increment();
                self.ledger.push(Owed::Reset);
                self.ledger.push(Owed::Enter);
            }
            Part::Named => self.ledger.push(Owed::Reset),
            Part::Left => {}
        }
        match lead {
            Lead::Begin | Lead::Control => self.standing = Standing::Awaited,
            // PostgreSQL warns that there is no block yet; there will be one before the first query.
            Lead::BeginAndMore => self.enter(Place::InText, server),
            Lead::Other => self.enter(Place::InFront, server),
        }
    }

    pub(super) fn enter(&mut self, place: Place, server: &mut TenantServer) {
        for _ in 0..server.enter(place) {
            self.ledger.push(Owed::Enter);
        }
        self.standing = Standing::Sure;
    }

    /// What has to follow a statement in the same write: what the client asked for at startup behind RESET ALL.
    pub(super) fn follow_up(&mut self, executed: StatementKind, server: &mut TenantServer) {
        if executed == StatementKind::ResetAll {
            let startup = self.startup.clone();
            self.restore(&startup, server);
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
        self.note_for_choice(survey);
        self.note_for_pin(survey);
        if survey.session_state == SessionState::Maybe {
            server.server().wear = Wear::Dirty;
        }
        let single = matches!(survey.statements, Count::One | Count::None);
        self.standing = match self.standing {
            // Whatever follows in this segment or block is a transaction without a context.
            _ if single && survey.first.ends_transaction() => Standing::Awaited,
            Standing::Awaited => Standing::Awaited,
            // What was entered behind the savepoint is undone with it.
            _ if survey.first == StatementKind::RollbackTo => Standing::Doubtful,
            _ if !single || survey.session_state == SessionState::Maybe => Standing::Doubtful,
            standing => standing,
        };
    }
}
