//! What is known of a query within its parentheses: the clause, the relation that waits for its alias, and the columns that
//! its select list gives.

use std::collections::HashSet;

use super::columns::{Columns, Item, Names, Use};

/// Where a query stands, at one depth of parentheses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Clause {
    /// In no FROM clause.
    #[default]
    Other,
    /// In one, where a relation stands next.
    Expected,
    /// In one, behind a relation.
    Joined,
}

/// What parentheses are to those around them.
#[derive(Debug, Default)]
pub(super) enum Gives {
    /// Nothing that has columns.
    #[default]
    Nothing,
    /// A sub-select, or relations that are joined.
    Item,
    /// The query of this name. What WITH gives it as columns is known by then.
    Query(Vec<u8>, Listed),
}

/// Whether WITH lists the columns of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    No,
    Yes,
}

/// Where a query is in its select list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Select {
    #[default]
    Before,
    /// In the names and queries of its WITH.
    With,
    List,
    /// Behind it, or in front of the first of several.
    Behind,
    Values,
}

/// A relation, function or sub-select whose alias may follow.
#[derive(Debug)]
pub(super) struct Pending {
    /// What it is called without an alias.
    pub(super) name: Option<Vec<u8>>,
    pub(super) columns: Columns,
    /// What it holds, if it is relations that are joined in parentheses.
    pub(super) items: Vec<Item>,
    pub(super) kind: ItemKind,
}

/// What waits for its alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemKind {
    /// A relation or a sub-select.
    Relation,
    /// A function in front of its arguments, whose column has its name.
    Call,
    /// The same behind them.
    Called,
}

/// One column of a select list, as far as it was read.
#[derive(Debug, Default)]
struct Output {
    tokens: usize,
    /// The name of all there is so far.
    only: Option<Vec<u8>>,
}

/// One depth of parentheses, or the outermost.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) clause: Clause,
    pub(super) gives: Gives,
    pub(super) pending: Option<Pending>,
    /// The last name of a query that was read, with its columns.
    pub(super) query: Option<(Vec<u8>, Option<Columns>)>,
    select: Select,
    output: Output,
    outputs: Columns,
    has_star: Star,
    /// What its WITH has named, up to here.
    queries: HashSet<Vec<u8>>,
    /// What its FROM clause has named.
    items: Vec<Item>,
    /// Columns that were named in it behind an alias.
    uses: Vec<Use>,
    /// The same of what is behind, whose alias is none of its own.
    outer: Vec<Use>,
}

/// Whether a select list holds all columns there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Star {
    #[default]
    No,
    Yes,
}

// === impl Frame ===

impl Frame {
    /// One whose parentheses open here.
    pub(super) fn new(clause: Clause, gives: Gives) -> Self {
        Self { clause, gives, ..Self::default() }
    }

    /// SELECT, VALUES or WITH.
    pub(super) fn begins(&mut self, word: &[u8]) {
        if !matches!(self.select, Select::Before | Select::With) {
            self.select = Select::Behind;
        } else if word.eq_ignore_ascii_case(b"with") && self.output.tokens == 0 {
            // Not that of a type, as in `timestamp with time zone`.
            self.select = Select::With;
        } else if word.eq_ignore_ascii_case(b"select") {
            self.select = Select::List;
        } else if word.eq_ignore_ascii_case(b"values") {
            self.select = Select::Values;
        }
    }

    /// Whether a name here is one that its WITH gives.
    pub(super) fn is_with(&self) -> bool {
        self.select == Select::With
    }

    /// WITH has given this name, which holds within these parentheses.
    pub(super) fn declares(&mut self, name: Vec<u8>) {
        self.queries.insert(name);
    }

    pub(super) fn has_declared(&self, name: &[u8]) -> bool {
        self.queries.contains(name)
    }

    /// FROM, or another end of a select list.
    pub(super) fn ends_list(&mut self) {
        self.ends_output();
        if self.select == Select::List {
            self.select = Select::Behind;
        }
    }

