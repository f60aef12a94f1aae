//! The tenant that a client chooses by SET, as far as its user may. Promise: a choice takes effect only after it was
//! checked against the user's grant, by entering the context of the new tenant in front of the client's statement; and
//! it ends as PostgreSQL would end it: LOCAL with the transaction, any with a rollback.
//!
//! ```text
//!   in a transaction       SET LOCAL x, SET x:  now = x                 SET x: pending = x too
//!   COMMIT                 now = none, session = pending
//!   ROLLBACK, an error     now = none, pending = none
//! ```
//!
//! With `user.choice = "transaction"` a choice holds for one transaction, whatever its form. Made outside a block, in a
//! transaction that did nothing else, it is lent to the transaction behind its own.
//!
//! A rollback to a savepoint would undo a choice made behind it, so a tenant is chosen before the first savepoint.

use std::fmt::Debug;
use std::sync::Arc;

use crate::clients::{TenantSeat, TenantStatus, Turn};
use crate::directory::{ChoiceSpan, Limits};
use crate::fault::{Fault as _, Report, sqlstate};
use crate::guard::tenantless::is_tenantless;
use crate::names::TenantId;
use crate::observability::metrics::{ClientGauge, TenantMetrics};
use crate::relay::Conversation;
use crate::relay::core::replies::Reply;
use crate::relay::core::statements::Reading;
use crate::relay::core::wish::Wish;
use crate::sql::{Count, StatementKind, Survey};
use crate::upstream::{Access, ServerSide, Share, Span};

/// For whom a client acts, with all that follows from it.
#[derive(Debug)]
pub struct Acting {
    /// Its way to servers, under the tenant's context.
    pub access: Access,
    /// What holds for those without a tenant.
    pub unseated: Limits,
    /// Its place among the tenant's clients.
    pub seat: Option<TenantSeat>,
    /// The tenant's series.
    pub metrics: Arc<TenantMetrics>,
    /// Counts the client among those of the tenant.
    pub gauge: ClientGauge,
}

impl Acting {
    /// The limits as they are now.
    pub fn limits(&self) -> Limits {
        self.seat.as_ref().map_or(self.unseated, TenantSeat::limits)
    }

    /// The tenant; none for nobody and for maintenance.
    pub const fn tenant(&self) -> Option<&TenantId> {
        self.access.tenant()
    }
}

/// Knows which tenants a user may act for.
pub trait Chooser: Debug + Send + Sync {
    /// For whom the client acts when it names this tenant, or why not.
    fn choose(&self, tenant: &str) -> Result<Arc<Acting>, Report>;
    /// The same once more, where its tenant is now.
    fn again(&self, acting: &Acting) -> Result<Arc<Acting>, Report>;
    /// Whether statements of a client without a tenant are refused.
    fn requires_tenant(&self) -> bool;
    /// Whether there is a tenant to choose: the user is not bound to one.
    fn is_gateway(&self) -> bool;
}

/// What a client has chosen.
#[derive(Debug)]
pub(in crate::relay) struct TenantChoice {
    /// None: a maintenance user, whose statements are its own affair.
    chooser: Option<Arc<dyn Chooser>>,
    /// As at login: what RESET and DISCARD return to.
    login: Arc<Acting>,
    /// For the session.
    session: Arc<Acting>,
    /// The session's own, while it acts for another in the transaction that begins.
    lent: Option<(Arc<Acting>, Lender)>,
    /// For the open transaction, which is one of that tenant's.
    now: Option<(Arc<Acting>, Option<Turn>)>,
    /// For the session, if the open transaction commits.
    pending: Option<Arc<Acting>>,
    /// For the transaction behind the open one.
    next: Option<(Arc<Acting>, Chosen)>,
    /// For how long a choice holds.
    lasts: ChoiceSpan,
    savepoint: Savepoint,
}

/// What had a session act for another tenant in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lender {
    /// A text or a comment in it, for the transaction that it begins or waits for.
    Text,
    /// A choice of its own, for the transaction behind it.
    Choice,
}

/// When the tenant of the next transaction was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chosen {
    /// By the statement that is about to run.
    Now,
    /// Before it.
    Before,
}

/// Whether the open transaction may have a savepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Savepoint {
    None,
    Maybe,
}

// === impl TenantChoice ===

impl TenantChoice {
    pub(in crate::relay) fn new(
        chooser: Option<Arc<dyn Chooser>>,
        login: Arc<Acting>,
        lasts: ChoiceSpan,
    ) -> Self {
        let session = Arc::clone(&login);
        Self {
            chooser,
            login,
            session,
            lent: None,
            now: None,
            pending: None,
            next: None,
            lasts,
            savepoint: Savepoint::None,
        }
    }

