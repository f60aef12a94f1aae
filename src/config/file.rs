//! The file as written: sections whose keys are read one by one, each with its type and its limits.
//! Every surprise becomes a problem on the page and reading goes on, so that one run shows them all.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Keys};
use super::named::{open, read_secret};
use super::problem::{InvalidValue, Problem, Problems, refuse, suggest};
use super::value;
use crate::names::NameError;
use crate::secret::Secret;

/// What all sections of one file share: where its lines begin, what it may look up, what is wrong in it.
pub(super) struct Page<'p> {
    line_ends: Vec<usize>,
    base_dir: &'p Path,
    environment: &'p dyn Fn(&str) -> Option<String>,
    problems: RefCell<Vec<Problem>>,
}

impl<'p> Page<'p> {
    pub(super) fn new(
        text: &str,
        base_dir: &'p Path,
        environment: &'p dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let line_ends =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        Self { line_ends, base_dir, environment, problems: RefCell::default() }
    }

    /// Parses TOML. A file that is not TOML is not looked at any further.
    pub(super) fn syntax<'t>(&self, text: &'t str) -> Result<DeTable<'t>, Problems> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(table.into_inner());
        }
        // The error's Display would quote the line; its message does not.
        let problem = |error: toml::de::Error| Problem {
            place: "the file".into(),
            line: error.span().map(|span| self.line(span.start)),
            what: format!("is not TOML: {}", error.message().replace('\n', " ")),
            hint: "config.example.toml shows every key as it is written".into(),
        };
        let mut problems: Vec<_> = errors.into_iter().map(problem).collect();
        problems.sort_by_key(|problem| problem.line);
        Err(Problems(problems))
    }

    /// The section that holds all others.
    pub(super) fn top<'s>(&'s self, table: &'s DeTable<'s>) -> Section<'s> {
        Section::open(self, String::new(), 0, (Some(table), &keys::TOP))
    }

    /// What is read without a new problem.
    pub(super) fn clean<T>(&self, read: impl FnOnce() -> Option<T>) -> Option<T> {
        let before = self.problems.borrow().len();
        read().filter(|_| self.problems.borrow().len() == before)
    }

    /// The problems found so far.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.problems.take()
    }

    fn line(&self, offset: usize) -> usize {
        self.line_ends.partition_point(|end| *end < offset) + 1
    }

    fn report(&self, place: String, offset: Option<usize>, refusal: InvalidValue) {
        let line = offset.map(|offset| self.line(offset));
        self.problems.borrow_mut().push(Problem { place, line, what: refusal.what, hint: refusal.hint });
    }
}

/// One table of the file, or the empty one if the file leaves it out.
pub(super) struct Section<'p> {
    page: &'p Page<'p>,
    place: String,
    offset: usize,
    table: Option<&'p DeTable<'p>>,
    keys: &'static Keys,
}

// === impl Section: opening ===

impl<'p> Section<'p> {
    /// Starts reading a table: what it must not hold is a problem at once.
    fn open(
        page: &'p Page<'p>,
        place: String,
        offset: usize,
        (table, keys): (Option<&'p DeTable<'p>>, &'static Keys),
    ) -> Self {
        let section = Self { page, place, offset, table, keys };
        for (key, _) in table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if !keys.has(name) {
                let refusal = refuse("is not a known setting", suggest(name, keys.names()));
                let place = section.place_of(&name.escape_debug().to_string());
                page.report(place, Some(key.span().start), refusal);
            }
        }
        section
    }

    /// The table at `key`; empty if there is none or it is not a table.
    pub(super) fn section(&self, key: &str, keys: &'static Keys) -> Self {
        let table = self.typed(key, ("a table", "{ … }"), as_table);
        let offset = self.value(key).map_or(self.offset, |value| value.span().start);
        Section::open(self.page, self.place_of(key), offset, (table, keys))
    }

    /// The tables in the table at `key`, by name.
    pub(super) fn named_sections(&self, key: &str, keys: &'static Keys) -> Vec<(&'p str, Self)> {
        let table = self.typed(key, ("a table of tables", "{ name = { … } }"), as_table);
        let mut sections = Vec::new();
        for (name, value) in table.into_iter().flatten() {
            let name: &'p str = name.get_ref();
            let place = format!("{key}.{}", name.escape_debug());
            if let Some(table) = as_table(value.get_ref()) {
                let section = Section::open(self.page, place, value.span().start, (Some(table), keys));
                sections.push((name, section));
            } else {
                let refusal = refuse("must be a table", format!("write [{key}.NAME] and its settings below"));
                self.page.report(place, Some(value.span().start), refusal);
            }
        }
        sections
    }

