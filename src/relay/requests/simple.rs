//! Simple queries. A text goes on as it came, but for what the proxy puts in: the assertion of a plain context in front,
//! and behind a RESET what the client asked for at startup. Answers to these parts are hidden by their numbers.

use crate::fault::{Report, sqlstate};
use crate::guard::TenantChange;
use crate::relay::Conversation;
use crate::relay::core::portals::Unbind;
use crate::relay::core::replies::{Reply, Shown, Text, Then, Undo};
use crate::relay::core::segment::Segment;
use crate::relay::core::statements::{NOTHING, Reading};
use crate::relay::requests::{Entered, note_temporary};
use crate::sql::lexer::{Lexer, TokenKind};
use crate::sql::{Count, Reset, ResetStatement, SessionEffect, StatementKind, Survey, may_reset, resets};
use crate::upstream::ServerSide;
use crate::wire::backend::Status;
use crate::wire::encode;

impl Conversation {
    pub(super) fn query(&mut self, text: &[u8], server: &mut dyn ServerSide) {
        if let Err(report) = self.try_query(text, server) {
            self.refuse_query(report, server);
        }
    }

    fn try_query(&mut self, text: &[u8], server: &mut dyn ServerSide) -> Result<(), Report> {
        let Reading { survey, change, footprint } = self.inspect(text)?;
        if let Some(change) = change {
            return self.query_choice(text, survey, &change, server);
        }
        self.follow_comment(text, server)?;
        if let Some(report) = self.lack_of_tenant(survey) {
            return Err(report);
        }
        if let Some(footprint) = footprint {
            self.note_footprint(&footprint, text, &[])?;
            note_temporary(&footprint, server);
        }
        if let Some(name) = self.known_deallocated(text, survey) {
            self.deallocate(name, server);
            return Ok(());
        }
        self.send_query(text, survey, server)
    }

    /// Sends a text, with what the proxy puts in.
    fn send_query(&mut self, text: &[u8], survey: Survey, server: &mut dyn ServerSide) -> Result<(), Report> {
        let returned = self.returned(text, survey, server)?;
        let entered = match self.segment {
            Segment::Between => {
                self.begin_course();
                self.hand_over_if_needed(server)
            }
            Segment::Open | Segment::Closed | Segment::Skipping(_) => Entered::Nothing,
        };
        self.note_effects(survey, server);
        let mut sent = Text::default();
        let mut inserts: Vec<(usize, Vec<u8>)> = Vec::new();
        if entered == Entered::Before {
            let (_, out, context) = server.parts();
            if let Some(assertion) = context.assertion().filter(|_| may_read(survey)) {
                if takes_prefix(survey) {
                    inserts.push((0, assertion.text.to_vec()));
                    sent.hidden.push(0);
                } else {
                    encode::query(out, &assertion.text);
                    self.replies.push(Reply::OwnQuery);
                }
            }
        }
        for (at, texts) in returned {
            for added in texts {
                sent.hidden.push(at.index + sent.hidden.len() + 1);
                inserts.push((at.end, format!(";{added}").into_bytes()));
            }
        }
        let out = server.parts().1;
        if inserts.is_empty() {
            encode::query(out, text);
        } else {
            encode::query(out, &sent.insert(text, &inserts));
        }
        self.end_segment_by_query(server);
        self.replies.push(Reply::Query(Box::new(sent)));
        Ok(())
    }

