//! Reads statements token by token: whether each may stand there, and what the names behind a dot are.

use std::collections::HashSet;
use std::iter::Peekable;

use super::columns::{Columns, Names};
use super::frames::{Clause, Ended, Frame, Gives, ItemKind, Listed, Pending};
use super::words::CATALOGS;
use super::words::Meaning::{ClauseEnd, Control, Effect, Modifier, Query, Relation, Syntax};
use super::{MAX_DEPTH, is_known_function, is_plain, meaning, spelled};
use crate::sql::lexer::{Lexer, Token, TokenKind};

/// Words that stand between two relations and are no alias of the first.
const JOINS: [&[u8]; 7] = [b"cross", b"full", b"inner", b"left", b"natural", b"outer", b"right"];

/// What a name is by the token in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// A column, relation or function.
    Free,
    /// Behind `::` or COLLATE: parentheses behind it are those of a type.
    OfType,
    /// Behind AS: an alias, or in a CAST a type.
    BehindAs,
    /// Behind parentheses: in a select list an alias, if nothing follows it.
    BehindParentheses,
}

impl Position {
    /// Whether the name may be a column's or a function's.
    fn is_free(self) -> bool {
        matches!(self, Self::Free | Self::BehindParentheses)
    }
}

/// Reads statement by statement.
pub(super) struct TenantlessReader<'a> {
    tokens: Peekable<Lexer<'a>>,
    /// Names that WITH gives.
    queries: HashSet<Vec<u8>>,
    /// One for each open parenthesis, and the outermost.
    frames: Vec<Frame>,
    /// What the statement's parts call one another.
    names: Names,
}

impl<'a> TenantlessReader<'a> {
    /// In front of a text, of which WITH gives these names.
    pub(super) fn new(text: &'a [u8], queries: HashSet<Vec<u8>>) -> Self {
        let (frames, names) = (vec![Frame::default()], Names::default());
        Self { tokens: Lexer::new(text).peekable(), queries, frames, names }
    }

    /// Reads all statements; none if one may need a tenant.
    pub(super) fn reads_all(&mut self) -> Option<()> {
        while self.tokens.peek().is_some() {
            self.statement()?;
        }
        Some(())
    }

    /// Reads one statement with its semicolon; none if it may need a tenant.
    fn statement(&mut self) -> Option<()> {
        self.frames = vec![Frame::default()];
        self.names = Names::default();
        let first = self.tokens.find(|token| token.kind != TokenKind::Semicolon);
        let Some(first) = first else { return Some(()) };
        match (first.kind, meaning(&first)) {
            (TokenKind::Word, Some(Control)) => {
                let mut rest = self.tokens.by_ref().take_while(|token| token.kind != TokenKind::Semicolon);
                rest.all(|token| is_plain(&token)).then_some(())
            }
            (TokenKind::Word, Some(Query)) => {
                self.frame()?.begins(first.bytes);
                self.query()
            }
            (TokenKind::Open, _) => {
                self.frames.push(Frame::default());
                self.query()
            }
            _ => None,
        }
    }

