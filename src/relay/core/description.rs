//! What PostgreSQL tells of a prepared statement, in a form that is compared: the types of its parameters, and its columns.

use crate::wire::backend;
use crate::wire::frame::split_cstr;

/// What PostgreSQL tells of a prepared statement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Description {
    /// The types of its parameters: count and OIDs, as in `Parse`.
    pub types: Box<[u8]>,
    /// Its columns: name, type and type modifier of each; none if it returns no rows.
    pub columns: Option<Box<[u8]>>,
}

// === impl Description ===

impl Description {
    /// From the bodies of ParameterDescription and, if it returns rows, RowDescription. None: malformed.
    pub fn read(parameters: &[u8], columns: Option<&[u8]>) -> Option<Self> {
        let columns = match columns {
            Some(columns) => Some(backend::column_shapes(columns)?.into()),
            None => None,
        };
        Some(Self { types: parameters.into(), columns })
    }

    /// Whether any type is one of the database's own, whose OID means something else in another database.
    pub fn has_own_types(&self) -> bool {
        let oid = |bytes: &[u8]| bytes.first_chunk::<4>().map(|oid| u32::from_be_bytes(*oid));
        let parameters = self.types.get(2..).unwrap_or_default().chunks(4).filter_map(oid);
        let mut columns = Vec::new();
        let mut rest = self.columns.as_deref().unwrap_or_default();
        while let Some((_, fields)) = split_cstr(rest) {
            columns.extend(oid(fields));
            rest = fields.get(8..).unwrap_or_default();
        }
        parameters.chain(columns).any(|oid| oid >= FIRST_OWN_OID)
    }
}

/// The first OID that PostgreSQL gives to objects of a database (`FirstNormalObjectId`).
const FIRST_OWN_OID: u32 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_compares_names_types_and_modifiers_of_columns() {
        let column = |name: &str, table: u32, oid: u32| {
            let mut body = vec![0, 1];
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend_from_slice(&table.to_be_bytes());
            body.extend_from_slice(&[0, 1]);
            body.extend_from_slice(&oid.to_be_bytes());
            body.extend_from_slice(&[0, 4, 0xff, 0xff, 0xff, 0xff, 0, 0]);
            body
        };
        let read = |columns: &[u8]| Description::read(&[0, 0], Some(columns)).unwrap();
        assert_eq!(read(&column("a", 1, 23)), read(&column("a", 2, 23)), "the table may be another");
        assert_ne!(read(&column("a", 1, 23)), read(&column("b", 1, 23)));
        assert_ne!(read(&column("a", 1, 23)), read(&column("a", 1, 25)));
        assert_eq!(Description::read(&[0, 0], Some(b"\0\x01a")), None);
        let (rows, none) = (Description::read(&[0, 0], Some(&[0, 0])), Description::read(&[0, 0], None));
        assert_ne!(rows, none, "a SELECT may have no columns, and still return rows");
    }
}