    /// Whether the tenant of the open transaction is not the session's, and no choice makes it so.
    pub(in crate::relay) fn ends_with_transaction(&self) -> bool {
        self.lasts == ChoiceSpan::Transaction && (self.is_made() || self.is_lent())
    }

    /// Whether the open transaction runs for another tenant than the session.
    pub(in crate::relay) const fn is_made(&self) -> bool {
        self.now.is_some()
    }

    /// For whom the client acts in this moment.
    pub(in crate::relay) fn acting(&self) -> &Arc<Acting> {
        self.now.as_ref().map_or(&self.session, |(acting, _)| acting)
    }

    /// Whether the client acts for another tenant than its session's, for this transaction alone.
    fn is_lent(&self) -> bool {
        self.lent.as_ref().is_some_and(|(own, _)| own.tenant() != self.session.tenant())
    }

    /// Whether the client may choose a tenant.
    pub(in crate::relay) fn is_gateway(&self) -> bool {
        self.chooser.as_ref().is_some_and(|chooser| chooser.is_gateway())
    }

    fn is_undecided(&self) -> bool {
        self.acting().tenant().is_none()
            && self.chooser.as_ref().is_some_and(|chooser| chooser.requires_tenant())
    }

    /// For the transaction that a text begins, and no longer.
    pub(in crate::relay) fn lend(&mut self, acting: Arc<Acting>) {
        self.lend_by(Lender::Text, acting);
    }

    fn lend_by(&mut self, lender: Lender, acting: Arc<Acting>) {
        let before = std::mem::replace(&mut self.session, acting);
        let own = self.lent.take().map_or(before, |(own, _)| own);
        self.lent = Some((own, lender));
    }

    /// For the session, between transactions.
    pub(in crate::relay) fn choose_for_session(&mut self, acting: Arc<Acting>) {
        self.take_back();
        match self.lasts {
            ChoiceSpan::Session => self.session = acting,
            ChoiceSpan::Transaction if acting.tenant() == self.session.tenant() => {}
            ChoiceSpan::Transaction => self.lend_by(Lender::Choice, acting),
        }
    }

    /// In a block that no server has, so that its server is taken for this tenant.
    pub(in crate::relay) fn choose_for_waiting(&mut self, acting: Arc<Acting>, span: Span) {
        if span == Span::Session && self.lasts == ChoiceSpan::Session {
            self.pending = Some(Arc::clone(&acting));
        }
        self.lend(acting);
    }

    /// For the session too, if the transaction commits.
    pub(in crate::relay) fn keep_for_session(&mut self, acting: Arc<Acting>) {
        match self.lasts {
            ChoiceSpan::Session => self.pending = Some(acting),
            ChoiceSpan::Transaction => {}
        }
    }

    /// For the transaction behind this one, which is the choice's own; nothing else may run in it.
    pub(in crate::relay) fn keep_for_next(&mut self, acting: &Arc<Acting>) {
        if self.lasts == ChoiceSpan::Transaction {
            self.next = Some((Arc::clone(acting), Chosen::Now));
        }
    }

    /// A segment prepares statements, and runs none: the transaction that was chosen for is still to come.
    pub(in crate::relay) fn prepare(&mut self) {
        if self.lasts == ChoiceSpan::Transaction && matches!(self.lent, Some((_, Lender::Choice))) {
            self.next = Some((Arc::clone(&self.session), Chosen::Before));
        }
    }

    /// What a comment lent is taken back before the next statement; what a choice lent holds for it.
    pub(in crate::relay) fn take_back_comment(&mut self) {
        if matches!(self.lent, Some((_, Lender::Text))) {
            self.take_back();
        }
    }

    /// The transaction that a comment chose for is over, or did not begin.
    pub(in crate::relay) fn take_back(&mut self) {
        if let Some((own, _)) = self.lent.take() {
            self.session = own;
        }
    }

    /// The open transaction committed.
    pub(in crate::relay) fn commit(&mut self) {
        match self.pending.take() {
            None => {}
            // The server is still that of the tenant it was lent to.
            Some(pending) if self.lent.is_some() && pending.tenant() != self.session.tenant() => {
                self.lent = Some((pending, Lender::Text));
            }
            Some(pending) => {
                self.session = pending;
                self.lent = None;
            }
        }
    }

    /// A statement of the open transaction failed, or it was rolled back.
    pub(in crate::relay) fn roll_back(&mut self) {
        self.pending = None;
        self.next = None;
    }

    /// The server is lost, and the transaction with it.
    pub(in crate::relay) fn abandon(&mut self) {
        self.roll_back();
        self.now = None;
        self.savepoint = Savepoint::None;
    }

