//! Plans that do not fit their tables any more. PostgreSQL refuses to run a prepared statement whose columns DDL has
//! changed. The statement gets another id, so that every server prepares it anew; and if the client has seen nothing of
//! the segment and does not go by columns that it knows from before, the segment is sent again.

use crate::net::Channel;
use crate::relay::ledger::{Bound, Owed, Shown};
use crate::relay::{Conversation, CopyIn, Discard, Gate, HeldSync, Outcome, Renewal, Standing};
use crate::sql::StatementKind;
use crate::upstream::{StatementId, TenantServer};
use crate::wire::backend::{self, Status};

/// The place in `plancache.c` that raises the error.
const ROUTINE: &str = "RevalidateCachedQuery";

impl Conversation {
    /// Whether the error is of that kind and the client need not see it.
    pub(super) fn renews(&mut self, body: &[u8], client: &Channel, server: &mut TenantServer) -> bool {
        let field = |code| backend::error_field(body, code).unwrap_or_default();
        if field(b'C') != "0A000" || field(b'R') != ROUTINE {
            return false;
        }
        let Some((id, tells_columns)) = self.outdated() else { return false };
        self.statements.renew(id);
        let is_possible = client.input.is_marked()
            && self.status == Status::Idle
            && self.renewal == Renewal::No
            && !self.has_chosen();
        if !(tells_columns && is_possible) {
            return false;
        }
        self.renewal = Renewal::Awaited;
        self.copy_in = CopyIn::No;
        self.description.clear();
        let skipped = self.ledger.skip_to_sync();
        self.undo(skipped, Some(server.server()));
        if self.ledger.is_empty() {
            self.send_sync(server);
        }
        true
    }

    /// The statement whose turn it is, and whether the client learns its columns or does not know them yet.
    fn outdated(&self) -> Option<(StatementId, bool)> {
        let mut owed = self.ledger.of_server();
        match owed.next()? {
            Owed::Bind(Shown::Client, Some(Bound { id, is_known })) => {
                let is_described = matches!(owed.next(), Some(Owed::DescribePortal(Shown::Client)));
                Some((*id, !is_known || is_described))
            }
            Owed::DescribeStatement(id) => Some((*id, true)),
            _ => None,
        }
    }

    /// The server is ready: the segment begins again.
    pub(super) fn begin_again(&mut self, client: &mut Channel) {
        self.renewal = Renewal::Done;
        self.gate = Gate::Between;
        self.held = HeldSync::No;
        self.discard = Discard::No;
        self.may_copy = false;
        self.bound = StatementKind::Nothing;
        self.standing = Standing::Sure;
        self.outcome = Outcome::Open;
        client.input.rewind();
    }
}