    /// What the proxy adds behind the statements of a text that reset settings, or why the text is refused.
    fn returned(
        &mut self,
        text: &[u8],
        survey: Survey,
        server: &mut dyn ServerSide,
    ) -> Result<Vec<(ResetStatement, Vec<String>)>, Report> {
        if survey.session_effect != SessionEffect::Maybe || !may_reset(text) {
            return Ok(Vec::new());
        }
        let (found, count) = resets(text);
        let mut returned = Vec::new();
        for reset in found {
            match reset.what {
                Reset::Sequences => self.discard_sequences((&reset, count), text, server)?,
                Reset::All if survey.statements == Count::Many => self.choose_login(),
                Reset::All | Reset::Setting(_) | Reset::Local(_) => {}
            }
            let texts = self.put_back_after(&reset.what, server);
            if !texts.is_empty() {
                returned.push((reset, texts));
            }
        }
        if survey.statements == Count::Unreadable && !returned.is_empty() {
            return Err(Report::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "settings cannot be reset in a text whose statements cannot be told apart",
            )
            .hint("Send RESET as a statement of its own."));
        }
        Ok(returned)
    }

    /// DISCARD SEQUENCES empties the register that holds a sealed context, so that the server needs a hand-over: nothing
    /// that could read a row may come between.
    fn discard_sequences(
        &mut self,
        (reset, count): (&ResetStatement, usize),
        text: &[u8],
        server: &mut dyn ServerSide,
    ) -> Result<(), Report> {
        let is_last = reset.index + 1 == count || only_gives_up(text, reset.end);
        if server.context().is_sealed() && (self.status != Status::Idle || !is_last) {
            return Err(Report::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "DISCARD SEQUENCES is not supported in front of other statements",
            )
            .hint("Send it as a statement of its own, outside a transaction block."));
        }
        self.loses_context = true;
        Ok(())
    }

    /// DEALLOCATE as a simple query, of a statement that servers know by another name. A failed block refuses it.
    fn deallocate(&mut self, name: Box<[u8]>, server: &mut dyn ServerSide) {
        self.begin(server);
        self.end_segment_by_query(server);
        encode::query(server.parts().1, NOTHING);
        let text = Text { then: Then::Deallocate(name), ..Text::default() };
        self.replies.push(Reply::Query(Box::new(text)));
    }

    /// A change of tenant as Parse, Bind, Describe, Execute, Sync: the client gets the same frames. Behind the entry of
    /// the new context, which is no transaction of its own, a Query of one statement breaks the session's state on
    /// PostgreSQL 18.
    fn query_choice(
        &mut self,
        text: &[u8],
        survey: Survey,
        change: &TenantChange,
        server: &mut dyn ServerSide,
    ) -> Result<(), Report> {
        let wish = change.wish(None)?;
        self.begin(server);
        self.choose(&wish, server)?;
        self.note_effects(survey, server);
        self.end_segment_by_query(server);
        let out = server.parts().1;
        encode::parse(out, "", &change.stand_in(text), &[0, 0]);
        encode::bind_text(out, &[]);
        encode::describe(out, b'P', "");
        encode::execute_unnamed(out);
        encode::bare(out, b'S');
        for reply in [
            Reply::Parse(Shown::Nobody, Undo::Nothing),
            Reply::Bind(Shown::Nobody, Unbind::Nothing),
            Reply::DescribePortal(Shown::Nobody),
            Reply::Execute(Then::Nothing),
            Reply::Sync,
        ] {
            self.replies.push(reply);
        }
        Ok(())
    }

    /// A Query closes the unnamed statement and portal, and ends the segment.
    fn end_segment_by_query(&mut self, server: &mut dyn ServerSide) {
        self.statements.unnamed = None;
        self.portals.close_unnamed();
        server.state().unnamed = None;
        self.segment = Segment::Closed;
    }
}

/// Whether a text may read a row, so that the context has to stand.
fn may_read(survey: Survey) -> bool {
    use StatementKind as K;
    let is_alone = matches!(survey.statements, Count::One | Count::None);
    let reads_nothing = survey.first.ends_transaction()
        || matches!(
            survey.first,
            K::Nothing | K::Set | K::Reset | K::Discard | K::Deallocate | K::DeallocateAll | K::Unlisten
        );
    !(is_alone && reads_nothing)
}

/// Whether the assertion of a context may stand in front of a text in one Query. Statements of other kinds mean something
/// else in a text of several statements than alone.
fn takes_prefix(survey: Survey) -> bool {
    use StatementKind as K;
    survey.statements == Count::One
        && (survey.first.is_optimizable() || matches!(survey.first, K::Begin | K::CopyToStdout))
}

/// Whether all statements behind this place give up session state and do nothing else.
fn only_gives_up(text: &[u8], from: usize) -> bool {
    let rest = text.get(from..).unwrap_or_default();
    let mut tokens = Lexer::new(rest).peekable();
    while let Some(token) = tokens.next() {
        if token.kind == TokenKind::Semicolon {
            continue;
        }
        let is = |word: &[u8]| token.kind == TokenKind::Word && token.bytes.eq_ignore_ascii_case(word);
        let gives_up = [&b"discard"[..], b"reset", b"close", b"unlisten", b"deallocate"].into_iter().any(is);
        if !gives_up {
            return false;
        }
        while tokens.next_if(|token| token.kind != TokenKind::Semicolon).is_some() {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_up_session_state_is_told_from_what_may_read() {
        for (rest, expected) in [
            ("", true),
            (";DISCARD TEMP", true),
            ("; discard plans; UNLISTEN *;;CLOSE ALL; RESET ALL", true),
            (";SELECT 1", false),
            (";DISCARD TEMP;SELECT 1", false),
            ("; \"discard\" x", false),
        ] {
            assert_eq!(only_gives_up(rest.as_bytes(), 0), expected, "{rest}");
        }
    }
}
