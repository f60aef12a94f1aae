//! Which columns the relations, functions and queries of a statement are known to have. A name behind an alias and a dot
//! that is none of them is a call: PostgreSQL takes `alias.name` for `name(alias)` (`ParseFuncOrColumn` in `parse_func.c`).

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// The most relations, functions and sub-selects of one statement.
const MAX_ITEMS: usize = 128;
/// The most columns that one statement names behind an alias.
const MAX_USES: usize = 4096;

/// Columns that every table has.
const SYSTEM_COLUMNS: [&[u8]; 6] = [b"tableoid", b"ctid", b"xmin", b"xmax", b"cmin", b"cmax"];

/// The most comparisons of names in one statement, so that a text of 16 KiB takes a millisecond and not seconds.
const MAX_COMPARISONS: usize = 50_000;

/// The relations that need no tenant, and their columns in PostgreSQL 14 to 18.
static RELATIONS: LazyLock<HashMap<&'static str, HashSet<&'static str>>> = LazyLock::new(|| {
    let relation =
        |line: &'static str| line.split_once(' ').map(|(name, columns)| (name, columns.split(' ').collect()));
    include_str!("columns.txt").lines().filter_map(relation).collect()
});

/// Columns that are known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    sources: HashSet<Source>,
    names: HashSet<Vec<u8>>,
}

/// Where columns come from that a text does not name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    /// A relation of PostgreSQL's.
    Relation(Vec<u8>),
    /// A query that WITH gives a name.
    Query(Vec<u8>),
    /// VALUES: `column1`, `column2` …
    Values,
}

// === impl Columns ===

impl Columns {
    /// Those of a relation of PostgreSQL's.
    pub(super) fn of_relation(name: &[u8]) -> Self {
        Self { sources: HashSet::from([Source::Relation(name.to_vec())]), names: HashSet::new() }
    }

    /// Those of a query that WITH gives a name.
    pub(super) fn of_query(name: &[u8]) -> Self {
        Self { sources: HashSet::from([Source::Query(name.to_vec())]), names: HashSet::new() }
    }

    /// Those of VALUES.
    pub(super) fn of_values() -> Self {
        Self { sources: HashSet::from([Source::Values]), names: HashSet::new() }
    }

    /// One more.
    pub(super) fn insert(&mut self, name: Vec<u8>) {
        self.names.insert(name);
    }

    /// All of these, too.
    pub(super) fn extend(&mut self, others: &Self) {
        self.sources.extend(others.sources.iter().cloned());
        self.names.extend(others.names.iter().cloned());
    }
}

impl FromIterator<Vec<u8>> for Columns {
    fn from_iter<T: IntoIterator<Item = Vec<u8>>>(names: T) -> Self {
        Self { sources: HashSet::new(), names: names.into_iter().collect() }
    }
}

/// A column that is named behind an alias.
#[derive(Debug)]
pub(super) struct Use {
    pub(super) alias: Vec<u8>,
    pub(super) column: Vec<u8>,
}

/// A relation, function or sub-select of FROM by its name.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) name: Vec<u8>,
    pub(super) columns: Columns,
}

/// What the queries of a statement are called, and how much else has a name.
#[derive(Debug, Default)]
pub(super) struct Names {
    queries: HashMap<Vec<u8>, Columns>,
    items: usize,
    uses: usize,
    comparisons: Cell<usize>,
}

// === impl Names ===

impl Names {
    /// One more relation, function or sub-select.
    pub(super) fn counts_item(&mut self) -> Option<()> {
        self.items = self.items.saturating_add(1);
        (self.items <= MAX_ITEMS).then_some(())
    }

    /// One more column behind an alias.
    pub(super) fn counts_use(&mut self) -> Option<()> {
        self.uses = self.uses.saturating_add(1);
        (self.uses <= MAX_USES).then_some(())
    }

    /// WITH gives a query a name. Of two of one name with different columns nothing is known.
    pub(super) fn query(&mut self, name: Vec<u8>, columns: Columns) {
        match self.queries.get_mut(&name) {
            None => drop(self.queries.insert(name, columns)),
            Some(before) if *before == columns => {}
            Some(before) => *before = Columns::default(),
        }
    }

    /// The uses whose alias none of these items has, for the query around it. None: one is no column of an item that has.
    /// None as well behind the most comparisons.
    pub(super) fn resolves(&self, uses: Vec<Use>, items: &[Item]) -> Option<Vec<Use>> {
        let mut others = Vec::new();
        for one in uses {
            self.counts_comparisons(items.len().saturating_add(1))?;
            let mut named = items.iter().filter(|item| item.name == one.alias).peekable();
            if named.peek().is_none() {
                others.push(one);
            } else if !named.all(|item| self.has(&item.columns, &one.column, &mut HashSet::new())) {
                return None;
            }
        }
        Some(others)
    }

