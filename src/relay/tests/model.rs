//! A PostgreSQL in a few lines: what it answers to each frame, when it skips, and what it forgets. It follows
//! `postgres.c` of PostgreSQL 15 as far as the statements of [`super::random`] go.

use std::collections::HashMap;

use super::frames::{Direction, encode_all, nonce_of};
use crate::wire::{frame, frontend};

/// What a statement comes to.
enum Ran {
    /// These frames.
    Answers(String),
    /// It reads rows now.
    CopyIn,
    /// An error with this SQLSTATE.
    Fails(&'static str),
}

/// A COPY that reads rows, and what follows it in its Query; none: the extended protocol.
struct Copying(Option<Vec<String>>);

/// One server process.
#[derive(Default)]
pub(crate) struct Model {
    input: Vec<u8>,
    /// Answers that nobody has read yet.
    pub(crate) answers: Vec<u8>,
    status: BlockStatus,
    is_skipping: bool,
    copying: Option<Copying>,
    statements: HashMap<String, String>,
    portals: HashMap<String, String>,
    suspended: Vec<String>,
    nonce: String,
    /// Counts changes of the tables: columns have other types after each.
    pub(crate) changes: u32,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum BlockStatus {
    #[default]
    Idle,
    Block,
    Failed,
}

impl Model {
    /// Whether it waits for a new transaction or the next statement of one, and everything was answered.
    pub(crate) fn is_quiet(&self) -> bool {
        self.input.is_empty() && self.answers.is_empty() && !self.is_skipping && self.copying.is_none()
    }

    pub(crate) fn status(&self) -> BlockStatus {
        self.status
    }

    /// Takes what was sent to it, which has to be whole frames.
    pub(crate) fn receives(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let mut rest = self.input.as_slice();
        while let Some(header) = frame::header(rest).expect("a frame's length is possible") {
            rest = rest.get(header.total..).expect("frames towards a server are whole");
        }
        assert!(rest.is_empty(), "frames towards a server are whole: {rest:?}");
    }

    /// Answers the next frame; false: there is none.
    pub(crate) fn answers_one(&mut self) -> bool {
        let Ok(Some(header)) = frame::header(&self.input) else { return false };
        let whole: Vec<u8> = self.input.drain(..header.total).collect();
        let answers = self.answer(header.tag, frame::body(&whole));
        if !answers.is_empty() {
            self.answers.extend_from_slice(&encode_all(&answers, Direction::Server, &self.nonce));
        }
        true
    }

    fn answer(&mut self, tag: u8, body: &[u8]) -> String {
        if let Some(copying) = self.copying.take() {
            return self.in_copy(tag, body, copying);
        }
        match tag {
            b'S' => {
                self.is_skipping = false;
                self.end_if_idle();
                self.ready()
            }
            _ if self.is_skipping => String::new(),
            b'Q' => self.query(body),
            b'F' => self.function_call(),
            // Rows too late for a COPY, and Flush.
            b'd' | b'c' | b'f' | b'H' => String::new(),
            _ => match self.extended(tag, body) {
                Ok(answers) => answers,
                Err(sqlstate) => {
                    self.is_skipping = true;
                    self.fail(sqlstate)
                }
            },
        }
    }

    fn in_copy(&mut self, tag: u8, body: &[u8], copying: Copying) -> String {
        let failed = match tag {
            b'd' if body.starts_with(b"bad") => "22P02",
            b'd' => {
                self.copying = Some(copying);
                return String::new();
            }
            b'c' => {
                return match copying.0 {
                    None => "C COPY 1".to_owned(),
                    Some(rest) => format!("C COPY 1 | {}", self.run_all(&rest)),
                };
            }
            b'f' => "57014",
            _ => panic!("{} reached a server that reads rows", char::from(tag)),
        };
        let error = self.fail(failed);
        if copying.0.is_some() {
            return format!("{error} | {}", self.ready());
        }
        self.is_skipping = true;
        error
    }

