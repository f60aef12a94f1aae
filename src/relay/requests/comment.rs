//! The tenant that a statement names in a comment, `/*tenant='acme'*/`, for users who may say it so. It holds as SET
//! LOCAL does: for the transaction that the statement begins or runs in, checked against the grant.

use std::sync::Arc;

use crate::fault::{Report, sqlstate};
use crate::relay::Conversation;
use crate::relay::core::block::Block;
use crate::relay::core::tenant_choice::Acting;
use crate::sql::{Said, commented};
use crate::upstream::{ServerSide, Span};
use crate::wire::{frame, frontend};

/// The key in the comment.
const KEY: &str = "tenant";

impl Conversation {
    /// Whether the client may name its tenant in comments.
    pub const fn reads_comments(&self) -> bool {
        self.session.policy().comments
    }

    /// Chooses for the transaction that this message begins, before a server is taken: the tenant may be on any.
    pub fn choose_by_comment(&mut self, message: &[u8]) -> Result<(), Report> {
        if !self.reads_comments() || self.block == Block::Failed {
            return Ok(());
        }
        if !self.is_block_waiting() {
            self.choice.take_back_comment();
        }
        self.metrics = Arc::clone(&self.choice.acting().metrics);
        let (tag, body) = (message.first(), frame::body(message));
        let statement;
        let text = match tag {
            Some(b'Q') => frontend::query(body),
            Some(b'P') => frontend::parse(body).map(|parse| parse.text),
            Some(b'B') => {
                statement = frontend::bind(body).and_then(|bind| self.statements.find(bind.statement));
                statement.as_ref().map(|statement| &*statement.text)
            }
            _ => None,
        };
        let Some(acting) = self.other_by_comment(text.unwrap_or_default())? else { return Ok(()) };
        if let Some(report) = self.pinned_elsewhere() {
            return Err(report);
        }
        self.metrics = Arc::clone(&acting.metrics);
        self.choice.lend(acting);
        Ok(())
    }

    /// The same for a statement that a server is there for already: behind BEGIN, or behind others of one segment.
    pub(super) fn follow_comment(&mut self, text: &[u8], server: &mut dyn ServerSide) -> Result<(), Report> {
        if !self.reads_comments() || self.is_in_failed_block() {
            return Ok(());
        }
        let Some(acting) = self.other_by_comment(text)? else { return Ok(()) };
        self.begin(server);
        self.move_to(&acting, Span::Transaction, server)
    }

    /// For whom a comment has the client act, if that is another than it acts for now.
    fn other_by_comment(&self, text: &[u8]) -> Result<Option<Arc<Acting>>, Report> {
        let tenant = match commented(text, KEY) {
            Said::Nothing => return Ok(None),
            Said::Value(tenant) => tenant,
            Said::Different => {
                return Err(Report::new(sqlstate::INVALID_AUTHORIZATION, "the comments name two tenants"));
            }
        };
        let acting = self.find(Some(&tenant))?;
        Ok((acting.tenant() != self.choice.acting().tenant()).then_some(acting))
    }
}
