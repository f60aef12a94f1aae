//! Texts that choose a tenant beside other statements. They run as they stand, for the tenant that they choose, which is
//! chosen before a server is taken.

use std::sync::Arc;

use crate::fault::{Report, sqlstate};
use crate::guard::Rules;
use crate::guard::change::{ChangedName, Scope, Target, TenantChange};
use crate::guard::tenantless::is_tenantless;
use crate::relay::Conversation;
use crate::relay::core::block::Block;
use crate::relay::core::statements::Reading;
use crate::relay::core::tenant_choice::{Acting, too_late};
use crate::relay::core::wish::{Unreadable, Wish, unreadable};
use crate::relay::requests::begin::whole_frames;
use crate::sql::{Count, Survey, contains};
use crate::upstream::Span;
use crate::wire::backend::Status;
use crate::wire::{frame, frontend};

/// The longest text that is looked at as a choice between transactions: a setting's name and a tenant's.
const MAX_CHOICE_BYTES: usize = 512;

impl Conversation {
    /// A text that chooses a tenant beside other statements runs as it stands, for that tenant: the transaction must be
    /// that tenant's already.
    pub(in crate::relay) fn stays_with(&mut self, wish: &Wish, said: (&[u8], Survey)) -> Result<(), Report> {
        let acting = self.find_for_text(wish)?;
        if acting.tenant() != self.choice.acting().tenant() {
            return Err(too_late("statements of another tenant may have run")
                .hint("Choose the tenant first in its transaction, or in a message of its own."));
        }
        if wish.span == Span::Session {
            self.keep(acting, said);
        }
        Ok(())
    }

    /// A choice in the pipeline or text in which a transaction ends, too, is for one side of that end only; which one, its
    /// completion does not tell.
    pub(in crate::relay) fn may_choose_behind_end(&self, acting: &Acting, span: Span) -> Result<(), Report> {
        if span == Span::Transaction || acting.tenant() == self.session_acting().tenant() {
            return Ok(());
        }
        Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "the tenant cannot be changed here")
            .detail("A transaction ends in the same message or pipeline.")
            .hint("Choose the tenant in a message of its own, behind a Sync."))
    }

    /// For whom the client acts that chooses by a text which runs as it stands.
    fn find_for_text(&self, wish: &Wish) -> Result<Arc<Acting>, Report> {
        let acting = self.find(wish.tenant.as_deref())?;
        if wish.tenant.is_none() && acting.tenant().is_some() {
            return Err(unreadable(Unreadable::LeavesLogin));
        }
        Ok(acting)
    }

    /// A text that chooses for longer than its transaction is about to run. Outside a block, and if the text does nothing
    /// else, a choice that holds for one transaction holds for the next one.
    pub(in crate::relay) fn keep(&mut self, acting: Arc<Acting>, (text, survey): (&[u8], Survey)) {
        let before = self.course_here();
        let behind = before.through(survey.course);
        let stays_outside = !before.is_in_block() && !behind.is_in_block() && !behind.may_have_committed();
        if stays_outside && is_tenantless(text) {
            self.choice.keep_for_next(&acting);
        }
        self.choice.keep_for_session(acting);
    }

    /// A segment prepares statements, and runs none: the transaction that was chosen for is still to come.
    pub(super) fn keep_while_preparing(&mut self) {
        if self.told() == Status::Idle {
            self.choice.prepare();
        }
    }

    /// What a statement wishes, where it stands.
    pub(super) fn settled(&self, mut wish: Wish, change: Option<&TenantChange>) -> Wish {
        let is_of_block = change.is_some_and(|change| change.scope == Scope::Block);
        if is_of_block && (self.is_block_waiting() || self.course_here().is_in_block()) {
            wish.span = Span::Transaction;
        }
        wish
    }

    /// Whether a text that holds these changes of tenant may be prepared. What its parameters choose is seen when they
    /// are bound.
    pub(super) fn may_prepare(&self, choices: &[TenantChange], survey: Survey) -> Result<(), Report> {
        for change in choices {
            if change.name == ChangedName::Tenant
                && let Target::Value(tenant) = &change.target
            {
                self.find(Some(tenant))?;
            }
        }
        if survey.statements == Count::One {
            return Ok(());
        }
        // PostgreSQL's words.
        let message = "cannot insert multiple commands into a prepared statement";
        Err(Report::new(sqlstate::SYNTAX_ERROR, message))
    }

    /// The settings that bound values name are judged as if they stood in the text.
    pub(super) fn check_bound_settings(&self, reading: &Reading, values: &[u8]) -> Result<(), Report> {
        for change in reading.changes() {
            for (name, value) in change.bound_settings(values, &self.rules)? {
                if !self.rules.is_choice(&name) {
                    let checked = self.rules.check_bound(&name, value.as_deref());
                    checked.map_err(|refused| self.refused(refused))?;
                }
            }
        }
        Ok(())
    }

    /// Chooses as the text of a message does that holds other statements too, before a server is taken.
    pub fn choose_by_text(&mut self, message: &[u8], behind: &[u8]) -> Result<TextRead, Report> {
        if !self.has_chooser() || self.block == Block::Failed {
            return Ok(TextRead::Whole);
        }
        let (tag, body) = (message.first(), frame::body(message));
        let (reading, values) = match tag {
            Some(b'Q') => (frontend::query(body).and_then(|text| self.choices_in(text)), None),
            Some(b'P') => {
                let parse = frontend::parse(body).filter(|parse| parse.name.is_empty());
                (
                    parse.and_then(|parse| self.choices_in(parse.text)),
                    bind_behind(behind).map(|bind| bind.rest),
                )
            }
            Some(b'B') => {
                let bind = frontend::bind(body);
                let statement = bind.as_ref().and_then(|bind| self.statements.find(bind.statement));
                (statement.map(|statement| statement.reading.clone()), bind.map(|bind| bind.rest))
            }
            _ => return Ok(TextRead::Whole),
        };
        let survey = reading.as_ref().map(|reading| reading.survey);
        let Some(choices) = reading.and_then(|reading| reading.choices) else { return Ok(TextRead::Whole) };
        match is_run(tag, behind) {
            Some(true) => {}
            Some(false) => return Ok(TextRead::Whole),
            None => return Ok(TextRead::InPart),
        }
        if values.is_none() && choices.iter().any(|change| change.parameters() > 0) {
            // It is prepared, and chooses when its values are bound.
            return Ok(TextRead::Whole);
        }
        let Some(wish) = Wish::of_all(&choices, values, &self.rules)? else { return Ok(TextRead::Whole) };
        let acting = self.find_for_text(&wish)?;
        if survey.is_some_and(|survey| self.course_here().through(survey.course).goes_on_behind_end()) {
            self.may_choose_behind_end(&acting, wish.span)?;
        }
        if acting.tenant() != self.choice.acting().tenant()
            && let Some(report) = self.pinned_elsewhere()
        {
            return Err(report);
        }
        self.metrics = Arc::clone(&acting.metrics);
        self.choice.choose_for_waiting(acting, wish.span);
        Ok(TextRead::Whole)
    }

    /// The reading of a text that holds choices, and names the setting of the tenant in its usual spelling or none.
    fn choices_in(&self, text: &[u8]) -> Option<Reading> {
        let claims = self.rules.claims().is_some_and(|claims| contains(text, claims.setting.as_bytes()));
        let may = claims
            || contains(text, self.rules.tenant_setting().as_bytes())
            || (contains(text, b"set_config(") && contains(text, b"$"));
        may.then_some(())?;
        self.read(text).ok().filter(|reading| reading.choices.is_some())
    }
}

