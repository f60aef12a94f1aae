//! Requests that are answered without a server, because the answer is known: a BEGIN, which waits for the first statement
//! behind it; the end of a block in which nothing has run; and the choice of a tenant, which the proxy carries out itself.
//! Only whole segments, whose texts and values are plain ASCII: those read the same in every encoding. Of a segment of
//! several statements those in front are answered, from BEGIN on; what is left of it is a segment for a server.

use std::sync::Arc;

use crate::fault::Report;
use crate::guard::change::{Called, Form, TenantChange};
use crate::relay::Conversation;
use crate::relay::core::block::Block;
use crate::relay::core::statements::{Named, Statement};
use crate::relay::core::wish::Wish;
use crate::relay::requests::ClientSide;
use crate::relay::requests::choice::may_choose;
use crate::sql::block::{Begin, BlockStatement};
use crate::sql::{Count, StatementKind};
use crate::upstream::Span;
use crate::wire::backend::Status;
use crate::wire::encode::AnswerType;
use crate::wire::{encode, frame, frontend};

/// PostgreSQL cuts names after so many bytes.
const MAX_NAME_BYTES: usize = 63;

/// A statement in front of a segment, as it stands in the client's buffer.
#[derive(Debug, Default)]
struct OneStatement<'a> {
    /// Bytes of it, and of the Sync behind it.
    total: usize,
    place: Place,
    /// The text of a Query.
    text: Option<&'a [u8]>,
    /// Its Parse.
    parse: Option<frontend::Parse<'a>>,
    /// The statement that is bound, if it was parsed before.
    bound: Option<Arc<Statement>>,
    /// What follows the names in its Bind.
    values: Option<&'a [u8]>,
    described: Described,
    /// The most rows that its Execute asks for, all if not positive; none: there is no Execute.
    max_rows: Option<i32>,
}

/// Where a statement stands in its segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Others follow it.
    #[default]
    InFront,
    /// The segment ends with it.
    Last,
}

/// What is described.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Described {
    /// Nothing.
    #[default]
    Nothing,
    /// The statement.
    Statement,
    /// The portal.
    Portal,
}

/// What is done and answered.
#[derive(Debug)]
enum Known {
    /// A statement is prepared; the types of its parameters, and its column.
    Prepared(Vec<u32>, Option<(Box<[u8]>, AnswerType)>),
    /// A block begins.
    Begin(Begin),
    /// A block ends in which nothing has run.
    End(Status),
    /// A tenant is chosen.
    Choice(Arc<TenantChange>, Wish),
}

/// The row of a `set_config` or of a chooser function.
struct Row<'a> {
    column: &'a [u8],
    kind: AnswerType,
    value: &'a [u8],
    /// 0: text, 1: binary. A text is the same in both.
    format: u16,
}

impl Conversation {
    /// The status that the client was told last.
    pub fn told(&self) -> Status {
        self.block.status().unwrap_or(self.status)
    }

    /// Whether the client is in a block that no server has.
    pub fn is_block_waiting(&self) -> bool {
        self.block != Block::Served
    }

    /// A request of the client was refused, or lost with its server. A block that no server had has failed; without one, the
    /// transaction did not begin.
    pub fn fail_block(&mut self) {
        self.block.fail();
        self.choice.roll_back();
        if self.block == Block::Served {
            self.end_transaction();
        }
    }

    /// Answers the statement in front, if its answer is known; or why it is refused. None: it needs a server, or more of
    /// its segment has to come first.
    pub fn answer_without_server(&mut self, client: &mut ClientSide<'_>) -> Option<Result<(), Report>> {
        let bytes = client.input.bytes();
        let segment = self.read_segment(bytes)?;
        let known = self.known_answer(&segment)?;
        if segment.place == Place::InFront && self.block == Block::Served {
            // A choice may fail together with what follows.
            matches!(known, Known::Begin(_) | Known::Prepared(..)).then_some(())?;
        }
        let parsed = match &segment.parse {
            Some(parse) => Some((parse.name.into(), self.parsed_here(parse)?)),
            None => None,
        };
        let answers = match self.carry_out(known, &segment) {
            Ok(answers) => answers,
            Err(report) => return Some(Err(report)),
        };
        let (total, is_query, place) = (segment.total, segment.text.is_some(), segment.place);
        let is_bound = segment.values.is_some();
        if let Some((name, statement)) = parsed {
            self.keep_parsed(name, statement);
        }
        if is_query {
            self.statements.unnamed = None;
        }
        if is_query || is_bound {
            self.portals.close_unnamed();
        }
        client.input.consume(total);
        self.metrics.bytes_in(total);
        self.metrics.bytes_out(answers.len());
        client.output.space().extend_from_slice(&answers);
        if place == Place::Last {
            encode::ready_for_query(client.output.space(), self.told().byte());
        }
        Some(Ok(()))
    }

