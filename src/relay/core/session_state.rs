//! What a client's session has beyond its transactions: settings, which are carried to whichever server it has next,
//! and state that keeps it on one server, to which it is pinned. What a statement may leave is known before it is sent
//! ([`footprint`](crate::guard::footprint)); what it did leave is asked of the server when its transaction is over.
//!
//! ```text
//!   SET x = 1           touched: x         ReadyForQuery (idle)  ── current_setting('x') ──> parameters: x = 1
//!   CREATE TEMP TABLE   candidates: temp                         ── is any there? yes ─────> pin
//!   DROP TABLE          recheck                                  ── is any there? no ──────> no pin
//! ```

use std::collections::BTreeMap;

use crate::clients::PinnedSeat;
use crate::directory::{ChoiceSpan, Pinning, PoolMode};
use crate::fault::{Report, sqlstate};
use crate::guard::footprint::{Footprint, Name, State, States, Verb};
use crate::guard::{NO_ROLE, ROLE};
use crate::relay::Conversation;
use crate::relay::answers::is_reported;
use crate::sql::{Count, SessionEffect as Leaves, StatementKind, Survey, resets};
use crate::upstream::{Answer, Question, SessionParameters, TenantServer};

/// Most settings that are carried for one client.
const MAX_SETTINGS: usize = 64;
/// Most temporary objects that one client makes in one stay on a server. To drop them takes a lock for each of them, and
/// the lock table is shared by all.
const MAX_TEMPORARY: u16 = 1000;
/// How much of a statement is remembered of a pin.
const MAX_STATEMENT_BYTES: usize = 120;

/// What holds for a user's sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// How long it keeps a server.
    pub pool_mode: PoolMode,
    /// Whether it may name its tenant in comments.
    pub comments: bool,
    /// What becomes of statements that would pin it.
    pub pinning: Pinning,
    /// For how long its choices of a tenant hold.
    pub choice: ChoiceSpan,
}

/// Why a client keeps its server.
#[derive(Debug)]
pub struct Pin {
    /// What is on the server.
    pub states: States,
    /// The beginning of the statement that made the first of it.
    pub statement: Box<str>,
    _seat: Option<PinnedSeat>,
}

/// What became of a pin with a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The client is pinned from here on.
    Pinned,
    /// It is no longer.
    Freed,
}

/// The session state of one client.
#[derive(Debug, Default)]
pub(in crate::relay) struct SessionState {
    policy: Policy,
    /// Settings that the open transaction touched: set, or nothing but reset.
    touched: BTreeMap<String, Verb>,
    /// Whether something ran behind a COMMIT, a ROLLBACK or in a text of several statements in the open transaction, so that
    /// its end may be in the middle.
    has_mixed: Mixed,
    /// What the open transaction may have left on the server.
    candidates: Option<Box<Candidates>>,
    /// Whether the open transaction may have taken back what pins.
    recheck: bool,
    put_back: PutBack,
    /// Statements that may have made temporary objects since the client had none.
    temporary: u16,
    /// The parameters before the open transaction changed any.
    before: Option<Box<SessionParameters>>,
    pin: Option<Box<Pin>>,
}

/// Whether the name with the tenant in it has to be put back on the server behind the open transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::relay) enum PutBack {
    #[default]
    Nothing,
    /// The tenant in the application's name.
    Name,
}

/// Whether more than one transaction may have run since the last one was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mixed {
    #[default]
    No,
    /// The last statement was a ROLLBACK. What follows it in the same pipeline is another transaction.
    RolledBack,
    /// Statements stand behind a ROLLBACK.
    Behind,
    Yes,
}

/// A pin that may come.
#[derive(Debug)]
struct Candidates {
    states: States,
    statement: Box<str>,
    seat: Option<PinnedSeat>,
}

impl SessionState {
    /// What holds for the client's user.
    pub(in crate::relay) const fn policy(&self) -> Policy {
        self.policy
    }

    pub(in crate::relay) fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// DISCARD ALL: nothing is left.
    pub(in crate::relay) fn discard(&mut self) {
        *self = Self::new(self.policy);
    }

    /// Remembers what was before a parameter changes in the open transaction.
    pub(in crate::relay) fn save(&mut self, parameters: &SessionParameters) {
        if self.before.is_none() {
            self.before = Some(Box::new(parameters.clone()));
        }
    }

