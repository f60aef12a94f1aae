//! What PostgreSQL said about a statement when its client prepared it: parameter types and columns. Promise: a server
//! that prepares the statement later takes the same parameters and returns the same columns, or its client gets
//! PostgreSQL's own error.
//!
//! PostgreSQL fixes both at `Parse` for the life of the statement (`exec_parse_message` in `postgres.c` completes the
//! plan source with `fixed_result`). When definitions change, `RevalidateCachedQuery` in `plancache.c` analyses the text
//! again with the same parameter types, and raises 0A000 if the columns' names, types, type modifiers or number are
//! others, at each Bind and Describe for as long as they are. Here the same is done by a `Parse` with those types and a
//! comparison of the columns. What `RowDescription` does not show is not compared: collations, and domains over the
//! same type.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::fault::{Report, sqlstate};
use crate::wire::backend;

/// OIDs from here on were given in one database (`FirstNormalObjectId` in `transam.h`), and mean nothing in another.
const FIRST_NORMAL_OBJECT_ID: u32 = 16_384;

/// Parameter types and columns of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Description {
    /// Parameter types as in `Parse`: count and OIDs, none of them zero.
    types: Box<[u8]>,
    /// Digest of the columns; none: the statement returns no rows.
    columns: Option<u64>,
    /// The database whose own types these are; none: they are the same in all.
    database: Option<u64>,
}

impl Description {
    /// Reads the bodies of `ParameterDescription` and `RowDescription`, which is none if `NoData` came instead.
    pub fn read(parameters: &[u8], columns: Option<&[u8]>, database: u64) -> Option<Self> {
        let mut own = backend::parameter_types(parameters)?.any(|oid| oid >= FIRST_NORMAL_OBJECT_ID);
        let mut digest = None;
        if let Some(body) = columns {
            let mut hasher = DefaultHasher::new();
            let mut rest = backend::row_description(body)?;
            while !rest.is_empty() {
                let column = rest.next_column()?;
                own |= column.type_oid >= FIRST_NORMAL_OBJECT_ID;
                (column.name, column.type_oid, column.type_modifier).hash(&mut hasher);
            }
            digest = Some(hasher.finish());
        }
        Some(Self { types: parameters.into(), columns: digest, database: own.then_some(database) })
    }

    /// Parameter types as in `Parse`.
    pub fn types(&self) -> &[u8] {
        &self.types
    }

    /// Whether the statement returns rows, so that a server that prepares it has to be asked for its columns.
    pub const fn has_columns(&self) -> bool {
        self.columns.is_some()
    }

    /// Whether its types mean the same in that database.
    pub fn holds_in(&self, database: u64) -> bool {
        self.database.is_none_or(|own| own == database)
    }

    /// Bytes that it takes.
    pub const fn bytes(&self) -> usize {
        self.types.len()
    }
}

/// PostgreSQL's error for a statement whose columns are others than its client was told. Drivers know it by its code,
/// text and routine, and prepare again.
pub(super) fn changed() -> Report {
    Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "cached plan must not change result type")
        .routine("RevalidateCachedQuery")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: u64 = 1;

    /// A `RowDescription` body of name, type and modifier; table, attribute and format are filled with `noise`.
    fn columns(all: &[(&str, u32, i32)], noise: u8) -> Vec<u8> {
        let mut body = u16::try_from(all.len()).unwrap().to_be_bytes().to_vec();
        for (name, oid, modifier) in all {
            body.extend(name.as_bytes());
            body.push(0);
            body.extend([noise; 6]);
            body.extend(oid.to_be_bytes());
            body.extend([0, 8]);
            body.extend(modifier.to_be_bytes());
            body.extend([0, noise]);
        }
        body
    }

    fn types(oids: &[u32]) -> Vec<u8> {
        let mut body = u16::try_from(oids.len()).unwrap().to_be_bytes().to_vec();
        body.extend(oids.iter().flat_map(|oid| oid.to_be_bytes()));
        body
    }

    fn read(oids: &[u32], all: &[(&str, u32, i32)]) -> Description {
        Description::read(&types(oids), Some(&columns(all, 0)), HOME).unwrap()
    }

    #[test]
    fn what_postgresql_compares_makes_a_difference() {
        let first = read(&[20], &[("a", 20, -1), ("b", 25, -1)]);
        for (what, other) in [
            ("a type", read(&[20], &[("a", 701, -1), ("b", 25, -1)])),
            ("a type modifier", read(&[20], &[("a", 20, 12), ("b", 25, -1)])),
            ("a name", read(&[20], &[("x", 20, -1), ("b", 25, -1)])),
            ("the order", read(&[20], &[("b", 25, -1), ("a", 20, -1)])),
            ("one more", read(&[20], &[("a", 20, -1), ("b", 25, -1), ("c", 25, -1)])),
            ("one less", read(&[20], &[("a", 20, -1)])),
            ("no column", read(&[20], &[])),
            ("no rows", Description::read(&types(&[20]), None, HOME).unwrap()),
            ("a parameter", read(&[23], &[("a", 20, -1), ("b", 25, -1)])),
        ] {
            assert_ne!(first, other, "{what}");
        }
    }

    #[test]
    fn what_postgresql_does_not_compare_makes_none() {
        let all = [("a", 20, -1), ("b", 25, -1)];
        let other = Description::read(&types(&[20]), Some(&columns(&all, 1)), HOME).unwrap();
        assert_eq!(read(&[20], &all), other, "table, attribute and format");
    }

    #[test]
    fn types_of_one_database_hold_there_and_others_everywhere() {
        for (oids, column, everywhere) in [
            (vec![20], 25, true),
            (vec![], 16_383, true),
            (vec![], 16_384, false),
            (vec![20, 16_384], 25, false),
        ] {
            let description = read(&oids, &[("a", column, -1)]);
            assert!(description.holds_in(HOME));
            assert_eq!(description.holds_in(2), everywhere, "{oids:?} {column}");
        }
    }

    #[test]
    fn a_body_that_does_not_fit_is_none() {
        let whole = columns(&[("a", 20, -1)], 0);
        for end in 0..whole.len() {
            assert_eq!(Description::read(&types(&[]), whole.get(..end), HOME), None, "{end}");
        }
        let long = [whole, vec![0]].concat();
        assert_eq!(Description::read(&types(&[]), Some(&long), HOME), None, "bytes behind the last column");
        assert_eq!(Description::read(b"\0\x01\0\0\0", None, HOME), None);
        assert_eq!(Description::read(b"", None, HOME), None);
    }
}
