//! What PostgreSQL tells of statements and portals: passed on, learned, or compared with what a client was told before.

use std::sync::Arc;

use crate::relay::answers::{Disposition, disposition};
use crate::relay::core::description::Description;
use crate::relay::core::replies::{Reply, Shown};
use crate::relay::core::segment::AwaitedReply;
use crate::relay::core::statements::Statement;
use crate::relay::{Conversation, RelayFault};
use crate::upstream::{ServerSide, prepared_name};
use crate::wire::encode;

impl Conversation {
    pub(super) fn described(
        &mut self,
        tag: u8,
        body: &[u8],
        server: &mut dyn ServerSide,
    ) -> Result<Disposition, RelayFault> {
        match self.replies.front() {
            Some(Reply::Query(text)) if tag == b'T' => {
                return Ok(if text.is_hidden() { Disposition::Swallow } else { Disposition::Forward });
            }
            Some(Reply::Own(_) | Reply::OwnQuery | Reply::Reset(_) | Reply::OpenBlock(_)) => {
                return Ok(Disposition::Swallow);
            }
            Some(Reply::DescribeStatement(shown, ..)) if tag == b't' => {
                let shown = *shown;
                self.untold.types = body.into();
                return Ok(disposition(shown));
            }
            Some(Reply::DescribeStatement(..) | Reply::DescribePortal(_)) if tag != b't' => {}
            _ => return Err(RelayFault::Doubt("a description that nothing asked for")),
        }
        match self.replies.pop() {
            Some(Reply::DescribePortal(Shown::Nobody)) if tag == b'n' => Ok(Disposition::Swallow),
            Some(Reply::DescribeStatement(shown, name, statement)) => {
                self.learn((&name, &statement), (tag == b'T').then_some(body), server)?;
                Ok(disposition(shown))
            }
            _ => Ok(Disposition::Forward),
        }
    }

    /// PostgreSQL has described a client's statement: for the first time, or after it was prepared again.
    fn learn(
        &mut self,
        (name, statement): (&[u8], &Arc<Statement>),
        columns: Option<&[u8]>,
        server: &mut dyn ServerSide,
    ) -> Result<(), RelayFault> {
        let types = std::mem::take(&mut self.untold.types);
        let description = Description::read(&types, columns)
            .ok_or(RelayFault::Doubt("the server sent a malformed description"))?;
        let known = statement.description.get_or_init(|| description.clone());
        let is_compared = self.hold == Some(AwaitedReply::Description);
        if is_compared {
            self.hold = None;
        }
        if *known == description {
            if let Some(shared) = self.statements.share(name, statement) {
                server.state().adopt_prepared(shared, statement.id);
            }
        } else if is_compared {
            self.untold.changed = Some(statement.id);
            let (state, out, _) = server.parts();
            if name.is_empty() {
                state.unnamed = None;
            } else if let Some(copy) = state.remove_prepared(statement.id) {
                encode::close(out, b'S', prepared_name(copy));
                self.replies.push(Reply::CloseStatement(copy));
            }
        }
        Ok(())
    }
}