    /// The statement in front, if it runs on the unnamed portal and its segment is there as a whole.
    fn read_segment<'a>(&self, bytes: &'a [u8]) -> Option<OneStatement<'a>> {
        let mut segment = OneStatement::default();
        loop {
            let rest = bytes.get(segment.total..)?;
            let header = frame::header(rest).ok()??;
            let body = frame::body(rest.get(..header.total)?);
            segment.total = segment.total.checked_add(header.total)?;
            let is_run = segment.max_rows.is_some();
            match header.tag {
                b'Q' if segment.total == header.total => {
                    segment.place = Place::Last;
                    segment.text = Some(frontend::query(body)?).filter(|text| self.may_be_known(text));
                    return segment.text.is_some().then_some(segment);
                }
                b'P' if segment.total == header.total => {
                    let parse = frontend::parse(body).filter(|parse| self.may_be_known(parse.text))?;
                    segment.parse = Some(parse);
                }
                b'B' if segment.values.is_none() => {
                    let bind = frontend::bind(body).filter(|bind| bind.portal.is_empty())?;
                    if let Some(parse) = &segment.parse {
                        (parse.name == bind.statement).then_some(())?;
                    } else {
                        let statement = self.statements.find(bind.statement)?;
                        segment.bound = Some(statement).filter(|statement| may_be_known_statement(statement));
                        segment.bound.as_ref()?;
                    }
                    segment.values = Some(bind.rest);
                }
                b'D' if !is_run && segment.described == Described::Nothing => {
                    segment.described = segment.describes(&frontend::target(body)?)?;
                }
                b'E' if segment.values.is_some() && !is_run => {
                    frontend::execute(body).filter(|portal| portal.is_empty())?;
                    segment.max_rows = Some(i32::from_be_bytes(*body.last_chunk()?));
                }
                // A driver that prepares first asks for the answers, and sends the rest of the segment behind them.
                b'H' if segment.parse.is_some() && segment.values.is_none() => return Some(segment),
                b'S' if is_run || (segment.parse.is_some() && segment.values.is_none()) => {
                    segment.place = Place::Last;
                    return Some(segment);
                }
                b'P' | b'B' if is_run && is_whole(rest) => {
                    segment.total -= header.total;
                    return Some(segment);
                }
                _ => return None,
            }
        }
    }

    /// Whether the answer to a text may be known; most are told apart by their first bytes.
    fn may_be_known(&self, text: &[u8]) -> bool {
        text.is_ascii()
            && (BlockStatement::may_be(text) || (self.has_chooser() && may_choose(text, &self.rules)))
    }

    fn known_answer(&mut self, segment: &OneStatement<'_>) -> Option<Known> {
        let text: &[u8] = match (&segment.bound, &segment.parse) {
            (Some(statement), _) => &statement.text,
            (None, Some(parse)) => parse.text,
            (None, None) => segment.text?,
        };
        if let Some(parse) = segment.parse.as_ref().filter(|_| segment.values.is_none()) {
            return self.known_preparation(parse);
        }
        if let Some(statement) = BlockStatement::read(text) {
            return match (statement, self.block) {
                (BlockStatement::Begin(begin), Block::Served) if !self.keeps_server() => {
                    Some(Known::Begin(begin))
                }
                (BlockStatement::Commit, Block::Waiting(_)) => Some(Known::End(Status::Transaction)),
                (BlockStatement::Rollback, Block::Waiting(_))
                | (BlockStatement::Commit | BlockStatement::Rollback, Block::Failed) => {
                    Some(Known::End(Status::Failed))
                }
                _ => None,
            };
        }
        if !self.has_chooser() || self.block == Block::Failed || !may_choose(text, &self.rules) {
            return None;
        }
        let change = if let Some(statement) = &segment.bound {
            statement.reading.change.clone()?
        } else {
            // A refusal is left to where everything else is refused.
            let reading = self.read(text).ok()?;
            let types = segment.parse.as_ref().map_or(&[0, 0][..], |parse| parse.types);
            let is_unfit = reading.unfit(types).is_some();
            reading.change.filter(|_| !is_unfit)?
        };
        let wish = change.wish(segment.values, &self.rules).ok()??;
        if let Some(name) = change.name.parameter().zip(segment.values)
            && let Some(Some(name)) = frontend::parameter(name.1, name.0)
            && !self.rules.is_tenant_setting(name)
        {
            // Claims are set where they can be read.
            return None;
        }
        let wish = self.settled(wish, Some(&change));
        let is_settled = wish.span == Span::Session || self.block != Block::Served;
        let is_plain = match (change.form, &wish.tenant) {
            (form, None) => !form.is_select(),
            (_, Some(value)) => value.is_ascii(),
        };
        let is_whole = segment.max_rows.is_none_or(|rows| rows <= 0) || !change.form.is_select();
        let fits = change.column.is_ascii()
            && change.column.len() <= MAX_NAME_BYTES
            && segment
                .values
                .is_none_or(|values| frontend::parameter_count(values) == Some(change.parameters()));
        (is_settled && is_plain && is_whole && fits).then_some(Known::Choice(change, wish))
    }

    /// What PostgreSQL says of a statement that is prepared and not run. One that chooses a tenant takes texts, and a
    /// boolean for how long.
    fn known_preparation(&self, parse: &frontend::Parse<'_>) -> Option<Known> {
        const TEXT: u32 = 25;
        const BOOL: u32 = 16;
        if self.block == Block::Failed {
            return None;
        }
        let declared = u16::from_be_bytes(*parse.types.first_chunk()?);
        if BlockStatement::read(parse.text).is_some() {
            return (declared == 0).then(|| Known::Prepared(Vec::new(), None));
        }
        let change = self.has_chooser().then(|| self.read(parse.text).ok()?.change).flatten()?;
        // A cast, or two uses of a parameter, may give it another type, or an error.
        let texts = [change.name.parameter(), change.target.parameter()];
        let scope = change.scope.parameter();
        let has_cast =
            parse.text.contains(&b':') || parse.text.to_ascii_lowercase().windows(4).any(|at| at == b"cast");
        if has_cast || (scope.is_some() && texts.contains(&scope)) {
            return None;
        }
        let mut types = vec![0; usize::from(change.parameters())];
        for (number, own) in texts.map(|number| (number, TEXT)).into_iter().chain([(scope, BOOL)]) {
            if let Some(place) = number.and_then(|number| types.get_mut(usize::from(number).checked_sub(1)?))
            {
                *place = own;
            }
        }
        let fits = |number: u16, own: u32| {
            let declared = frontend::parameter_type(parse.types, number).unwrap_or_default();
            own != 0 && (declared == 0 || declared == own)
        };
        let is_known =
            usize::from(declared) <= types.len() && (1..).zip(&types).all(|(number, own)| fits(number, *own));
        let column = change.form.is_select().then(|| (change.column.clone(), type_of(change.form)));
        let is_told = column.as_ref().is_none_or(|(name, _)| name.is_ascii() && name.len() <= MAX_NAME_BYTES);
        (is_known && is_told).then_some(Known::Prepared(types, column))
    }

    /// Does what the statement does; its answers, but for the last one.
    fn carry_out(&mut self, known: Known, segment: &OneStatement<'_>) -> Result<Vec<u8>, Report> {
        match known {
            Known::Prepared(types, column) => Ok(segment.prepared(&types, column.as_ref())),
            Known::Begin(begin) => {
                self.block = Block::Waiting(begin.modes);
                Ok(segment.answers(begin.tag, None))
            }
            Known::End(status) => {
                if status == Status::Failed {
                    self.choice.roll_back();
                }
                self.end_transaction();
                self.block = Block::Served;
                Ok(segment.answers(if status == Status::Failed { "ROLLBACK" } else { "COMMIT" }, None))
            }
            Known::Choice(change, wish) => {
                let acting = self.find(wish.tenant.as_deref())?;
                if acting.tenant() != self.choice.acting().tenant()
                    && let Some(report) = self.pinned_elsewhere()
                {
                    return Err(report);
                }
                self.metrics = Arc::clone(&acting.metrics);
                if self.block == Block::Served {
                    self.choice.choose_for_session(acting);
                } else {
                    self.choice.choose_for_waiting(acting, wish.span);
                }
                let value = wish.tenant.unwrap_or_default();
                let format = segment.values.and_then(frontend::result_format).unwrap_or_default();
                let kind = type_of(change.form);
                let value = if kind == AnswerType::Void { "" } else { &value };
                let row = Row { column: &change.column, kind, value: value.as_bytes(), format };
                Ok(match change.form {
                    Form::Set => segment.answers("SET", None),
                    Form::Reset => segment.answers("RESET", None),
                    Form::SetConfig | Form::Call(_) => segment.answers("SELECT 1", Some(&row)),
                })
            }
        }
    }

    /// The statement of a Parse that no server sees. None: it is refused, or its name is taken.
    fn parsed_here(&mut self, parse: &frontend::Parse<'_>) -> Option<Arc<Statement>> {
        let reading = self.read(parse.text).ok()?;
        let charge = self.charge_for(parse, &reading).ok()?;
        let place = self.choice.acting().access.place();
        let statement = self.relay.interner.encoded((parse.text, None), (parse.types, place), reading);
        if !parse.name.is_empty() && self.refuses_statement(parse.name, &statement).is_some() {
            return None;
        }
        if let Some(charge) = charge {
            statement.count(charge);
        }
        Some(statement)
    }

    /// It is prepared on a server when it is needed there.
    fn keep_parsed(&mut self, name: Box<[u8]>, statement: Arc<Statement>) {
        if name.is_empty() {
            self.statements.unnamed = Some(statement);
        } else {
            let parsed = self.relay.interner.tick();
            self.statements.insert(name, Named::new((statement, parsed), &self.relay.interner));
        }
    }
}