    /// The tables in the array at `key`, each called by what it holds at `label`.
    pub(super) fn list(&self, key: &str, keys: &'static Keys, label: &str) -> Vec<Self> {
        let array = self.typed(key, ("an array of tables", "[{ … }]"), as_array).unwrap_or_default();
        let mut sections = Vec::with_capacity(array.len());
        for (index, value) in array.iter().enumerate() {
            let Some(table) = as_table(value.get_ref()) else {
                let refusal = refuse("must be a table", format!("write [[{key}]] and its settings below"));
                self.page.report(format!("{key}[{index}]"), Some(value.span().start), refusal);
                continue;
            };
            let place = match table.get(label).and_then(|value| as_text(value.get_ref())) {
                Some(name) => format!("{key}[{index}] {name:?}"),
                None => format!("{key}[{index}]"),
            };
            sections.push(Section::open(self.page, place, value.span().start, (Some(table), keys)));
        }
        sections
    }
}

// === impl Section: problems ===

impl Section<'_> {
    /// Where this section is, for example `user[2] "acme_app"`.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Puts a problem with `key` on the page.
    pub(super) fn report(&self, key: &str, refusal: InvalidValue) {
        let offset = self.value(key).map_or(self.offset, |value| value.span().start);
        self.page.report(self.place_of(key), Some(offset), refusal);
    }

    /// Puts a problem with the section as a whole on the page.
    pub(super) fn report_whole(&self, refusal: InvalidValue) {
        self.page.report(self.place.clone(), Some(self.offset), refusal);
    }

    /// Keeps what was read, or puts the refusal on the page.
    pub(super) fn accept<T>(&self, key: &str, read: Result<T, InvalidValue>) -> Option<T> {
        read.map_err(|refusal| self.report(key, refusal)).ok()
    }

    fn place_of(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }
}

// === impl Section: values, files and secrets ===