    fn query(&mut self, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(frontend::query(body).unwrap()).into_owned();
        self.nonce =
            Some(nonce_of(text.as_bytes())).filter(|nonce| !nonce.is_empty()).unwrap_or(self.nonce.clone());
        self.statements.remove("");
        self.portals.remove("");
        if text.matches('\'').count() % 2 == 1 || text.contains("refused by pgtenant") {
            return format!("{} | {}", self.fail("42601"), self.ready());
        }
        let all: Vec<String> =
            text.split(';').map(|text| text.trim().to_lowercase()).filter(|text| !text.is_empty()).collect();
        if all.is_empty() {
            return format!("I | {}", self.ready());
        }
        self.run_all(&all)
    }

    /// Runs statements of one Query up to its ReadyForQuery.
    fn run_all(&mut self, all: &[String]) -> String {
        let mut answers = Vec::new();
        for (place, text) in all.iter().enumerate() {
            match self.analyse(text).map(|()| self.run(text)) {
                Ok(Ran::Answers(frames)) => {
                    if let Some(columns) = self.columns(text) {
                        answers.push(columns);
                    }
                    answers.push(frames);
                }
                Ok(Ran::CopyIn) => {
                    self.copying = Some(Copying(Some(all[place + 1..].to_vec())));
                    answers.push("G".to_owned());
                    return answers.join(" | ");
                }
                Ok(Ran::Fails(sqlstate)) | Err(sqlstate) => {
                    answers.push(self.fail(sqlstate));
                    break;
                }
            }
        }
        self.end_if_idle();
        answers.push(self.ready());
        answers.join(" | ")
    }

    fn function_call(&mut self) -> String {
        if self.status == BlockStatus::Failed {
            return format!("{} | {}", self.fail("25P02"), self.ready());
        }
        format!("V | {}", self.ready())
    }

    fn extended(&mut self, tag: u8, body: &[u8]) -> Result<String, &'static str> {
        let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        match tag {
            b'P' => {
                let parse = frontend::parse(body).unwrap();
                self.parse(name(parse.name), &name(parse.text).trim().to_lowercase())
            }
            b'B' => {
                let bind = frontend::bind(body).unwrap();
                let text = self.statements.get(&name(bind.statement)).cloned().ok_or("26000")?;
                self.analyse(&text)?;
                let portal = name(bind.portal);
                if !portal.is_empty() && self.portals.contains_key(&portal) {
                    return Err("42P03");
                }
                self.suspended.retain(|known| *known != portal);
                self.portals.insert(portal, text);
                Ok("2".to_owned())
            }
            b'D' => {
                let target = frontend::target(body).unwrap();
                let (texts, unknown) =
                    if target.kind == b'S' { (&self.statements, "26000") } else { (&self.portals, "34000") };
                let text = texts.get(&name(target.name)).cloned().ok_or(unknown)?;
                let columns = self.columns(&text);
                if columns.is_some() && self.status == BlockStatus::Failed {
                    return Err("25P02");
                }
                let columns = columns.unwrap_or_else(|| "n".to_owned());
                let types = if text.contains("$1") { "t 25" } else { "t" };
                Ok(if target.kind == b'S' { format!("{types} | {columns}") } else { columns })
            }
            b'C' => {
                let target = frontend::target(body).unwrap();
                let texts = if target.kind == b'S' { &mut self.statements } else { &mut self.portals };
                texts.remove(&name(target.name));
                Ok("3".to_owned())
            }
            b'E' => self.execute(&name(frontend::execute(body).unwrap()), *body.last().unwrap()),
            _ => panic!("no server knows the message {}", char::from(tag)),
        }
    }

    fn parse(&mut self, name: String, text: &str) -> Result<String, &'static str> {
        if name.is_empty() {
            self.statements.remove("");
        } else if self.statements.contains_key(&name) {
            assert!(!name.starts_with("pgtenant_"), "{name} was prepared twice");
            return Err("42P05");
        }
        if text == "refused by pgtenant" || text.matches('\'').count() % 2 == 1 {
            return Err("42601");
        }
        if text.split(';').filter(|text| !text.trim().is_empty()).count() > 1 {
            return Err("42601");
        }
        let text = text.trim_end_matches(';').to_owned();
        self.analyse(&text)?;
        self.statements.insert(name, text);
        Ok("1".to_owned())
    }