    /// The transaction is over.
    pub(in crate::relay) fn end(&mut self) {
        self.commit();
        self.take_back();
        self.now = None;
        self.savepoint = Savepoint::None;
        if let Some((acting, _)) = self.next.take() {
            self.choose_for_session(acting);
        }
    }

    /// A transaction of a tenant that another's has become; a paused one is not waited for in the middle of it.
    fn begin(&self, acting: &Arc<Acting>) -> Result<(Arc<Acting>, Option<Turn>), Report> {
        let Some(seat) = &acting.seat else { return Ok((Arc::clone(acting), None)) };
        let turn = seat.begin().map_err(closed)?;
        let acting = if seat.is_stale() { self.again(acting)? } else { Arc::clone(acting) };
        Ok((acting, Some(turn)))
    }

    /// The session's tenant has moved.
    fn follow(&mut self) -> Result<(), Report> {
        let again = self.again(&self.session)?;
        if Arc::ptr_eq(&self.session, &self.login) {
            self.login = Arc::clone(&again);
        }
        self.session = again;
        Ok(())
    }

    fn again(&self, acting: &Acting) -> Result<Arc<Acting>, Report> {
        self.chooser.as_ref().ok_or_else(no_tenant)?.again(acting)
    }

    /// As at login.
    pub(in crate::relay) fn forget(&mut self) {
        self.lent = None;
        self.next = None;
        self.session = Arc::clone(&self.login);
    }

    fn find(&self, value: Option<&str>) -> Result<Arc<Acting>, Report> {
        match (value.filter(|value| !value.is_empty()), &self.chooser) {
            (None, _) | (_, None) => Ok(Arc::clone(&self.login)),
            (Some(value), _) if self.acting().tenant().is_some_and(|tenant| tenant.as_str() == value) => {
                Ok(Arc::clone(self.acting()))
            }
            (Some(value), Some(chooser)) => chooser.choose(value),
        }
    }
}

impl Conversation {
    /// For whom the session acts from its next transaction on.
    pub fn session_acting(&self) -> &Arc<Acting> {
        &self.choice.session
    }

    /// The session's tenant has moved: from its next transaction on, the client acts for it where it is.
    pub fn follow_tenant(&mut self) -> Result<(), Report> {
        self.choice.follow()
    }