/// Whether the messages are there that say what becomes of a text that chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextRead {
    /// They are, or it is no such text.
    Whole,
    /// More has to come.
    InPart,
}

/// Whether the statement of a Query, Parse or Bind runs; one that is prepared or bound for later does not. None: what
/// decides it has not come yet.
fn is_run(tag: Option<&u8>, behind: &[u8]) -> Option<bool> {
    let mut is_bound = tag != Some(&b'P');
    if tag == Some(&b'Q') {
        return Some(true);
    }
    for (tag, _) in whole_frames(behind) {
        match tag {
            b'D' => {}
            b'B' if !is_bound => is_bound = true,
            tag => return Some(tag == b'E' && is_bound),
        }
    }
    None
}

/// The Bind behind the Parse of the unnamed statement, if it is there already.
fn bind_behind(behind: &[u8]) -> Option<frontend::Bind<'_>> {
    let (_, body) = whole_frames(behind).find(|(tag, _)| *tag != b'D').filter(|(tag, _)| *tag == b'B')?;
    frontend::bind(body).filter(|bind| bind.statement.is_empty())
}

/// Whether a text may choose a tenant: it begins as SET and RESET do, or calls `set_config`. With a comment in front of
/// SET it is carried out on a server.
pub(super) fn may_choose(text: &[u8], rules: &Rules) -> bool {
    let begins =
        |text: &[u8], word: &[u8]| text.get(..word.len()).is_some_and(|it| it.eq_ignore_ascii_case(word));
    let text = text.trim_ascii_start();
    let calls = || {
        memchr::memchr_iter(b'_', text)
            .filter_map(|at| text.get(at.checked_sub(3)?..))
            .any(|rest| begins(rest, b"set_config"))
    };
    let may = begins(text, b"set") || begins(text, b"reset") || calls() || rules.may_call_chooser(text);
    text.len() <= MAX_CHOICE_BYTES && may
}