    /// The parameters before the open transaction changed any.
    pub(in crate::relay) fn before<'a>(&'a self, now: &'a SessionParameters) -> &'a SessionParameters {
        self.before.as_deref().unwrap_or(now)
    }

    /// Nothing of the statement that was noted has run, and no transaction is open.
    pub(in crate::relay) fn forget(&mut self) {
        self.touched.clear();
        self.candidates = None;
    }

    /// The transaction is over.
    pub(in crate::relay) fn end(&mut self) {
        self.before = None;
        self.has_mixed = Mixed::No;
    }

    /// The server is lost, and with it what the open transaction did; what the parameters are again.
    pub(in crate::relay) fn abandon(&mut self) -> Option<SessionParameters> {
        self.touched.clear();
        self.has_mixed = Mixed::No;
        self.candidates = None;
        self.recheck = false;
        self.put_back = PutBack::Nothing;
        self.temporary = 0;
        self.pin = None;
        self.before.take().map(|before| *before)
    }

    /// What is to be put back when the transaction is over.
    pub(in crate::relay) const fn put_back_later(&mut self, what: PutBack) {
        self.put_back = what;
    }

    /// A statement of this kind runs in the open transaction.
    pub(in crate::relay) fn note(&mut self, survey: Survey) {
        // What stands in front of a COMMIT stays, whatever fails behind it in the same pipeline.
        let commits = matches!(survey.first, StatementKind::Commit | StatementKind::CommitAndChain);
        let is_text = !matches!(survey.statements, Count::One | Count::None);
        let rolls_back = matches!(survey.first, StatementKind::Rollback | StatementKind::RollbackAndChain);
        self.has_mixed = match self.has_mixed {
            Mixed::Yes => Mixed::Yes,
            _ if commits || is_text => Mixed::Yes,
            _ if rolls_back => Mixed::RolledBack,
            Mixed::No => Mixed::No,
            Mixed::RolledBack | Mixed::Behind => Mixed::Behind,
        };
    }

    /// The open transaction was rolled back as a whole: its settings are what they were before it.
    pub(in crate::relay) fn roll_back(&mut self) {
        if matches!(self.has_mixed, Mixed::No | Mixed::RolledBack) {
            self.touched.clear();
        }
    }

    /// A text is about to run whose statements may make temporary objects.
    fn count_temporary(&mut self, text: &[u8]) -> Result<(), Report> {
        let statements = u16::try_from(resets(text).1).unwrap_or(u16::MAX).max(1);
        let after = self.temporary.saturating_add(statements);
        if after > MAX_TEMPORARY {
            let message = format!("too many temporary objects: the limit is {MAX_TEMPORARY} in a session");
            return Err(Report::new(sqlstate::CONFIGURATION_LIMIT, message)
                .hint("Drop all of them, or end the session, and begin anew."));
        }
        self.temporary = after;
        Ok(())
    }

    fn touch(&mut self, name: &str, verb: Verb, parameters: &SessionParameters) -> Result<(), Report> {
        let known = parameters.get(name).is_some();
        if let Some(earlier) = self.touched.get_mut(name) {
            if verb == Verb::Set {
                *earlier = Verb::Set;
            }
            return Ok(());
        }
        if verb == Verb::Reset && !known {
            return Ok(());
        }
        if !known && parameters.len() + self.touched.len() >= MAX_SETTINGS {
            let message =
                format!("too many settings: the proxy carries at most {MAX_SETTINGS} for a session");
            return Err(
                Report::new(sqlstate::CONFIGURATION_LIMIT, message).hint("Use SET LOCAL, or RESET settings.")
            );
        }
        self.touched.insert(name.to_owned(), verb);
        Ok(())
    }
}

