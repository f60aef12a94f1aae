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
use crate::directory::{Pinning, PoolMode};
use crate::fault::{Report, sqlstate};
use crate::guard::footprint::{Footprint, Name, State, States, Verb};
use crate::relay::Conversation;
use crate::relay::reports::is_carried;
use crate::sql::{Count, SessionState as Leaves, StatementKind, Survey};
use crate::upstream::{APPLICATION_NAME, Answer, Question, SessionParameters, TenantServer};
use crate::wire::frontend;

/// Most settings that are carried for one client.
const MAX_SETTINGS: usize = 64;
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
pub(super) struct SessionState {
    policy: Policy,
    /// Settings that the open transaction touched: set, or nothing but reset.
    touched: BTreeMap<String, Verb>,
    /// What the open transaction may have left on the server.
    candidates: Option<Candidates>,
    /// Whether the open transaction may have taken back what pins.
    recheck: bool,
    put_back: PutBack,
    /// The parameters before the open transaction changed any.
    before: Option<SessionParameters>,
    pin: Option<Pin>,
}

/// What has to be put back on the server behind the open transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum PutBack {
    #[default]
    Nothing,
    /// The tenant in the application's name.
    Name,
    /// What the client asked for at startup.
    Startup,
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
    pub(super) const fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// DISCARD ALL: nothing is left.
    pub(super) fn discard(&mut self) {
        *self = Self::new(self.policy);
    }

    /// Remembers what was before a parameter changes in the open transaction.
    pub(super) fn save(&mut self, parameters: &SessionParameters) {
        if self.before.is_none() {
            self.before = Some(parameters.clone());
        }
    }

    /// The parameters before the open transaction changed any.
    pub(super) fn before<'a>(&'a self, now: &'a SessionParameters) -> &'a SessionParameters {
        self.before.as_ref().unwrap_or(now)
    }

    /// The transaction is over.
    pub(super) fn end(&mut self) {
        self.before = None;
    }

    /// The server is lost, and with it what the open transaction did; what the parameters are again.
    pub(super) fn abandon(&mut self) -> Option<SessionParameters> {
        self.touched.clear();
        self.candidates = None;
        self.recheck = false;
        self.put_back = PutBack::Nothing;
        self.pin = None;
        self.before.take()
    }

    /// What is to be put back when the transaction is over; the name counts for nothing beside the rest.
    pub(super) fn put_back_later(&mut self, what: PutBack) {
        if self.put_back != PutBack::Startup {
            self.put_back = what;
        }
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
    /// A statement is about to be sent: takes note of what it may leave in the session, or says why it may not.
    pub(super) fn note_footprint(
        &mut self,
        footprint: &Footprint,
        text: &[u8],
        bound: Option<&[u8]>,
    ) -> Result<(), Report> {
        if self.state.policy.pool_mode == PoolMode::Session {
            return Ok(());
        }
        let mut states = footprint.states;
        for touch in &footprint.settings {
            match &touch.name {
                Name::Is(name) => self.touch(name, touch.verb)?,
                Name::Parameter(number) => {
                    let value = bound.and_then(|rest| frontend::parameter(rest, *number)).flatten();
                    match value.and_then(|value| std::str::from_utf8(value).ok()) {
                        Some(name) => self.touch(&name.to_ascii_lowercase(), touch.verb)?,
                        None => states.add(State::Setting),
                    }
                }
                Name::All => self.touch_all()?,
            }
        }
        if states.is_empty() { Ok(()) } else { self.expect_pin(states, text) }
    }

    fn touch(&mut self, name: &str, verb: Verb) -> Result<(), Report> {
        if is_of_transaction(name) || is_carried(name) || self.rules.protects(name) {
            return Ok(());
        }
        self.state.touch(name, verb, &self.parameters)
    }

    fn touch_all(&mut self) -> Result<(), Report> {
        let parameters = self.parameters.clone();
        for (name, _) in parameters.iter() {
            self.state.touch(name, Verb::Reset, &self.parameters)?;
        }
        Ok(())
    }

    /// A statement that may make state that keeps the client on its server.
    fn expect_pin(&mut self, states: States, text: &[u8]) -> Result<(), Report> {
        if let Some(candidates) = &mut self.state.candidates {
            candidates.states = candidates.states.and(states);
            return Ok(());
        }
        let statement = excerpt(text);
        if self.state.pin.is_none() && self.state.policy.pinning == Pinning::Refuse {
            let labels: Vec<&str> = states.iter().map(State::label).collect();
            return Err(Report::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "this statement would pin the client to a server",
            )
            .detail(format!("pinning is refused for this user; {}: {statement}", labels.join(", ")))
            .hint("Do without session state that outlives a transaction, or allow pinning for the user."));
        }
        let seat = match &self.choice.acting().seat {
            Some(seat) if self.state.pin.is_none() => Some(seat.pin().ok_or_else(|| {
                Report::new(sqlstate::TOO_MANY_CONNECTIONS, "too many clients of this tenant are pinned to servers")
                    .detail(format!("This statement would pin one more: {statement}"))
                    .hint("End session state (temporary tables, LISTEN, advisory locks, …), or raise the tenant's max_pins.")
            })?),
            _ => None,
        };
        self.state.candidates = Some(Candidates { states, statement, seat });
        Ok(())
    }

    /// Notes a statement that may take back what pins the client.
    pub(super) fn note_for_pin(&mut self, survey: Survey) {
        if self.state.pin.is_some()
            && (survey.session_state == Leaves::Maybe
                || survey.first == StatementKind::Close
                || survey.statements == Count::Many)
        {
            self.state.recheck = true;
        }
    }

    /// Whether names may mean something else in this session than in others.
    pub(super) fn has_temporary_objects(&self) -> bool {
        self.may_have(State::Temporary)
    }

    /// Whether the client listens, as far as it said so: what code of the database began without it is nobody's to hear.
    pub(super) fn listens(&self) -> bool {
        self.state.policy.pool_mode == PoolMode::Session || self.may_have(State::Listen)
    }

    fn may_have(&self, state: State) -> bool {
        let candidates = self.state.candidates.as_ref().is_some_and(|one| one.states.has(state));
        candidates || self.state.pin.as_ref().is_some_and(|pin| pin.states.has(state))
    }

    /// Why the client keeps its server; none: it does not.
    pub const fn pin(&self) -> Option<&Pin> {
        self.state.pin.as_ref()
    }

    /// Whether the client keeps its server between transactions.
    pub fn keeps_server(&self) -> bool {
        self.state.pin.is_some() || self.state.policy.pool_mode == PoolMode::Session
    }

    /// What has to be put back behind the transaction.
    pub fn puts_back(&mut self) -> Option<SessionParameters> {
        match std::mem::take(&mut self.state.put_back) {
            PutBack::Nothing => None,
            PutBack::Name => Some(self.parameters.only(APPLICATION_NAME)),
            PutBack::Startup => Some(self.startup.clone()),
        }
    }

    /// What has to be asked of the server now that the transaction is over.
    pub fn question(&self) -> Option<Question> {
        let state = &self.state;
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
        let touched = std::mem::take(&mut self.state.touched);
        for (name, value) in question.settings.iter().zip(answer.settings) {
            let only_reset = touched.get(name) == Some(&Verb::Reset);
            let stays = !only_reset
                || value.as_deref() == self.parameters.get(name)
                || self.startup.get(name).is_some();
            match value {
                Some(value) if stays => self.parameters.set(name, &value),
                _ => self.parameters.remove(name),
            }
        }
        server.believes(&self.parameters);
        if let Some(name) = answer.too_long.first() {
            return self.pin_by_setting(name);
        }
        let candidates = self.state.candidates.take();
        self.state.recheck = false;
        if question.states.is_empty() {
            return Change::None;
        }
        match (&mut self.state.pin, candidates) {
            (Some(_), _) if answer.states.is_empty() => {
                self.state.pin = None;
                Change::Freed
            }
            (Some(pin), _) => {
                pin.states = answer.states;
                Change::None
            }
            (None, Some(Candidates { statement, seat, .. })) if !answer.states.is_empty() => {
                for state in answer.states.iter() {
                    self.metrics.pin(state.label());
                }
                self.state.pin = Some(Pin { states: answer.states, statement, _seat: seat });
                Change::Pinned
            }
            (None, _) => Change::None,
        }
    }
}

impl Conversation {
    /// A value too long to carry stays where it is, and the client with it.
    fn pin_by_setting(&mut self, name: &str) -> Change {
        let candidates = self.state.candidates.take();
        if let Some(pin) = &mut self.state.pin {
            pin.states.add(State::Setting);
            return Change::None;
        }
        let seat = candidates.and_then(|candidates| candidates.seat);
        let seat = seat.or_else(|| self.choice.acting().seat.as_ref()?.pin());
        let mut states = States::default();
        states.add(State::Setting);
        self.metrics.pin(State::Setting.label());
        self.state.pin = Some(Pin { states, statement: format!("SET {name}").into(), _seat: seat });
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
