//! Simple queries. A text goes on as it came, but for what the proxy puts in: the assertion of a plain context in front,
//! and behind a RESET what the client asked for at startup. Answers to these parts are hidden by their numbers.

use crate::fault::{Report, sqlstate};
use crate::guard::TenantChange;
use crate::guard::change::ChangedName;
use crate::relay::Conversation;
use crate::relay::core::portals::Unbind;
use crate::relay::core::replies::{Reply, Shown, Text, Then, Undo};
use crate::relay::core::segment::Segment;
use crate::relay::core::statements::{NOTHING, Reading};
use crate::relay::core::tenant_choice::too_late;
use crate::relay::core::wish::Wish;
use crate::relay::requests::begin::{Asserted, ContextEntered};
use crate::relay::requests::execute::DISCARD_STAND_IN;
use crate::relay::requests::{Taken, note_temporary};
use crate::sql::lexer::{Lexer, TokenKind};
use crate::sql::{Count, Reset, ResetStatement, SessionEffect, StatementKind, Survey, may_reset, resets};
use crate::upstream::ServerSide;
use crate::wire::backend::Status;
use crate::wire::encode;

/// What the proxy adds to a statement of a client's text.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) at: ResetStatement,
    /// Goes in front of it, with its semicolon.
    pub(super) front: Option<Vec<u8>>,
    /// Go behind it.
    behind: Vec<String>,
    /// Follows its completion.
    pub(super) then: Option<Then>,
}

impl Conversation {
    pub(super) fn query(&mut self, text: &[u8], server: &mut dyn ServerSide) -> Taken {
        self.try_query(text, server).unwrap_or_else(|report| {
            self.refuse_query(report, server);
            Taken::Yes
        })
    }

    fn try_query(&mut self, text: &[u8], server: &mut dyn ServerSide) -> Result<Taken, Report> {
        let Reading { survey, change, choices, footprint } = self.inspect(text)?;
        // A Query binds no parameter that could name the setting; PostgreSQL says so.
        let change = change.filter(|change| change.name == ChangedName::Tenant);
        if self.is_block_waiting()
            && self.segment == Segment::Between
            && (change.is_some() || self.reads_comments() || !may_follow_begin(survey))
        {
            return Ok(self.open_block(server));
        }
        if let Some(change) = change {
            self.query_choice(text, survey, &change, server)?;
            return Ok(Taken::Yes);
        }
        if let Some(wish) =
            choices.map(|choices| Wish::of_all(&choices, None, &self.rules)).transpose()?.flatten()
        {
            self.stays_with(&wish, (text, survey))?;
        }
        self.follow_comment(text, server)?;
        if let Some(report) = self.lack_of_tenant(text, survey) {
            return Err(report);
        }
        if let Some(footprint) = footprint {
            self.note_footprint(&footprint, text, &[])?;
            note_temporary(&footprint, server);
        }
        if let Some(known) =
            self.known_deallocated(text, survey, b"").and_then(|name| self.statements.remove(&name))
        {
            self.stand_in_for_query(NOTHING, Then::Deallocate(Box::new(known)), server);
            return Ok(Taken::Yes);
        }
        if survey.discards_all() && !self.is_in_failed_block() {
            if let Some(report) = self.lacks_own_transaction() {
                return Err(report);
            }
            let all = Box::new(self.statements.take_named());
            self.stand_in_for_query(DISCARD_STAND_IN, Then::DiscardAll(all), server);
            return Ok(Taken::Yes);
        }
        self.send_query(text, survey, server)?;
        Ok(Taken::Yes)
    }