    /// Why a client that is pinned cannot act for another tenant: what pins it is this one's.
    pub(in crate::relay) fn pinned_elsewhere(&self) -> Option<Report> {
        let pin = self.pin()?;
        let report = Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "the tenant cannot be changed here");
        let detail = format!("The session has state of this tenant on its server, since: {}", pin.statement);
        Some(report.detail(detail).hint("End that state first, or all of it with DISCARD ALL."))
    }

    /// The limits of the tenant that the open transaction runs for, if that is not the session's.
    pub fn chosen_limits(&self) -> Option<Limits> {
        self.choice.now.as_ref().map(|(acting, _)| acting.limits())
    }

    /// Whether RESET ALL would change for whom the client acts.
    pub(in crate::relay) fn has_left_login(&self) -> bool {
        self.choice.is_made() || !Arc::ptr_eq(&self.choice.session, &self.choice.login)
    }

    /// The transaction is over. Whether it ran for another tenant than its session.
    pub fn end_transaction(&mut self) -> bool {
        let changed = self.choice.is_made() || self.choice.lent.is_some() || self.choice.next.is_some();
        self.choice.end();
        if changed {
            self.metrics = Arc::clone(&self.choice.session.metrics);
        }
        changed
    }

    pub(in crate::relay) fn find(&self, value: Option<&str>) -> Result<Arc<Acting>, Report> {
        self.choice.find(value).inspect_err(|_| self.metrics.refusal("context-change"))
    }

    /// Whether somebody decides about the tenants that this client names.
    pub(in crate::relay) const fn has_chooser(&self) -> bool {
        self.choice.chooser.is_some()
    }

    /// Why a statement may not run; none if it may.
    pub(in crate::relay) fn lack_of_tenant(&self, text: &[u8], survey: Survey) -> Option<Report> {
        if self.is_in_failed_block() && survey.statements == Count::One {
            // Nothing runs there, and PostgreSQL says so.
            return None;
        }
        let chains = matches!(survey.first, StatementKind::CommitAndChain | StatementKind::RollbackAndChain);
        if chains && (self.choice.is_made() || self.choice.is_lent()) {
            return Some(too_late("a tenant was chosen, which AND CHAIN would not carry on"));
        }
        if self.choice.is_lent() && self.course_here().through(survey.course).goes_on_behind_end() {
            return Some(behind_choice());
        }
        let lacks = reads(survey) && self.choice.is_undecided() && !is_tenantless(text);
        lacks.then(|| {
            let setting = self.rules.tenant_setting();
            no_tenant().detail(format!("The statement may read rows of a tenant, and {setting} names none."))
        })
    }

    /// The same for a statement that may itself be the choice.
    pub(in crate::relay) fn lack_of_tenant_for(&self, text: &[u8], reading: &Reading) -> Option<Report> {
        let chooses = reading.change.is_some() || reading.choices.is_some();
        (!chooses).then(|| self.lack_of_tenant(text, reading.survey)).flatten()
    }

    /// RESET ALL: the session returns to the tenant of its login when the transaction commits.
    pub(in crate::relay) fn choose_login(&mut self) {
        if self.has_left_login() {
            self.choice.pending = Some(Arc::clone(&self.choice.login));
        }
    }

    /// Notes what makes a later choice in this transaction impossible to follow.
    pub(in crate::relay) fn note_for_choice(&mut self, survey: Survey) {
        self.choice.next = match self.choice.next.take() {
            Some((acting, Chosen::Now)) => Some((acting, Chosen::Before)),
            Some((_, Chosen::Before)) | None => None,
        };
        if survey.first == StatementKind::Savepoint || !matches!(survey.statements, Count::One | Count::None)
        {
            self.choice.savepoint = Savepoint::Maybe;
        }
        if survey.first == StatementKind::ResetAll {
            self.choose_login();
        }
    }

    /// Carries out a change of tenant: enters the new context in front of the statement that stands in for the client's.
    pub(in crate::relay) fn choose(
        &mut self,
        wish: &Wish,
        (text, survey): (&[u8], Survey),
        server: &mut dyn ServerSide,
    ) -> Result<(), Report> {
        if self.is_in_failed_block() {
            // Nothing runs there, and PostgreSQL says so.
            return Ok(());
        }
        let acting = self.find(wish.tenant.as_deref())?;
        if self.course_here().has_end() {
            self.may_choose_behind_end(&acting, wish.span)?;
        }
        if acting.tenant() != self.choice.acting().tenant() {
            self.move_to(&acting, wish.span, server)?;
        }
        if wish.span == Span::Session {
            self.keep(acting, (text, survey));
        }
        Ok(())
    }

    /// Enters another tenant's context in front of what follows.
    pub(in crate::relay) fn move_to(
        &mut self,
        acting: &Arc<Acting>,
        span: Span,
        server: &mut dyn ServerSide,
    ) -> Result<(), Report> {
        if self.choice.savepoint == Savepoint::Maybe {
            return Err(too_late("a savepoint may have been set"));
        }
        if let Some(report) = self.pinned_elsewhere() {
            return Err(report);
        }
        let (acting, turn) = self.choice.begin(acting)?;
        let before = server.context().clone();
        server.adopt(&acting.access, Share::of(&acting.limits())).map_err(|fault| fault.report())?;
        let context = server.context().clone();
        let (state, out, _) = server.parts();
        for expected in context.write_choice((state, out), span, &before) {
            self.replies.push(Reply::Own(expected));
            self.replies.push(Reply::OwnClose);
        }
        self.metrics = Arc::clone(&acting.metrics);
        self.choice.now = Some((acting, turn));
        Ok(())
    }
}

/// Whether statements of this text may read a row. What ends a transaction, opens one or sets a setting does not.
fn reads(survey: Survey) -> bool {
    let is_alone = matches!(survey.statements, Count::One | Count::None);
    let is_control =
        survey.first.ends_transaction() || matches!(survey.first, StatementKind::Set | StatementKind::Begin);
    !(is_alone && is_control)
}

/// What a client without a tenant is told.
pub fn no_tenant() -> Report {
    Report::new(sqlstate::INVALID_AUTHORIZATION, "no tenant was chosen").hint(
        "Name the tenant at login (user name user.tenant, or the tenant setting in the startup options), or by SET, \
         SET LOCAL or set_config of that setting. Without one, only the session and the catalogs can be asked.",
    )
}

/// What clients of a tenant are told whose transactions do not begin.
pub fn closed(status: TenantStatus) -> Report {
    let label = status.label();
    Report::new(sqlstate::CANNOT_CONNECT_NOW, format!("the tenant is {label}"))
        .hint("An operator of the proxy decided so; try again later.")
}

/// A server is taken for the tenant of a transaction; what follows that transaction would run there.
fn behind_choice() -> Report {
    Report::new(
        sqlstate::FEATURE_NOT_SUPPORTED,
        "statements cannot follow the end of this transaction in one message",
    )
    .detail("The tenant was chosen for the transaction alone.")
    .hint("Send what follows in a message of its own, or choose the tenant for the session.")
}

pub(in crate::relay) fn too_late(why: &str) -> Report {
    Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "the tenant cannot be changed here")
        .detail(format!("In this transaction {why}."))
        .hint("Choose the tenant at the start of the transaction, or before it.")
}
