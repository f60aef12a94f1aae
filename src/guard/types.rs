//! The names of `PostgreSQL`'s built-in types, 14 to 18, and of what the grammar makes of them. A temporary object of such
//! a name comes before the type wherever code names it without its schema, and PL/pgSQL keeps what it found so for the
//! life of the server connection.

use crate::sql::words::Words;

/// Whether a name, folded or out of quotes, is that of a built-in type, of its array, or of a catalogue's rows.
pub(super) fn is_built_in(name: &[u8]) -> bool {
    let element = name.iter().position(|byte| *byte != b'_').and_then(|first| name.get(first..));
    let element = element.unwrap_or_default();
    // Words are found whatever their capitals, but a type has none.
    !element.iter().any(u8::is_ascii_uppercase)
        && (element.starts_with(b"pg_") || TYPES.find(element).is_some())
}

static TYPES: Words<(), 512> = Words::new(&[
    ("aclitem", ()),
    ("any", ()),
    ("anyarray", ()),
    ("anycompatible", ()),
    ("anycompatiblearray", ()),
    ("anycompatiblemultirange", ()),
    ("anycompatiblenonarray", ()),
    ("anycompatiblerange", ()),
    ("anyelement", ()),
    ("anyenum", ()),
    ("anymultirange", ()),
    ("anynonarray", ()),
    ("anyrange", ()),
    ("bigint", ()),
    ("bigserial", ()),
    ("bit", ()),
    ("bool", ()),
    ("boolean", ()),
    ("box", ()),
    ("bpchar", ()),
    ("bytea", ()),
    ("char", ()),
    ("character", ()),
    ("cid", ()),
    ("cidr", ()),
    ("circle", ()),
    ("cstring", ()),
    ("date", ()),
    ("datemultirange", ()),
    ("daterange", ()),
    ("dec", ()),
    ("decimal", ()),
    ("double", ()),
    ("event_trigger", ()),
    ("fdw_handler", ()),
    ("float", ()),
    ("float4", ()),
    ("float8", ()),
    ("gtsvector", ()),
    ("index_am_handler", ()),
    ("inet", ()),
    ("int", ()),
    ("int2", ()),
    ("int2vector", ()),
    ("int4", ()),
    ("int4multirange", ()),
    ("int4range", ()),
    ("int8", ()),
    ("int8multirange", ()),
    ("int8range", ()),
    ("integer", ()),
    ("internal", ()),
    ("interval", ()),
    ("json", ()),
    ("jsonb", ()),
    ("jsonpath", ()),
    ("language_handler", ()),
    ("line", ()),
    ("lseg", ()),
    ("macaddr", ()),
    ("macaddr8", ()),
    ("money", ()),
    ("name", ()),
    ("national", ()),
    ("nchar", ()),
    ("numeric", ()),
    ("nummultirange", ()),
    ("numrange", ()),
    ("oid", ()),
    ("oidvector", ()),
    ("path", ()),
    ("point", ()),
    ("polygon", ()),
    ("precision", ()),
    ("real", ()),
    ("record", ()),
    ("refcursor", ()),
    ("regclass", ()),
    ("regcollation", ()),
    ("regconfig", ()),
    ("regdictionary", ()),
    ("regnamespace", ()),
    ("regoper", ()),
    ("regoperator", ()),
    ("regproc", ()),
    ("regprocedure", ()),
    ("regrole", ()),
    ("regtype", ()),
    ("serial", ()),
    ("serial2", ()),
    ("serial4", ()),
    ("serial8", ()),
    ("smallint", ()),
    ("smallserial", ()),
    ("table_am_handler", ()),
    ("text", ()),
    ("tid", ()),
    ("time", ()),
    ("timestamp", ()),
    ("timestamptz", ()),
    ("timetz", ()),
    ("trigger", ()),
    ("tsm_handler", ()),
    ("tsmultirange", ()),
    ("tsquery", ()),
    ("tsrange", ()),
    ("tstzmultirange", ()),
    ("tstzrange", ()),
    ("tsvector", ()),
    ("txid_snapshot", ()),
    ("unknown", ()),
    ("uuid", ()),
    ("varbit", ()),
    ("varchar", ()),
    ("void", ()),
    ("xid", ()),
    ("xid8", ()),
    ("xml", ()),
]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_their_arrays_and_catalogues_are_known_and_nothing_else_is() {
        for name in
            ["text", "_text", "__int4", "char", "integer", "record", "int4multirange", "pg_class", "_pg_type"]
        {
            assert!(is_built_in(name.as_bytes()), "{name}");
        }
        for name in ["", "_", "Text", "TEXT", "texts", "orders", "pgclass", "int3", "text_"] {
            assert!(!is_built_in(name.as_bytes()), "{name}");
        }
    }
}