impl Conversation {
    /// A statement is about to run: takes note of what it may leave in the session, or says why it may not. `names` are
    /// those that its bound values give to settings, in the order of its footprint.
    pub(in crate::relay) fn note_footprint(
        &mut self,
        footprint: &Footprint,
        text: &[u8],
        names: &[Option<String>],
    ) -> Result<(), Report> {
        if self.session.policy.pool_mode == PoolMode::Session {
            return Ok(());
        }
        let mut states = footprint.states;
        for (place, touch) in footprint.settings.iter().enumerate() {
            match &touch.name {
                Name::Is(name) if name == ROLE && !self.rules.has_roles() => {
                    if touch.verb == Verb::Set {
                        states.add(State::Role);
                    }
                }
                Name::Is(name) => self.touch(name, touch.verb)?,
                Name::Parameter(_) => match names.get(place).cloned().flatten() {
                    Some(name) => self.touch(&name, touch.verb)?,
                    None => states.add(State::Setting),
                },
                Name::All => self.touch_all()?,
            }
        }
        if states.has(State::Temporary) {
            self.session.count_temporary(text)?;
        }
        if states.is_empty() { Ok(()) } else { self.expect_pin(states, text) }
    }

    fn touch(&mut self, name: &str, verb: Verb) -> Result<(), Report> {
        let is_kept = self.rules.protects(name) && !(name == ROLE && self.rules.has_roles());
        if is_of_transaction(name) || is_reported(name) || is_kept {
            return Ok(());
        }
        self.session.touch(name, verb, &self.parameters)
    }

    fn touch_all(&mut self) -> Result<(), Report> {
        let parameters = self.parameters.clone();
        for (name, _) in parameters.iter() {
            self.session.touch(name, Verb::Reset, &self.parameters)?;
        }
        Ok(())
    }

    /// A statement that may make state that keeps the client on its server.
    fn expect_pin(&mut self, states: States, text: &[u8]) -> Result<(), Report> {
        if let Some(candidates) = &mut self.session.candidates {
            candidates.states = candidates.states.and(states);
            return Ok(());
        }
        let statement = excerpt(text);
        if self.session.pin.is_none()
            && let Some((why, hint)) = self.refuses_pins()
        {
            let labels: Vec<&str> = states.iter().map(State::label).collect();
            let message = "this statement would pin the client to a server";
            return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
                .detail(format!("{why}; {}: {statement}", labels.join(", ")))
                .hint(hint));
        }
        let seat = match &self.choice.acting().seat {
            Some(seat) if self.session.pin.is_none() => Some(seat.pin().ok_or_else(|| {
                Report::new(sqlstate::TOO_MANY_CONNECTIONS, "too many clients of this tenant are pinned to servers")
                    .detail(format!("This statement would pin one more: {statement}"))
                    .hint("End session state (temporary tables, LISTEN, advisory locks, …), or raise the tenant's max_pins.")
            })?),
            _ => None,
        };
        self.session.candidates = Some(Box::new(Candidates { states, statement, seat }));
        Ok(())
    }

    /// Why a statement that would pin the client is refused, and what to do; none: it is not.
    fn refuses_pins(&self) -> Option<(&'static str, &'static str)> {
        if self.session.policy.pinning == Pinning::Refuse {
            let hint = "Do without session state that outlives a transaction, or allow pinning for the user.";
            return Some(("pinning is refused for this user", hint));
        }
        let why = "the tenant was chosen for one transaction, and the state would outlive it";
        let hint = "Do without such state, name the tenant at login, or give the user choice = \"session\".";
        self.choice.ends_with_transaction().then_some((why, hint))
    }

    /// Notes a statement that may take back what pins the client.
    pub(in crate::relay) fn note_for_pin(&mut self, survey: Survey) {
        if self.session.pin.is_some()
            && (survey.session_effect == Leaves::Maybe
                || survey.first == StatementKind::Close
                || survey.statements == Count::Many)
        {
            self.session.recheck = true;
        }
    }

    /// Whether the client listens, as far as it said so: what code of the database began without it is nobody's to hear.
    pub(in crate::relay) fn listens(&self) -> bool {
        self.session.policy.pool_mode == PoolMode::Session || self.may_have(State::Listen)
    }

    fn may_have(&self, state: State) -> bool {
        let candidates = self.session.candidates.as_ref().is_some_and(|one| one.states.has(state));
        candidates || self.session.pin.as_ref().is_some_and(|pin| pin.states.has(state))
    }

    /// Why the client keeps its server; none: it does not.
    pub fn pin(&self) -> Option<&Pin> {
        self.session.pin.as_deref()
    }

    /// Whether the client keeps its server between transactions.
    pub fn keeps_server(&self) -> bool {
        self.session.pin.is_some() || self.session.policy.pool_mode == PoolMode::Session
    }

    /// What has to be put back behind the transaction.
    pub fn puts_back(&mut self) -> Option<SessionParameters> {
        match std::mem::take(&mut self.session.put_back) {
            PutBack::Nothing => None,
            PutBack::Name => Some(self.own_name()),
        }
    }

    /// What has to be asked of the server now that the transaction is over.
    pub fn question(&self) -> Option<Question> {
        let state = &self.session;
        let mut states = state.candidates.as_ref().map(|one| one.states).unwrap_or_default();
        if let Some(pin) = &state.pin
            && (state.recheck || !states.is_empty())
        {
            states = states.and(pin.states);
        }
        let question = Question { settings: state.touched.keys().cloned().collect(), states };
        (!question.is_empty()).then_some(question)
    }

    /// Believes the answer.
    pub fn settle(&mut self, question: &Question, answer: Answer, server: &mut TenantServer) -> Change {
        let change = self.believe(question, answer, server);
        if self.session.pin.is_none() {
            self.session.temporary = 0;
        }
        change
    }

    fn believe(&mut self, question: &Question, answer: Answer, server: &mut TenantServer) -> Change {
        let touched = std::mem::take(&mut self.session.touched);
        let mut is_strange = false;
        for (name, value) in question.settings.iter().zip(answer.settings) {
            let only_reset = touched.get(name) == Some(&Verb::Reset);
            let stays = !only_reset
                || value.as_deref() == self.parameters.get(name)
                || self.startup.get(name).is_some();
            match value {
                // The session would have it on every server.
                Some(value) if name == ROLE && !self.rules.allows_role(&value) => {
                    self.parameters.remove(name);
                    is_strange = value != NO_ROLE;
                }
                Some(value) if stays => self.parameters.set(name, &value),
                _ => self.parameters.remove(name),
            }
        }
        server.believes(&self.parameters);
        if is_strange {
            server.doubts();
        }
        if let Some(name) = answer.too_long.first() {
            return self.pin_by_setting(name);
        }
        let candidates = self.session.candidates.take();
        self.session.recheck = false;
        if question.states.is_empty() {
            return Change::None;
        }
        match (&mut self.session.pin, candidates) {
            (Some(_), _) if answer.states.is_empty() => {
                self.session.pin = None;
                Change::Freed
            }
            (Some(pin), _) => {
                pin.states = answer.states;
                Change::None
            }
            (None, Some(candidates)) if !answer.states.is_empty() => {
                let Candidates { statement, seat, .. } = *candidates;
                for state in answer.states.iter() {
                    self.metrics.pin(state.label());
                }
                self.session.pin = Some(Box::new(Pin { states: answer.states, statement, _seat: seat }));
                Change::Pinned
            }
            (None, _) => Change::None,
        }
    }
}

