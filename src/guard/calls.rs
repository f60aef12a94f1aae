//! Follows the arguments of `set_config` through a text, in the pass that reads it: each call waits for its third
//! argument while others go on inside it.

use super::footprint::{Footprint, Name, State, Touch, Verb};
use super::setting::plain_literal;
use crate::sql::lexer::{Token, TokenKind};

/// How many calls may stand inside one another before what they set counts as a setting of unknown name.
const MAX_NESTED: usize = 32;

/// The calls that have not ended yet.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: Vec<Call>,
    /// How many brackets are open.
    depth: usize,
    next: Next,
}

/// What the next token is to a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Other,
    /// The bracket behind the function's name.
    Bracket,
    /// The first token of the first argument, the setting's name.
    Name,
    /// A cast of the name, or its end.
    BehindName,
    /// The first token of the third argument, which says for how long.
    Locality,
}

#[derive(Debug)]
struct Call {
    /// The depth inside its brackets.
    depth: usize,
    commas: u8,
    /// None: it cannot be told.
    name: Option<Name>,
}

// === impl Calls ===

impl Calls {
    /// The function's name was the last token.
    pub(super) fn begin(&mut self) {
        self.next = Next::Bracket;
    }

    /// Takes the next token.
    pub(super) fn feed(&mut self, token: &Token<'_>, found: &mut Footprint) {
        match std::mem::take(&mut self.next) {
            Next::Other => {}
            Next::Bracket => self.take_bracket(token, found),
            Next::Name => self.take_name(token),
            Next::BehindName => self.take_behind_name(token),
            Next::Locality => {
                let call = self.open.pop();
                let is_local = token.kind == TokenKind::Word && token.bytes.eq_ignore_ascii_case(b"true");
                if !is_local && let Some(call) = call {
                    call.end(found);
                }
            }
        }
        match (token.kind, token.bytes) {
            (TokenKind::Open, _) | (TokenKind::Punctuation, b"[") => {
                self.depth = self.depth.saturating_add(1);
            }
            (TokenKind::Close, _) | (TokenKind::Punctuation, b"]") => self.close(found),
            (TokenKind::Comma, _) => self.comma(),
            (TokenKind::Semicolon, _) => self.end(found),
            _ => {}
        }
    }

    /// The command is over.
    pub(super) fn end(&mut self, found: &mut Footprint) {
        for call in self.open.drain(..) {
            call.end(found);
        }
        self.depth = 0;
    }

    fn take_bracket(&mut self, token: &Token<'_>, found: &mut Footprint) {
        if token.kind != TokenKind::Open {
            return;
        }
        if self.open.len() >= MAX_NESTED {
            found.states.add(State::Setting);
            return;
        }
        self.open.push(Call { depth: self.depth.saturating_add(1), commas: 0, name: None });
        self.next = Next::Name;
    }

    fn take_name(&mut self, token: &Token<'_>) {
        if let Some(call) = self.open.last_mut() {
            call.name = name(token);
            self.next = Next::BehindName;
        }
    }

    /// A name that something is done to is another name.
    fn take_behind_name(&mut self, token: &Token<'_>) {
        if is_text_cast(token) {
            self.next = Next::BehindName;
        } else if token.kind != TokenKind::Comma
            && let Some(call) = self.open.last_mut()
        {
            call.name = None;
        }
    }

    fn comma(&mut self) {
        let depth = self.depth;
        if let Some(call) = self.open.last_mut().filter(|call| call.depth == depth) {
            call.commas = call.commas.saturating_add(1);
            if call.commas == 2 {
                self.next = Next::Locality;
            }
        }
    }

    fn close(&mut self, found: &mut Footprint) {
        self.depth = self.depth.saturating_sub(1);
        while let Some(call) = self.open.pop_if(|call| call.depth > self.depth) {
            call.end(found);
        }
    }
}

impl Call {
    fn end(self, found: &mut Footprint) {
        match self.name {
            Some(name) => found.touch(Touch { name, verb: Verb::Set }),
            None => found.states.add(State::Setting),
        }
    }
}

fn name(token: &Token<'_>) -> Option<Name> {
    if token.kind == TokenKind::Parameter {
        let digits = token.bytes.get(1..).and_then(|digits| std::str::from_utf8(digits).ok());
        return digits.and_then(|digits| digits.parse().ok()).map(Name::Parameter);
    }
    String::from_utf8(plain_literal(token)?.to_ascii_lowercase()).ok().map(Name::Is)
}

/// `::text` and what else a name may be cast to without becoming another.
fn is_text_cast(token: &Token<'_>) -> bool {
    token.bytes == b":"
        || ["text", "varchar"].iter().any(|name| token.bytes.eq_ignore_ascii_case(name.as_bytes()))
}