    /// Sends something that changes nothing in the place of a Query that the proxy carries out.
    pub(super) fn stand_in_for_query(&mut self, text: &[u8], then: Then, server: &mut dyn ServerSide) {
        let added = self.ends_implicit_block(text, Count::One, server);
        self.begin(server);
        let mut sent = Text { then: [(0, then)].into(), ..Text::default() };
        let inserts: Vec<_> = added.into_iter().inspect(|_| sent.hidden.push(1)).collect();
        encode::query(server.parts().1, &sent.insert(text, &inserts));
        sent.closed = self.close_by_query(server);
        let text = sent;
        self.replies.push(Reply::Query(Box::new(text)));
    }

    /// Sends a text, with what the proxy puts in.
    fn send_query(&mut self, text: &[u8], survey: Survey, server: &mut dyn ServerSide) -> Result<(), Report> {
        let added = self.added(text, survey, server)?;
        let mut sent = Text::default();
        let mut inserts: Vec<(usize, Vec<u8>)> = Vec::new();
        let entered = self.enter_for_text((text, survey), (&mut sent, &mut inserts), server);
        let begin = self.block.open();
        self.note_effects(survey, server);
        if entered == ContextEntered::Before {
            let is_needed = begin.is_some() || may_read(survey);
            match server.context().assertion().filter(|_| is_needed) {
                Some(assertion) if takes_prefix(survey) || (begin.is_some() && !assertion.takes_snapshot) => {
                    inserts.push((0, assertion.text.to_vec()));
                    sent.hidden.push(0);
                }
                Some(_) => self.assert_context(Asserted::Apart, server),
                None => {}
            }
        }
        if let Some(begin) = begin {
            self.status = Status::Transaction;
            inserts.push((0, format!("{begin};").into_bytes()));
            sent.begin = Some(sent.hidden.len());
            sent.hidden.push(sent.hidden.len());
        }
        for Added { at, front, behind, then } in added {
            if let Some(front) = front {
                sent.hidden.push(at.index + sent.hidden.len());
                inserts.push((at.start, front));
            }
            if let Some(then) = then {
                sent.then.push_back((at.index + sent.hidden.len(), then));
            }
            for text in behind {
                sent.hidden.push(at.index + sent.hidden.len() + 1);
                inserts.push((at.end, format!(";{text}").into_bytes()));
            }
        }
        if let Some(last) = self.ends_implicit_block(text, survey.statements, server) {
            sent.hidden.push(sent.hidden.len() + 1);
            inserts.push(last);
        }
        let out = server.parts().1;
        if inserts.is_empty() {
            encode::query(out, text);
        } else {
            encode::query(out, &sent.insert(text, &inserts));
        }
        sent.closed = self.close_by_query(server);
        self.replies.push(Reply::Query(Box::new(sent)));
        Ok(())
    }

    /// What enters the context in front of a text.
    fn enter_for_text(
        &mut self,
        (text, survey): (&[u8], Survey),
        (sent, inserts): (&mut Text, &mut Vec<(usize, Vec<u8>)>),
        server: &mut dyn ServerSide,
    ) -> ContextEntered {
        if self.segment != Segment::Between {
            return ContextEntered::Nothing;
        }
        self.begin_course();
        let may_stand_behind = takes_prefix(survey) || self.block.is_waiting();
        let Some((sql, front)) = may_stand_behind.then(|| self.hand_over_in_text(text, server)).flatten()
        else {
            return self.hand_over_if_needed(server);
        };
        inserts.push((0, format!("{sql};").into_bytes()));
        sent.hidden.extend(0..front.statements);
        sent.front = Some(front);
        ContextEntered::Now
    }

    /// PostgreSQL 18 leaves the implicit transaction block of a pipeline open behind a Query of one statement, and then
    /// refuses the statement behind the next Sync (XX000), whoever sends it. Several statements end the block; what is
    /// added behind the last one of the text, and where.
    fn ends_implicit_block(
        &mut self,
        text: &[u8],
        statements: Count,
        server: &mut dyn ServerSide,
    ) -> Option<(usize, Vec<u8>)> {
        if self.segment != Segment::Open || self.status != Status::Idle || server.state().major_version() < 18
        {
            return None;
        }
        match statements {
            Count::One => {
                let end =
                    Lexer::new(text).filter(|token| token.kind != TokenKind::Semicolon).last()?.range().end;
                Some((end, [b";", NOTHING].concat()))
            }
            Count::Many => None,
            Count::None | Count::Unreadable => {
                self.loses_context = true;
                None
            }
        }
    }

