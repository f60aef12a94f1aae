//! What the guard's verdict on a text means for the client that sent it.

use std::sync::Arc;

use crate::fault::Report;
use crate::guard::change::ChangedName;
use crate::guard::footprint::{Footprint, footprint};
use crate::guard::{CONTEXT_CHANGE, OPAQUE_NAME, Refusal, Verdict, choices, paired_settings, setting_calls};
use crate::relay::core::statements::Reading;
use crate::relay::{Conversation, refusal};
use crate::sql::SessionEffect;

/// What a client is told that may choose a tenant, and did so in a form that cannot be read exactly.
const READABLE_FORMS: &str = "A choice of tenant is carried out where it can be read exactly: \
    SET LOCAL setting = '…', SET setting = '…', SELECT set_config('setting', $1, true), \
    SELECT set_config($1, $2, true), with literals or parameters, as a statement of its own or in front of all that \
    could read a row.";

impl Conversation {
    /// What the guard says; of a change of tenant, only where its user may choose.
    pub(super) fn inspect(&mut self, text: &[u8]) -> Result<Reading, Report> {
        let (verdict, found) = match self.findings.take() {
            Some(findings) => (findings.verdict, Some(findings.footprint)),
            None => (self.relay.verdicts.inspect(text, &self.rules), None),
        };
        self.reading_of(text, verdict, found).map_err(|refused| self.refused(refused))
    }

    /// The report of a refusal by the guard, which is counted.
    pub(super) fn refused(&self, refused: Refusal) -> Report {
        self.metrics.refusal(refused.rule);
        let setting = self.rules.tenant_setting();
        let is_about_tenant = refused.rule == OPAQUE_NAME || refused.detail.contains(setting);
        if !is_about_tenant || !is_of_choices(&refused) || !self.choice.is_gateway() {
            return refusal(refused);
        }
        let detail = format!("{}; the tenant setting is {setting}", refused.detail);
        refusal(refused).detail(detail).hint(READABLE_FORMS)
    }

    pub(super) fn read(&self, text: &[u8]) -> Result<Reading, Refusal> {
        self.reading_of(text, self.relay.verdicts.inspect(text, &self.rules), None)
    }

    /// What the guard's verdict on a text means; its footprint, if that was read with it.
    fn reading_of(
        &self,
        text: &[u8],
        verdict: Verdict,
        found: Option<Footprint>,
    ) -> Result<Reading, Refusal> {
        match verdict {
            Verdict::Pass(survey) => {
                let leaves = survey.session_effect == SessionEffect::Maybe;
                let found = leaves.then(|| found.unwrap_or_else(|| footprint(text)));
                let footprint = found.filter(|found| !found.is_empty()).map(Arc::new);
                Ok(Reading { survey, change: None, choices: None, footprint })
            }
            Verdict::Tenant(survey, mut change) => {
                self.rules.resolve(&mut change)?;
                let change = self.has_chooser().then(|| Arc::new(change));
                Ok(Reading { survey, change, choices: None, footprint: None })
            }
            Verdict::Refuse(refused) => self.read_choices(text, refused),
        }
    }

    /// A text that was refused may hold changes of tenant beside other statements, or settings that are named when their
    /// values are bound.
    fn read_choices(&self, text: &[u8], refused: Refusal) -> Result<Reading, Refusal> {
        if !self.has_chooser() || !is_of_choices(&refused) {
            return Err(refused);
        }
        let footprint = Some(footprint(text)).filter(|found| !found.is_empty()).map(Arc::new);
        if let Some((survey, changes)) = choices(text, &self.rules) {
            return Ok(Reading { survey, change: None, choices: Some(changes.into()), footprint });
        }
        if let Some((survey, change)) = paired_settings(text, &self.rules) {
            return Ok(Reading { survey, change: None, choices: Some([change].into()), footprint });
        }
        let mut calls = setting_calls(text, &self.rules).ok_or(refused)?;
        let survey = calls.survey;
        let is_alone =
            calls.count == 1 && calls.changes.iter().all(|change| change.name != ChangedName::Claims);
        let change = if is_alone { calls.changes.pop().map(Arc::new) } else { None };
        let choices = change.is_none().then(|| calls.changes.into());
        Ok(Reading { survey, change, choices, footprint })
    }
}

/// Whether a text that is refused so may hold a choice of a tenant.
fn is_of_choices(refused: &Refusal) -> bool {
    [CONTEXT_CHANGE, OPAQUE_NAME].contains(&refused.rule)
}