    fn execute(&mut self, name: &str, max_rows: u8) -> Result<String, &'static str> {
        let text = self.portals.get(name).cloned().ok_or("34000")?;
        self.analyse(&text)?;
        if max_rows > 0 && text.starts_with("select") && !self.suspended.iter().any(|known| known == name) {
            self.suspended.push(name.to_owned());
            return Ok("D 1 | s".to_owned());
        }
        match self.run(&text) {
            Ran::Answers(frames) => Ok(frames),
            Ran::CopyIn => {
                self.copying = Some(Copying(None));
                Ok("G".to_owned())
            }
            Ran::Fails(sqlstate) => Err(sqlstate),
        }
    }

    /// Errors that come at Parse, and again whenever the block has failed.
    fn analyse(&self, text: &str) -> Result<(), &'static str> {
        let ends = ["commit", "rollback", "end", "abort"].into_iter().any(|word| text.starts_with(word));
        if self.status == BlockStatus::Failed && !ends && !text.is_empty() {
            return Err("25P02");
        }
        if text.contains("nope") { Err("42703") } else { Ok(()) }
    }

    fn columns(&self, text: &str) -> Option<String> {
        let has_rows = ["select", "show", "values", "table"].into_iter().any(|word| text.starts_with(word));
        let oid = if self.changes.is_multiple_of(2) { 23 } else { 20 };
        has_rows.then(|| format!("T a:{oid}"))
    }

    fn run(&mut self, text: &str) -> Ran {
        let in_block = self.status == BlockStatus::Block;
        let first = text.split_whitespace().next().unwrap_or_default().to_uppercase();
        let answers = match first.as_str() {
            "" => "I".to_owned(),
            "BEGIN" => {
                self.status = BlockStatus::Block;
                "C BEGIN".to_owned()
            }
            "ROLLBACK" if text.contains(" to ") && self.status == BlockStatus::Idle => {
                return Ran::Fails("25P01");
            }
            "ROLLBACK" if text.contains(" to ") => {
                self.status = BlockStatus::Block;
                "C ROLLBACK".to_owned()
            }
            "COMMIT" if text.contains("chain") && self.status == BlockStatus::Idle => {
                return Ran::Fails("25P01");
            }
            "COMMIT" | "ROLLBACK" => {
                let tag = if self.status == BlockStatus::Failed { "ROLLBACK" } else { &first };
                self.status = if text.contains("chain") { BlockStatus::Block } else { BlockStatus::Idle };
                self.portals.clear();
                format!("C {tag}")
            }
            "SAVEPOINT" if !in_block => return Ran::Fails("25P01"),
            "DISCARD" if text.contains("all") && in_block => return Ran::Fails("25001"),
            "DISCARD" if text.contains("all") => {
                self.statements.clear();
                "C DISCARD ALL".to_owned()
            }
            "DEALLOCATE" if text.contains("all") => {
                self.statements.clear();
                "C DEALLOCATE ALL".to_owned()
            }
            "DEALLOCATE" => return Ran::Fails("26000"),
            "COPY" if text.contains("from stdin") => return Ran::CopyIn,
            "COPY" => "H | d one | c | C COPY 1".to_owned(),
            "SELECT" if text.contains("1/0") => return Ran::Fails("22012"),
            "SELECT" if text.contains("pgtenant.hand_over") || text.contains("pg_advisory_unlock_all") => {
                format!("D {} | C SELECT 1", self.nonce)
            }
            "SELECT" => "D 1 | C SELECT 1".to_owned(),
            "INSERT" => "C INSERT 0 1".to_owned(),
            _ => format!("C {first}"),
        };
        Ran::Answers(answers)
    }

    fn fail(&mut self, sqlstate: &str) -> String {
        if self.status == BlockStatus::Block {
            self.status = BlockStatus::Failed;
        }
        format!("E {sqlstate}")
    }

    fn end_if_idle(&mut self) {
        if self.status == BlockStatus::Idle {
            self.portals.clear();
        }
    }

    fn ready(&self) -> String {
        format!(
            "Z {}",
            match self.status {
                BlockStatus::Idle => 'I',
                BlockStatus::Block => 'T',
                BlockStatus::Failed => 'E',
            }
        )
    }
}