impl Conversation {
    /// A value too long to carry stays where it is, and the client with it.
    fn pin_by_setting(&mut self, name: &str) -> Change {
        let candidates = self.session.candidates.take();
        if let Some(pin) = &mut self.session.pin {
            pin.states.add(State::Setting);
            return Change::None;
        }
        let seat = candidates.and_then(|candidates| candidates.seat);
        let seat = seat.or_else(|| self.choice.acting().seat.as_ref()?.pin());
        let mut states = States::default();
        states.add(State::Setting);
        self.metrics.pin(State::Setting.label());
        let statement = format!("SET {name}").into();
        self.session.pin = Some(Box::new(Pin { states, statement, _seat: seat }));
        Change::Pinned
    }
}

/// Settings that end with their transaction, or that are no settings at all.
fn is_of_transaction(name: &str) -> bool {
    matches!(
        name,
        "transaction_isolation"
            | "transaction_read_only"
            | "transaction_deferrable"
            | "seed"
            | "is_superuser"
    )
}

/// The beginning of a statement, on one line.
fn excerpt(text: &[u8]) -> Box<str> {
    let shown = text.get(..MAX_STATEMENT_BYTES).unwrap_or(text);
    let shown = String::from_utf8_lossy(shown);
    shown.chars().map(|it| if it.is_control() { ' ' } else { it }).collect::<String>().into()
}