    /// What the proxy adds to the statements of a text that reset settings or drop prepared statements, or why the text is
    /// refused.
    fn added(
        &mut self,
        text: &[u8],
        survey: Survey,
        server: &mut dyn ServerSide,
    ) -> Result<Vec<Added>, Report> {
        if survey.session_effect != SessionEffect::Maybe || !may_reset(text) {
            return Ok(Vec::new());
        }
        let (found, count) = resets(text);
        let mut all = Vec::new();
        let mut named = Vec::new();
        let mut keeps_statements = true;
        for at in found {
            match &at.what {
                Reset::Sequences => self.discard_sequences((&at, count), text, server)?,
                Reset::All if survey.statements == Count::Many => self.choose_login(),
                Reset::All | Reset::Setting(_) | Reset::Local(_) => {}
                Reset::Statement(name) => {
                    if keeps_statements && self.is_known(name) && !named.contains(name) {
                        named.push(name.clone());
                        all.push(Added { at, front: None, behind: Vec::new(), then: None });
                    }
                    continue;
                }
                Reset::Statements => keeps_statements = false,
            }
            let behind = self.put_back_after(&at.what, server);
            if !behind.is_empty() {
                all.push(Added { at, front: None, behind, then: None });
            }
        }
        if survey.statements == Count::Unreadable && !all.is_empty() {
            if Lexer::new(text).any(|token| token.kind == TokenKind::Unterminated) {
                // PostgreSQL refuses the whole text.
                return Ok(Vec::new());
            }
            return Err(Report::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "RESET and DEALLOCATE are not supported in a text whose statements cannot be told apart",
            )
            .hint("Send each as a statement of its own."));
        }
        self.take_deallocated(&mut all);
        Ok(all)
    }

    /// DISCARD SEQUENCES empties the register that holds a sealed context, so that the server needs a hand-over: nothing
    /// that could read a row may come between.
    fn discard_sequences(
        &mut self,
        (reset, count): (&ResetStatement, usize),
        text: &[u8],
        server: &mut dyn ServerSide,
    ) -> Result<(), Report> {
        if !server.context().is_sealed() {
            return Ok(());
        }
        let is_last = reset.index + 1 == count || only_gives_up(text, reset.end);
        if self.status != Status::Idle || !is_last {
            return Err(Report::new(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "DISCARD SEQUENCES is not supported in front of other statements",
            )
            .hint("Send it as a statement of its own, outside a transaction block."));
        }
        self.loses_context = true;
        Ok(())
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
        let (Some(wish), Some(stand_in)) = (change.wish(None, &self.rules)?, change.stand_in(text)) else {
            return Ok(());
        };
        let wish = self.settled(wish, Some(change));
        if self.segment == Segment::Open {
            // The Sync below would end what PostgreSQL skips behind an error.
            return Err(too_late("the statement stands behind others of its pipeline")
                .hint("Send Sync in front of it."));
        }
        self.begin(server);
        self.choose(&wish, (text, survey), server)?;
        self.note_effects(survey, server);
        self.close_by_query(server);
        let out = server.parts().1;
        encode::parse(out, "", &stand_in, &[0, 0]);
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
}

/// Whether a BEGIN may stand in front of a text in one Query: PostgreSQL reads the text as it does alone, and the statement
/// is none for which another stands in.
fn may_follow_begin(survey: Survey) -> bool {
    !matches!(survey.statements, Count::None) && survey.first != StatementKind::Deallocate
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
        && (survey.first.reads() || matches!(survey.first, K::Begin | K::CopyToStdout))
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