    /// A comma, or the end of a select list.
    pub(super) fn ends_output(&mut self) {
        let output = std::mem::take(&mut self.output);
        if let (Select::List, Some(name)) = (self.select, output.only) {
            if name == b"*" {
                self.has_star = Star::Yes;
            } else {
                self.outputs.insert(name);
            }
        }
    }

    /// A name or call in a select list; `*` is all columns.
    pub(super) fn selects(&mut self, name: &[u8]) {
        self.output.only = (self.output.tokens == 0).then(|| name.to_vec());
        self.output.tokens = self.output.tokens.saturating_add(1);
    }

    /// A name behind an expression in parentheses: its alias, if nothing follows.
    pub(super) fn may_name_output(&mut self, name: &[u8]) {
        self.output.only = Some(name.to_vec());
        self.output.tokens = self.output.tokens.saturating_add(1);
    }

    /// Something else.
    pub(super) fn selects_other(&mut self) {
        self.output.only = None;
        self.output.tokens = self.output.tokens.saturating_add(1);
    }

    /// The name behind AS.
    pub(super) fn names_output(&mut self, name: &[u8]) {
        if self.select == Select::List && self.clause == Clause::Other {
            self.outputs.insert(name.to_vec());
        }
        self.selects_other();
    }

    /// What waited for its alias has none.
    pub(super) fn settles(&mut self, names: &mut Names) -> Option<()> {
        match self.pending.take() {
            Some(Pending { name: Some(name), columns, .. }) => self.holds(name, columns, names),
            Some(Pending { name: None, items, .. }) => {
                // Relations that are joined in parentheses have their own names outside of these.
                self.items.extend(items);
                Some(())
            }
            None => Some(()),
        }
    }

    fn holds(&mut self, name: Vec<u8>, columns: Columns, names: &mut Names) -> Option<()> {
        self.items.push(Item { name, columns });
        names.counts_item()
    }

    /// A column is named behind an alias.
    pub(super) fn uses(&mut self, alias: &[u8], column: &[u8], names: &mut Names) -> Option<()> {
        self.uses.push(Use { alias: alias.to_vec(), column: column.to_vec() });
        names.counts_use()
    }

    /// One of several queries of a set operation ends: what it names is its own, or the outer query's.
    pub(super) fn ends_part(&mut self, names: &mut Names) -> Option<()> {
        self.settles(names)?;
        let outer = names.resolves(std::mem::take(&mut self.uses), &self.items)?;
        self.outer.extend(outer);
        self.items.clear();
        Some(())
    }

    /// What waited has this alias, and these columns, if they are listed.
    pub(super) fn is_named(
        &mut self,
        alias: Vec<u8>,
        listed: Option<Columns>,
        names: &mut Names,
    ) -> Option<()> {
        let pending = self.pending.take()?;
        let mut columns = listed.unwrap_or(pending.columns);
        if pending.kind != ItemKind::Relation {
            columns.insert(alias.clone());
        }
        self.holds(alias, columns, names)
    }

    /// The parentheses close: what its columns are, and what is left to the query around it.
    pub(super) fn ends(mut self, names: &mut Names) -> Option<Ended> {
        self.settles(names)?;
        self.ends_list();
        let mut columns = std::mem::take(&mut self.outputs);
        match (self.select, self.has_star) {
            (Select::Values, _) => columns = Columns::of_values(),
            (Select::Before, _) | (_, Star::Yes) => {
                self.items.iter().for_each(|item| columns.extend(&item.columns));
            }
            _ => {}
        }
        let is_join = self.select == Select::Before;
        let mut outer = names.resolves(std::mem::take(&mut self.uses), &self.items)?;
        outer.append(&mut self.outer);
        let items = if is_join { self.items } else { Vec::new() };
        Some(Ended { gives: self.gives, columns, items, outer })
    }

    /// Parentheses inside have closed.
    pub(super) fn takes_uses(&mut self, uses: Vec<Use>) {
        self.uses.extend(uses);
    }
}

/// What parentheses leave to those around them.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) gives: Gives,
    pub(super) columns: Columns,
    pub(super) items: Vec<Item>,
    /// Columns behind an alias that is none of its own.
    pub(super) outer: Vec<Use>,
}