    fn query(&mut self) -> Option<()> {
        // Two of them are a cast, one is within the bounds of a slice.
        let (mut before, mut colons): (Option<Token<'a>>, usize) = (None, 0);
        while let Some(token) = self.tokens.next() {
            match token.kind {
                TokenKind::Semicolon => break,
                TokenKind::Open => self.open(before.as_ref())?,
                TokenKind::Close => self.close()?,
                TokenKind::Comma => self.comma()?,
                TokenKind::Word | TokenKind::QuotedWord => {
                    self.word(&token, position(before.as_ref(), colons))?;
                }
                // Behind anything but a name it may call a function of one argument (`(value).function`).
                TokenKind::Dot => return None,
                _ if !is_plain(&token) => return None,
                _ => self.other(&token)?,
            }
            colons = if token.bytes == b":" { colons.saturating_add(1) } else { 0 };
            before = Some(token);
        }
        while let Some(frame) = self.frames.pop() {
            let ended = frame.ends(&mut self.names)?;
            match self.frames.last_mut() {
                Some(around) => around.takes_uses(ended.outer),
                None if ended.outer.is_empty() => {}
                None => return None,
            }
        }
        Some(())
    }

    fn open(&mut self, before: Option<&Token<'a>>) -> Option<()> {
        let is_body = before.is_some_and(|token| is_any(token, &[b"as", b"materialized"]));
        let Self { frames, names, .. } = self;
        let frame = frames.last_mut()?;
        let inside = if frame.clause == Clause::Expected {
            frame.clause = Clause::Joined;
            Frame::new(Clause::Expected, Gives::Item)
        } else {
            let query = if is_body { frame.query.take() } else { None };
            let gives = match query {
                None => Gives::Nothing,
                Some((name, None)) => Gives::Query(name, Listed::No),
                Some((name, Some(columns))) => {
                    names.query(name.clone(), columns);
                    Gives::Query(name, Listed::Yes)
                }
            };
            match &mut frame.pending {
                Some(pending) if pending.kind == ItemKind::Call => pending.kind = ItemKind::Called,
                _ => frame.settles(names)?,
            }
            Frame::new(Clause::Other, gives)
        };
        // Behind the name of a function they are a part of its call.
        if !before.is_some_and(|token| matches!(token.kind, TokenKind::Word | TokenKind::QuotedWord)) {
            frame.selects_other();
        }
        frames.push(inside);
        (frames.len() <= MAX_DEPTH).then_some(())
    }

    fn close(&mut self) -> Option<()> {
        let Ended { gives, columns, items, outer } = self.frames.pop()?.ends(&mut self.names)?;
        let frame = self.frames.last_mut()?;
        frame.takes_uses(outer);
        match gives {
            Gives::Item => {
                frame.pending = Some(Pending { name: None, columns, items, kind: ItemKind::Relation });
            }
            Gives::Query(name, Listed::No) => self.names.query(name, columns),
            Gives::Query(_, Listed::Yes) | Gives::Nothing => {}
        }
        Some(())
    }

    fn comma(&mut self) -> Option<()> {
        self.settle()?;
        let frame = self.frame()?;
        if frame.clause == Clause::Other {
            frame.ends_output();
        } else {
            frame.clause = Clause::Expected;
        }
        Some(())
    }

    fn other(&mut self, token: &Token<'a>) -> Option<()> {
        self.settle()?;
        let frame = self.frame()?;
        match token.bytes {
            b"*" => frame.selects(b"*"),
            _ => frame.selects_other(),
        }
        Some(())
    }

    fn word(&mut self, token: &Token<'a>, position: Position) -> Option<()> {
        let meaning = (token.kind == TokenKind::Word).then(|| meaning(token)).flatten();
        if self.frame()?.pending.is_some() {
            if is_any(token, &[b"as"]) && position != Position::BehindAs {
                return Some(());
            }
            if self.is_ordinality(token) {
                return self.ordinality();
            }
            let is_alias = token.kind == TokenKind::QuotedWord
                || (meaning.is_none() && !JOINS.iter().any(|word| token.bytes.eq_ignore_ascii_case(word)));
            if position == Position::BehindAs || is_alias {
                return self.alias(token);
            }
            // An alias as well.
            if is_any(token, &[b"values"]) {
                return None;
            }
            self.settle()?;
        }
        // The name of a relation.
        if is_any(token, &[b"values"]) && !self.is_open_next() {
            return None;
        }
        let frame = self.frame()?;
        match meaning {
            Some(Effect) => return None,
            Some(Query | ClauseEnd) => {
                frame.clause = Clause::Other;
                if meaning == Some(Query) {
                    frame.begins(token.bytes);
                    return Some(());
                }
                frame.ends_list();
                if is_any(token, &[b"union", b"intersect", b"except"]) {
                    let Self { frames, names, .. } = self;
                    frames.last_mut()?.ends_part(names)?;
                }
                return Some(());
            }
            Some(Relation) => {
                frame.ends_list();
                frame.clause = Clause::Expected;
                return Some(());
            }
            Some(Modifier) if frame.clause == Clause::Expected => return Some(()),
            Some(Syntax) => {
                if !is_any(token, &[b"as", b"distinct", b"all"]) {
                    frame.selects_other();
                }
                return Some(());
            }
            Some(Control | Modifier) | None => {}
        }
        self.name(token, position)
    }

    /// A name with its dots: of a column, relation, function or type.
    fn name(&mut self, token: &Token<'a>, position: Position) -> Option<()> {
        let mut name = vec![spelled(token)];
        while self.tokens.next_if(|next| next.kind == TokenKind::Dot).is_some() {
            match self.tokens.peek().map(|next| next.kind) {
                Some(TokenKind::Word | TokenKind::QuotedWord) => {
                    name.push(self.tokens.next().map(|part| spelled(&part))?);
                }
                // `t.*`
                _ => break,
            }
        }
        let is_call = self.tokens.peek().is_some_and(|next| next.kind == TokenKind::Open);
        let clause = self.frame()?.clause;
        match (clause, is_call) {
            (Clause::Expected, true) => return self.function(&name),
            (Clause::Expected, false) => return self.relation(&name),
            (Clause::Other | Clause::Joined, true) => self.may_be_called(&name, clause, position)?,
            (Clause::Other | Clause::Joined, false) if position.is_free() => self.column(&name)?,
            (Clause::Other | Clause::Joined, false) => {}
        }
        let listed = is_call.then(|| self.listed());
        let is_query = self.is_declaration(&name, clause);
        let last = name.pop()?;
        let frame = self.frame()?;
        match position {
            Position::BehindAs => frame.names_output(&last),
            Position::Free => frame.selects(&last),
            Position::BehindParentheses if name.is_empty() && !is_call && !is_test(&last) => {
                frame.may_name_output(&last);
            }
            Position::BehindParentheses | Position::OfType => frame.selects_other(),
        }
        if is_query {
            frame.declares(last.clone());
            frame.query = Some((last, listed));
        }
        Some(())
    }

    /// A name in front of parentheses: the columns of a WITH query or alias, a type, or a call.
    fn may_be_called(&self, name: &[Vec<u8>], clause: Clause, position: Position) -> Option<()> {
        let is_query = self.is_declaration(name, clause) && self.is_alias();
        (!position.is_free() || is_query || is_known_function(name)).then_some(())
    }

    /// Whether WITH gives this name here.
    fn is_declaration(&self, name: &[Vec<u8>], clause: Clause) -> bool {
        clause == Clause::Other
            && self.frames.last().is_some_and(Frame::is_with)
            && matches!(name, [name] if self.queries.contains(name))
    }

    /// Whether WITH has given this name to a query of these or outer parentheses.
    fn is_declared(&self, name: &[u8]) -> bool {
        self.frames.iter().any(|frame| frame.has_declared(name))
    }

    /// A name behind a dot is a call, unless it is a column of what stands in front of it.
    fn column(&mut self, name: &[Vec<u8>]) -> Option<()> {
        match name {
            [_] => Some(()),
            [alias, column] | [_, alias, column] => {
                let Self { frames, names, .. } = self;
                frames.last_mut()?.uses(alias, column, names)
            }
            _ => None,
        }
    }

    /// A relation in FROM.
    fn relation(&mut self, name: &[Vec<u8>]) -> Option<()> {
        self.is_known_relation(name).then_some(())?;
        let last = name.last()?;
        let is_query = name.len() == 1 && self.is_declared(last);
        let columns = if is_query { Columns::of_query(last) } else { Columns::of_relation(last) };
        self.awaits_alias(last, columns, ItemKind::Relation)
    }

    /// A function in FROM.
    fn function(&mut self, name: &[Vec<u8>]) -> Option<()> {
        is_known_function(name).then_some(())?;
        let last = name.last()?;
        self.awaits_alias(last, [last.clone()].into_iter().collect(), ItemKind::Call)
    }

    fn awaits_alias(&mut self, name: &[u8], columns: Columns, kind: ItemKind) -> Option<()> {
        let frame = self.frame()?;
        frame.clause = Clause::Joined;
        frame.pending = Some(Pending { name: Some(name.to_vec()), columns, items: Vec::new(), kind });
        Some(())
    }

    /// The alias of what stands in front of it, with or without its columns.
    fn alias(&mut self, token: &Token<'a>) -> Option<()> {
        let is_list = self.tokens.peek().is_some_and(|next| next.kind == TokenKind::Open);
        let listed = is_list.then(|| self.listed());
        let Self { frames, names, .. } = self;
        frames.last_mut()?.is_named(spelled(token), listed, names)
    }

    fn is_ordinality(&mut self, token: &Token<'a>) -> bool {
        is_any(token, &[b"with"]) && self.tokens.peek().is_some_and(|next| is_any(next, &[b"ordinality"]))
    }

    /// Behind WITH.
    fn ordinality(&mut self) -> Option<()> {
        let token = self.tokens.next()?;
        if let Some(pending) = &mut self.frame()?.pending {
            pending.columns.insert(spelled(&token));
        }
        Some(())
    }

    /// The names in the parentheses that follow: each that stands first, or behind a comma.
    fn listed(&self) -> Columns {
        let mut ahead = self.tokens.clone().skip(1).take_while(|token| token.kind != TokenKind::Close);
        let (mut names, mut is_next) = (Vec::new(), true);
        for token in ahead.by_ref() {
            match token.kind {
                TokenKind::Word | TokenKind::QuotedWord if is_next => names.push(spelled(&token)),
                _ => {}
            }
            is_next = token.kind == TokenKind::Comma;
        }
        names.into_iter().collect()
    }

    /// Whether the parentheses that follow hold nothing but names, as those of an alias do.
    fn is_alias(&self) -> bool {
        let mut ahead = self.tokens.clone().skip(1).take_while(|token| token.kind != TokenKind::Close);
        ahead.all(|token| matches!(token.kind, TokenKind::Word | TokenKind::QuotedWord | TokenKind::Comma))
            && !matches!(self.tokens.clone().nth(1), Some(token) if token.kind == TokenKind::Close)
    }

    fn is_known_relation(&self, name: &[Vec<u8>]) -> bool {
        match name {
            [name] => self.is_declared(name) || CATALOGS.find(name).is_some(),
            [schema, name] if schema == b"pg_catalog" => CATALOGS.find(name).is_some(),
            [schema, _] => schema == b"information_schema",
            _ => false,
        }
    }

    fn is_open_next(&mut self) -> bool {
        self.tokens.peek().is_some_and(|next| next.kind == TokenKind::Open)
    }

    fn settle(&mut self) -> Option<()> {
        let Self { frames, names, .. } = self;
        frames.last_mut()?.settles(names)
    }

    fn frame(&mut self) -> Option<&mut Frame> {
        self.frames.last_mut()
    }
}

fn position(before: Option<&Token<'_>>, colons: usize) -> Position {
    let Some(before) = before else { return Position::Free };
    match before.kind {
        TokenKind::Word if is_any(before, &[b"as"]) => Position::BehindAs,
        TokenKind::Word if is_any(before, &[b"collate"]) => Position::OfType,
        TokenKind::Punctuation if colons == 2 => Position::OfType,
        TokenKind::Close => Position::BehindParentheses,
        _ => Position::Free,
    }
}

/// ISNULL and NOTNULL end an expression, too.
fn is_test(name: &[u8]) -> bool {
    matches!(name, b"isnull" | b"notnull")
}

fn is_any(token: &Token<'_>, words: &[&[u8]]) -> bool {
    token.kind == TokenKind::Word && words.iter().any(|word| token.bytes.eq_ignore_ascii_case(word))
}
