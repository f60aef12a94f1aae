//! DEALLOCATE of statements that the protocol prepared, which servers know by other names: something that changes nothing
//! runs in its place, and the proxy drops the statement.

use std::sync::Arc;

use crate::relay::Conversation;
use crate::relay::core::portals::Unbind;
use crate::relay::core::replies::{Reply, Shown, Then, Undo};
use crate::relay::core::statements::Statement;
use crate::relay::requests::simple::Added;
use crate::sql::{Count, Reset, StatementKind, Survey, deallocated};
use crate::upstream::{ServerSide, prepared_name};
use crate::wire::encode;

impl Conversation {
    /// Servers know the statements that the protocol prepared by other names: each of these is prepared under the
    /// client's name in front of its DEALLOCATE.
    pub(super) fn take_deallocated(&mut self, all: &mut [Added]) {
        for added in all {
            let Reset::Statement(name) = &added.at.what else { continue };
            let Some(known) = self.statements.remove(name) else { continue };
            let mut front = b"PREPARE \"".to_vec();
            for byte in name {
                front.extend_from_slice(if *byte == b'"' { b"\"\"" } else { std::slice::from_ref(byte) });
            }
            front.extend_from_slice(b"\" AS SELECT 1;");
            added.front = Some(front);
            added.then = Some(Then::Deallocate(Box::new(known)));
        }
    }

    /// A DEALLOCATE was prepared before the protocol gave the name in it to a statement: what runs in its place.
    pub(super) fn stand_in_for_deallocate(
        &mut self,
        statement: &Statement,
        server: &mut dyn ServerSide,
    ) -> Option<Arc<Statement>> {
        if statement.deallocates.is_some() {
            return None;
        }
        let name = self.known_deallocated(&statement.text, statement.survey(), b"")?;
        let stand_in = self.relay.interner.deallocation(&statement.text, name, statement.reading.clone());
        self.prepare(&stand_in, (Shown::Nobody, Undo::OnServer(stand_in.id)), server);
        Some(stand_in)
    }

    /// A portal runs a DEALLOCATE, and the protocol gave the name in it to a statement after the portal was bound: the
    /// portal is bound anew to what runs in its place.
    pub(super) fn bind_stand_in_for_deallocate(
        &mut self,
        portal: &[u8],
        statement: &Statement,
        server: &mut dyn ServerSide,
    ) -> Option<Arc<Statement>> {
        const NO_VALUES: &[u8] = &[0; 6];
        if self.is_in_failed_block() {
            // PostgreSQL looks at the block's state first.
            return None;
        }
        let stand_in = self.stand_in_for_deallocate(statement, server)?;
        let out = server.parts().1;
        encode::close(out, b'P', portal);
        encode::bind_renamed(out, portal, &prepared_name(stand_in.id), NO_VALUES);
        self.replies.push(Reply::OwnClose);
        self.replies.push(Reply::Bind(Shown::Nobody, Unbind::Nothing));
        self.portals.rebind(portal, &stand_in);
        Some(stand_in)
    }

    /// The name in a DEALLOCATE of a statement that servers know by another one. `own` is the name that the DEALLOCATE
    /// itself is about to be prepared under.
    pub(super) fn known_deallocated(&self, text: &[u8], survey: Survey, own: &[u8]) -> Option<Box<[u8]>> {
        if survey.first != StatementKind::Deallocate || survey.statements != Count::One {
            return None;
        }
        let name = deallocated(text)?;
        (self.is_known(&name) || (name == own && is_whole(own))).then(|| name.into())
    }

    /// Whether SQL of the client can name this statement, which the protocol prepared.
    pub(super) fn is_known(&self, name: &[u8]) -> bool {
        is_whole(name) && self.statements.named(name).is_some()
    }
}

/// PostgreSQL cuts names in SQL to `NAMEDATALEN` - 1 bytes, and names in messages not at all: a longer one is never that
/// of a statement.
fn is_whole(name: &[u8]) -> bool {
    const NAME_BYTES: usize = 64;
    name.len() < NAME_BYTES
}