    fn counts_comparisons(&self, more: usize) -> Option<()> {
        self.comparisons.set(self.comparisons.get().saturating_add(more));
        (self.comparisons.get() <= MAX_COMPARISONS).then_some(())
    }

    /// Each query is looked at once, also if queries name one another. Behind the most comparisons nothing has a column.
    fn has<'n>(&'n self, columns: &'n Columns, column: &[u8], seen: &mut HashSet<&'n [u8]>) -> bool {
        if self.counts_comparisons(columns.sources.len().saturating_add(1)).is_none() {
            return false;
        }
        columns.names.contains(column)
            || columns.sources.iter().any(|source| match source {
                Source::Relation(name) => is_column(name, column),
                Source::Values => is_of_values(column),
                Source::Query(name) => {
                    seen.insert(name)
                        && self.queries.get(name).is_some_and(|columns| self.has(columns, column, seen))
                }
            })
    }
}

fn is_column(relation: &[u8], column: &[u8]) -> bool {
    let columns = std::str::from_utf8(relation).ok().and_then(|name| RELATIONS.get(name));
    SYSTEM_COLUMNS.contains(&column)
        || columns
            .is_some_and(|columns| std::str::from_utf8(column).is_ok_and(|column| columns.contains(column)))
}

fn is_of_values(column: &[u8]) -> bool {
    column.strip_prefix(b"column").is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::super::words::CATALOGS;
    use super::*;

    #[test]
    fn the_columns_of_every_relation_of_the_list_are_known() {
        for (relation, ()) in CATALOGS.entries() {
            assert!(RELATIONS.contains_key(relation), "{relation}");
        }
        assert!(is_column(b"pg_class", b"relname") && is_column(b"pg_class", b"ctid"));
        assert!(is_column(b"tables", b"table_name") && is_column(b"pg_proc", b"prosqlbody"));
        assert!(!is_column(b"pg_class", b"typname") && !is_column(b"pg_nope", b"relname"));
    }

    fn item(name: &[u8], columns: Columns) -> Item {
        Item { name: name.to_vec(), columns }
    }

    fn uses(alias: &[u8], column: &[u8]) -> Vec<Use> {
        vec![Use { alias: alias.to_vec(), column: column.to_vec() }]
    }

    #[test]
    fn a_name_is_a_column_of_everything_that_has_the_alias() {
        let names = Names::default();
        let mut items = vec![item(b"t", Columns::of_relation(b"pg_type"))];
        let left = |items: &[Item], uses| names.resolves(uses, items).map(|left| left.len());
        assert_eq!(left(&items, uses(b"t", b"oid")), Some(0));
        assert_eq!(left(&items, uses(b"t", b"nope")), None);
        assert_eq!(left(&items, uses(b"u", b"nope")), Some(1), "it may be the outer query's");
        items.push(item(b"t", Columns::of_values()));
        assert_eq!(left(&items, uses(b"t", b"oid")), None);
    }

    #[test]
    fn queries_that_name_one_another_end() {
        let mut names = Names::default();
        for (query, of) in [(b"a", b"b"), (b"b", b"a")] {
            names.query(query.to_vec(), Columns::of_query(of));
        }
        assert!(names.resolves(uses(b"x", b"y"), &[item(b"x", Columns::of_query(b"a"))]).is_none());
    }

    #[test]
    fn both_sides_of_the_limits() {
        let mut names = Names::default();
        for count in 1..=MAX_ITEMS + 1 {
            assert_eq!(names.counts_item().is_some(), count <= MAX_ITEMS);
        }
        for count in 1..=MAX_USES + 1 {
            assert_eq!(names.counts_use().is_some(), count <= MAX_USES);
        }
    }

    #[test]
    fn comparisons_end_behind_the_most_of_them() {
        let sources: HashSet<Source> =
            (0..100).map(|n| Source::Relation(format!("relation {n}").into_bytes())).collect();
        let item = || Item {
            name: b"t".to_vec(),
            columns: Columns { sources: sources.clone(), names: HashSet::from([b"a".to_vec()]) },
        };
        let items: Vec<Item> = (0..MAX_ITEMS).map(|_| item()).collect();
        let uses = |count: usize| {
            (0..count).map(|_| Use { alias: b"t".to_vec(), column: b"a".to_vec() }).collect::<Vec<_>>()
        };
        let names = Names::default();
        assert!(names.resolves(uses(3), &items).is_some());
        let names = Names::default();
        assert!(names.resolves(uses(MAX_USES), &items).is_none());
        assert!(names.comparisons.get() < MAX_COMPARISONS + 1000, "{:?}", names.comparisons);
    }
}