impl<'p> Section<'p> {
    /// Whether the file says anything at `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    pub(super) fn text(&self, key: &str) -> Option<&'p str> {
        self.typed(key, ("a text", "\"…\""), as_text)
    }

    /// A text if there is one; what else may be there is for another reader to refuse.
    pub(super) fn peek(&self, key: &str) -> Option<&'p str> {
        as_text(self.value(key)?.get_ref())
    }

    /// A text that must be there.
    pub(super) fn required(&self, key: &str) -> Option<&'p str> {
        if !self.has(key) {
            self.report(key, refuse("is missing", format!("add {key} = \"…\"")));
        }
        self.text(key)
    }

    /// A required text that is one kind of name.
    pub(super) fn name<T>(&self, key: &str, parse: fn(&str) -> Result<T, NameError>) -> Option<T> {
        let refused = |error: NameError| refuse(error.to_string(), "choose another name");
        let text = self.required(key)?;
        self.accept(key, parse(text).map_err(refused))
    }

    /// A text that `parse` understands.
    pub(super) fn parsed<T>(&self, key: &str, parse: fn(&str) -> Result<T, InvalidValue>) -> Option<T> {
        let text = self.text(key)?;
        self.accept(key, parse(text))
    }

    /// Texts with their places, for example `hosts[1]`; none if the file says nothing.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<(String, &'p str)>> {
        let array = self.typed(key, ("an array of texts", "[\"…\"]"), as_array)?;
        let mut texts = Vec::with_capacity(array.len());
        for (index, value) in array.iter().enumerate() {
            match as_text(value.get_ref()) {
                Some(text) => texts.push((format!("{key}[{index}]"), text)),
                None => self.report(key, refuse("must hold texts only", format!("write {key} = [\"…\"]"))),
            }
        }
        if array.is_empty() {
            self.report(key, refuse("must not be empty", format!("write {key} = [\"…\"]")));
        }
        Some(texts)
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.typed(key, ("true or false", "true"), |value| match value {
            DeValue::Boolean(flag) => Some(*flag),
            _ => None,
        })
    }

    /// One of a few words; a word without a meaning is one that is not built yet.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, Option<T>)]) -> Option<T> {
        let text = self.text(key)?;
        let built = || words.iter().filter(|(_, meaning)| meaning.is_some()).map(|(word, _)| *word);
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, Some(meaning))) => return Some(*meaning),
            Some((word, None)) => self.report(
                key,
                refuse(
                    format!("{word:?} is not built yet"),
                    format!("use {key} = {:?}", built().next().unwrap_or("")),
                ),
            ),
            None => {
                let list: Vec<_> = built().collect();
                self.report(
                    key,
                    refuse("is not a word known here", format!("use one of: {}", list.join(", "))),
                );
            }
        }
        None
    }

    /// A whole number within limits.
    pub(super) fn count(&self, key: &str, default: usize, limits: RangeInclusive<usize>) -> usize {
        let Some(count) = self.typed(key, ("a whole number", "10"), value::integer) else { return default };
        if limits.contains(&count) {
            return count;
        }
        let what = format!("must be between {} and {}", limits.start(), limits.end());
        self.report(key, refuse(what, format!("the default is {default}")));
        default
    }

    /// A number of bytes within limits: 10000 or "64MiB".
    pub(super) fn bytes(&self, key: &str, default: usize, limits: RangeInclusive<usize>) -> usize {
        let pick =
            |value: &'p DeValue<'p>| as_text(value).map_or_else(|| value::integer(value), value::bytes);
        let Some(bytes) = self.typed(key, ("a number of bytes", "\"64MiB\""), pick) else { return default };
        if limits.contains(&bytes) {
            return bytes;
        }
        let what = format!("must be between {} and {} bytes", limits.start(), limits.end());
        self.report(key, refuse(what, format!("the default is {default}")));
        default
    }

    /// A duration within limits: "5s" or "500ms".
    pub(super) fn duration(
        &self,
        key: &str,
        default: Duration,
        limits: RangeInclusive<Duration>,
    ) -> Duration {
        let pick = |value| as_text(value).and_then(|text| humantime::parse_duration(text).ok());
        let Some(duration) = self.typed(key, ("a duration", "\"5s\""), pick) else { return default };
        if limits.contains(&duration) {
            return duration;
        }
        let say = humantime::format_duration;
        let what = format!("must be between {} and {}", say(*limits.start()), say(*limits.end()));
        self.report(key, refuse(what, format!("the default is {}", say(default))));
        default
    }

    /// The value at `key` in the shape that `pick` takes; `what` says it in words and as an example.
    fn typed<T>(
        &self,
        key: &str,
        (shape, example): (&str, &str),
        pick: impl FnOnce(&'p DeValue<'p>) -> Option<T>,
    ) -> Option<T> {
        let picked = pick(self.value(key)?.get_ref());
        if picked.is_none() {
            self.report(key, refuse(format!("must be {shape}"), format!("write it as {key} = {example}")));
        }
        picked
    }

    fn value(&self, key: &str) -> Option<&'p Spanned<DeValue<'p>>> {
        // A place inside an array, `hosts[1]`, has the line of the array.
        let key = key.split('[').next()?;
        debug_assert!(self.keys.has(key), "{key} is missing in keys.rs");
        self.table?.get(key)
    }

    /// A path, from the configuration's own directory on.
    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        let text = self.text(key)?;
        if text.is_empty() {
            self.report(key, refuse("must not be empty", "leave the line out"));
            return None;
        }
        Some(self.page.base_dir.join(text))
    }

    /// A path to a file that can be opened.
    pub(super) fn file(&self, key: &str) -> Option<PathBuf> {
        let path = self.path(key)?;
        self.accept(key, open(&path));
        Some(path)
    }

    /// A secret: `{ env = "…" }`, `{ file = "…" }` or the text itself.
    pub(super) fn secret(&self, key: &str) -> Option<Secret<String>> {
        let text = match self.value(key)?.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Table(_) => self.looked_up(key)?,
            _ => {
                let hint = format!("write {key} = {{ env = \"NAME\" }} or {{ file = \"path\" }}");
                self.report(key, refuse("must be a text or say where the text is", hint));
                return None;
            }
        };
        if text.is_empty() || text.contains('\0') {
            self.report(key, refuse("must not be empty nor hold NUL", "leave the line out if there is none"));
            return None;
        }
        Some(Secret::new(text))
    }

    fn looked_up(&self, key: &str) -> Option<String> {
        let source = self.section(key, &keys::SECRET);
        match (source.has("env"), source.has("file")) {
            (true, false) => {
                let name = source.text("env")?;
                let unset =
                    || refuse(format!("the environment has no {name:?}"), "set it, or use { file = \"…\" }");
                source.accept("env", (self.page.environment)(name).ok_or_else(unset))
            }
            (false, true) => {
                let path = source.path("file")?;
                source.accept("file", read_secret(&path))
            }
            _ => {
                self.report(
                    key,
                    refuse("must name either env or file", format!("write {key} = {{ env = \"NAME\" }}")),
                );
                None
            }
        }
    }
}

fn as_text<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    if let DeValue::String(text) = value { Some(text) } else { None }
}

fn as_array<'v>(value: &'v DeValue<'v>) -> Option<&'v [Spanned<DeValue<'v>>]> {
    if let DeValue::Array(array) = value { Some(array) } else { None }
}

fn as_table<'v>(value: &'v DeValue<'v>) -> Option<&'v DeTable<'v>> {
    if let DeValue::Table(table) = value { Some(table) } else { None }
}
