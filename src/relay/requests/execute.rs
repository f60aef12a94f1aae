//! Execute: what a portal's statement does to its session and its tenant is done or noted when it runs, not when it is
//! bound.

use std::sync::Arc;

use crate::fault::{Report, sqlstate};
use crate::relay::Conversation;
use crate::relay::core::portals::Ran;
use crate::relay::core::replies::{Reply, Then};
use crate::relay::core::segment::{AwaitedReply, Executed, Segment};
use crate::relay::core::statements::Statement;
use crate::relay::requests::extended::{no_statement, no_unnamed_portal};
use crate::relay::requests::note_temporary;
use crate::sql::{Reset, StatementKind};
use crate::upstream::{Context, Expect, ServerSide};
use crate::wire::backend::Status;
use crate::wire::encode;

/// Stands for DISCARD ALL, which cannot run behind what asserts the context, and would return to the proxy's own settings:
/// allowed where that is, and without rows. The session is reset before its next transaction.
pub(super) const DISCARD_STAND_IN: &[u8] = b"DISCARD TEMP";

/// How much of a statement's text is looked at when it runs.
const BEGINNING_BYTES: usize = 4096;

impl Conversation {
    pub(super) fn execute(&mut self, name: &[u8], whole: &[u8], server: &mut dyn ServerSide) {
        self.begin(server);
        let Some(portal) = self.portals.get(name) else {
            if name.is_empty() {
                return self.refuse_message(no_unnamed_portal(), server);
            }
            // A cursor, or nothing that PostgreSQL knows.
            return self.send(whole, Reply::Execute(Then::Nothing), server);
        };
        let mut statement = Arc::clone(&portal.statement);
        if portal.ran == Ran::ToItsEnd {
            // PostgreSQL says so, whatever stands in for it.
            return self.send(whole, Reply::Execute(Then::Nothing), server);
        }
        let (names, wish) = (portal.names.clone(), portal.wish.clone());
        if let Err(report) = self.before_execute(&statement, (&names, wish.as_ref()), server) {
            return self.refuse_message(report, server);
        }
        if let Some(stand_in) = self.bind_stand_in_for_deallocate(name, &statement, server) {
            statement = stand_in;
        }
        let survey = statement.survey();
        let then = match self.then_of(&statement, server) {
            Ok(then) => then,
            Err(report) => return self.refuse_message(report, server),
        };
        if !matches!(then, Then::Nothing) {
            self.portals.end(name);
        }
        let discards = matches!(then, Then::DiscardAll(_));
        self.send(whole, Reply::Execute(then), server);
        if discards {
            // It commits at once: what follows is in another transaction, and no portal lasts.
            self.executed = Executed::Nothing;
            for portal in self.portals.take_all() {
                encode::close(server.parts().1, b'P', &portal);
                self.replies.push(Reply::OwnClose);
            }
        }
        self.after_execute(&statement, server);
        if survey.first == StatementKind::CopyFromStdin {
            self.hold = Some(AwaitedReply::CopyStart);
        }
    }

    /// What follows the completion of a portal's statement, or why it may not run.
    fn then_of(&mut self, statement: &Statement, server: &mut dyn ServerSide) -> Result<Then, Report> {
        let survey = statement.survey();
        if self.is_in_failed_block() {
            // PostgreSQL looks at the block's state first.
            return Ok(Then::Nothing);
        }
        let lacks = self.lacks_own_transaction().filter(|_| survey.discards_all());
        // The end of a transaction leaves the next one without statements.
        let ends_its_transaction =
            survey.first.ends_transaction() || survey.first == StatementKind::PrepareTransaction;
        self.executed = if ends_its_transaction { Executed::Nothing } else { Executed::Something };
        if let Some(report) = lacks {
            return Err(report);
        }
        if let Some(name) = &statement.deallocates {
            let known = self.statements.remove(name).ok_or_else(|| no_statement(name))?;
            return Ok(Then::Deallocate(Box::new(known)));
        }
        Ok(match survey.first {
            StatementKind::DiscardAll if survey.discards_all() => {
                Then::DiscardAll(Box::new(self.statements.take_named()))
            }
            StatementKind::DeallocateAll => {
                Then::DeallocateAll(Box::new((self.statements.take_named(), server.state().deallocate_all())))
            }
            _ => Then::Nothing,
        })
    }

    /// PostgreSQL's words for a DISCARD ALL that is not alone in its transaction (`PreventInTransactionBlock`).
    pub(in crate::relay) fn lacks_own_transaction(&self) -> Option<Report> {
        let why = if self.course_here().is_in_block() {
            "run inside a transaction block"
        } else if self.segment == Segment::Open && self.executed == Executed::Something {
            "be executed within a pipeline"
        } else {
            return None;
        };
        Some(Report::new(sqlstate::ACTIVE_SQL_TRANSACTION, format!("DISCARD ALL cannot {why}")))
    }

    /// What a portal's statement does to its session and its tenant is done or noted when it runs.
    fn before_execute(
        &mut self,
        statement: &Statement,
        (names, wish): (&[Option<String>], Option<&crate::relay::core::wish::Wish>),
        server: &mut dyn ServerSide,
    ) -> Result<(), Report> {
        if let Some(report) = self.lack_of_tenant_for(&statement.text, &statement.reading) {
            return Err(report);
        }
        if let Some(footprint) = &statement.reading.footprint {
            // One statement, of which the beginning is shown: a long text is not read each time.
            let beginning = statement.text.get(..BEGINNING_BYTES).unwrap_or(&statement.text);
            self.note_footprint(footprint, beginning, names)?;
            note_temporary(footprint, server);
        }
        if let Some(wish) = wish {
            self.choose(wish, (&statement.text, statement.survey()), server)?;
        }
        let discards_sequences = statement.survey().first == StatementKind::Discard
            && statement.resets.iter().any(|reset| reset.what == Reset::Sequences);
        if discards_sequences && server.context().is_sealed() {
            if self.status != Status::Idle {
                return Err(Report::new(
                    sqlstate::FEATURE_NOT_SUPPORTED,
                    "DISCARD SEQUENCES is not supported in a transaction block",
                )
                .hint("Send it outside a transaction block."));
            }
            self.loses_context = true;
        }
        self.note_effects(statement.survey(), server);
        Ok(())
    }

    /// Behind a statement that resets settings goes, in the same write, what the client asked for at startup.
    fn after_execute(&mut self, statement: &Statement, server: &mut dyn ServerSide) {
        for reset in &statement.resets {
            for text in self.put_back_after(&reset.what, server) {
                let (state, out, _) = server.parts();
                state.unnamed = None;
                Context::write_beside(out, &text);
                self.replies.push(Reply::Own(Expect::Nothing));
                self.replies.push(Reply::OwnClose);
            }
        }
    }
}