// === impl OneStatement ===

impl OneStatement<'_> {
    /// What a Describe in it describes: the statement in front of its Bind, or the portal behind it.
    fn describes(&self, target: &frontend::StatementOrPortal<'_>) -> Option<Described> {
        match (&self.parse, target.kind) {
            (Some(parse), b'S') if self.values.is_none() && parse.name == target.name => {
                Some(Described::Statement)
            }
            (_, b'P') if self.values.is_some() && target.name.is_empty() => Some(Described::Portal),
            _ => None,
        }
    }

    /// The answers to a statement that is prepared and not run.
    fn prepared(&self, types: &[u32], column: Option<&(Box<[u8]>, AnswerType)>) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        encode::bare(&mut out, b'1');
        if self.described == Described::Statement {
            encode::parameter_types(&mut out, types);
            match column {
                Some((name, kind)) => encode::one_column(&mut out, (name, *kind), 0),
                None => encode::bare(&mut out, b'n'),
            }
        }
        out
    }

    /// The answers to its messages, up to its completion.
    fn answers(&self, tag: &str, row: Option<&Row<'_>>) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        if self.parse.is_some() {
            encode::bare(&mut out, b'1');
        }
        if self.values.is_some() {
            encode::bare(&mut out, b'2');
        }
        let is_query = self.text.is_some();
        match row {
            Some(row) if is_query || self.described == Described::Portal => {
                encode::one_column(&mut out, (row.column, row.kind), row.format);
            }
            None if self.described == Described::Portal => encode::bare(&mut out, b'n'),
            Some(_) | None => {}
        }
        if let Some(row) = row {
            encode::row(&mut out, row.value);
        }
        encode::command_complete(&mut out, tag);
        out
    }
}

/// The type of what a SELECT that chooses returns.
fn type_of(form: Form) -> AnswerType {
    if matches!(form, Form::Call(Called::Void)) { AnswerType::Void } else { AnswerType::Text }
}

/// Whether the rest of a segment of the extended protocol is there, up to its Sync.
fn is_whole(mut rest: &[u8]) -> bool {
    while let Ok(Some(header)) = frame::header(rest) {
        match header.tag {
            b'S' => return true,
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => {}
            _ => return false,
        }
        rest = rest.get(header.total..).unwrap_or_default();
    }
    false
}

/// The same for a statement that was prepared before.
fn may_be_known_statement(statement: &Statement) -> bool {
    let survey = statement.survey();
    let is_block =
        matches!(survey.first, StatementKind::Begin | StatementKind::Commit | StatementKind::Rollback);
    (is_block && survey.statements == Count::One || statement.reading.change.is_some())
        && statement.text.is_ascii()
}
