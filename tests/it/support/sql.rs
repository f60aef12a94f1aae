//! Random SQL that is after the context: shapes of statements whose holes are filled with the spellings of a few
//! names, values and calls, now and then broken.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Writes such texts.
pub(crate) struct Sql<'a> {
    random: &'a mut StdRng,
    shapes: &'a [&'static str],
}

impl<'a> Sql<'a> {
    /// From these shapes.
    pub(crate) fn new(random: &'a mut StdRng, shapes: &'a [&'static str]) -> Self {
        Self { random, shapes }
    }

    /// One message's worth.
    pub(crate) fn text(&mut self) -> String {
        let count = *[1, 1, 1, 2, 2, 3, 4].choose(self.random).unwrap();
        let statements: Vec<String> = (0..count).map(|_| self.statement(2)).collect();
        let text = statements.join(self.one(&[";", "; ", ";\n", " ; --\n", ";;"]));
        if self.random.random_ratio(1, 6) { self.broken(&text) } else { text }
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of.choose(self.random).unwrap()
    }

    /// Fills a shape: `{set}` a protected setting as a name, `{name}` the same as an expression, `{to}` a value,
    /// `{call}` set_config, `{run}` a statement, `{code}` one in quotes, `{ }` white space, `{local}` a truth value.
    fn fill(&mut self, shape: &str, depth: usize) -> String {
        let mut filled = String::new();
        let mut rest = shape;
        while let Some((before, hole)) = rest.split_once('{') {
            let (hole, after) = hole.split_once('}').unwrap();
            filled += before;
            filled += &match hole {
                "set" => self.setting(),
                "name" => self.name(),
                "to" => self.value(),
                "call" => self.call(),
                "run" if depth == 0 => self.fill("SELECT {call}", 0),
                "run" => self.statement(depth - 1),
                "code" => self.code(depth),
                "local" => self.one(&["true", "false", "'t'", "1=1", "NULL"]).to_owned(),
                _ => self.blank(),
            };
            rest = after;
        }
        filled + rest
    }

    fn statement(&mut self, depth: usize) -> String {
        let shape = self.one(self.shapes);
        self.fill(shape, depth)
    }

    fn blank(&mut self) -> String {
        self.one(&[" ", " ", " ", "\n", "\t", "/**/", "/* ' /* */ */", " -- '\n", "\u{c}", " /* $$ */ "])
            .to_owned()
    }

    fn setting(&mut self) -> String {
        self.one(&[
            "app.tenant_id",
            "APP.Tenant_Id",
            "\"app\".\"tenant_id\"",
            "\"app.tenant_id\"",
            "app . tenant_id",
            "app./**/tenant_id",
            "U&\"\\0061pp\".tenant_id",
            "U&\"app.tenant!005fid\" UESCAPE '!'",
            "role",
            "\"role\"",
            "ROLE",
            "session_authorization",
            "\"session_authorization\"",
            "U&\"rol\\0065\"",
            "row_security",
            "standard_conforming_strings",
            "client_encoding",
            "search_path",
            "work_mem",
            "x.y",
        ])
        .to_owned()
    }

    fn name(&mut self) -> String {
        self.one(&[
            "'app.tenant_id'",
            "'APP.TENANT_ID'",
            "E'app.tenant\\x5fid'",
            "U&'app.tenant\\005fid'",
            "$$app.tenant_id$$",
            "$a$app.tenant_id$a$",
            "'app.'||'tenant_id'",
            "'app.'\n'tenant_id'",
            "concat('app.', 'tenant_id')",
            "N'app.tenant_id'",
            "('app.tenant_id')",
            "'app.tenant_id'::text",
            "text 'app.tenant_id'",
            "'role'",
            "(SELECT 'role')",
            "'session_authorization'",
            "'standard_conforming_strings'",
            "'client_encoding'",
            "'work_mem'",
            "'x.y'",
            "setting_name := 'app.tenant_id'",
            "format('%s', 'role')",
            "$1",
            "body",
            "E'ap\\p.tenant_id'",
        ])
        .to_owned()
    }

    fn value(&mut self) -> String {
        self.one(&[
            "'globex'",
            "'globex'",
            "'globex'",
            "E'glo\\x62ex'",
            "$$globex$$",
            "globex",
            "\"globex\"",
            "DEFAULT",
            "'app_owner'",
            "app_owner",
            "'postgres'",
            "postgres",
            "none",
            "''",
            "off",
            "on",
            "'SJIS'",
            "pg_temp",
            "$2",
        ])
        .to_owned()
    }

    fn call(&mut self) -> String {
        let function = self.one(&[
            "set_config",
            "set_config",
            "SET_CONFIG",
            "pg_catalog.set_config",
            "\"set_config\"",
            "pg_catalog.\"set_config\"",
            "U&\"set\\005fconfig\"",
            "pg_catalog . set_config",
            "\"pg_catalog\"./**/set_config",
            "app.pg_catalog.set_config",
        ]);
        self.fill(&format!("{function}{{ }}({{name}},{{ }}{{to}}, {{local}})"), 0)
    }

    fn code(&mut self, depth: usize) -> String {
        let inner = self.fill("{run}", depth.saturating_sub(1));
        let inner = match self.random.random_range(0..4) {
            0 => format!("BEGIN {}; END", inner.replacen("SELECT", "PERFORM", 1)),
            1 => format!("BEGIN EXECUTE '{}'; END", inner.replace('\'', "''")),
            2 => format!(
                "BEGIN EXECUTE 'SE' || 'T {}'; END",
                inner.trim_start_matches("SET").replace('\'', "''")
            ),
            _ => inner,
        };
        match self.random.random_range(0..4) {
            0 => format!("'{}'", inner.replace('\'', "''")),
            1 => format!("E'{}'", inner.replace('\\', "\\\\").replace('\'', "\\'")),
            2 => format!("$a${inner}$a$"),
            _ => format!("$${inner}$$"),
        }
    }

    /// Takes pieces away, doubles them or puts a quote in between.
    fn broken(&mut self, text: &str) -> String {
        let mut characters: Vec<char> = text.chars().collect();
        for _ in 0..self.random.random_range(1..3) {
            let at = self.random.random_range(0..=characters.len());
            let to = (at + self.random.random_range(0..3)).min(characters.len());
            let new = self.one(&[
                "", "", "'", "\"", "$$", "--", "/*", "*/", ";", "\\", "E'", "U&", "\\'", "('", "x'", "é",
            ]);
            characters.splice(at..to, new.chars());
        }
        characters.into_iter().collect()
    }
}

/// What a reader of text can judge.
pub(crate) const SHAPES: &[&str] = &[
    // the direct routes
    "SET{ }{set}{ }={ }{to}",
    "SET{ }{set} TO {to}",
    "SET SESSION {set} = {to}",
    "SET{ }LOCAL{ }{set} TO{ }{to}",
    "SET ROLE {to}",
    "SET LOCAL ROLE {to}",
    "SET SESSION{ }AUTHORIZATION {to}",
    "SET LOCAL SESSION AUTHORIZATION {to}",
    "RESET {set}",
    "RESET{ }ROLE",
    "RESET SESSION AUTHORIZATION",
    "RESET ALL",
    "DISCARD ALL",
    "SET NAMES {to}",
    "SELECT {call}",
    "SELECT{ }{call}{ }",
    "VALUES ({call})",
    "TABLE notes",
    "SELECT 1 WHERE {call} IS NULL",
    "WITH{ }c AS MATERIALIZED (SELECT {call} v) SELECT n.* FROM c, notes n",
    "SELECT {call}, body FROM notes",
    "UPDATE pg_settings SET setting = {to} WHERE name = {name}",
    "UPDATE{ }\"pg_settings\" SET setting={to}",
    "SELECT * FROM notes ORDER BY {call}",
    "SELECT count(*) FROM notes GROUP BY {call}",
    "SELECT (SELECT {call}), (SELECT string_agg(body, ',') FROM notes)",
    "SELECT set_config FROM {call}",
    // blinding the reader
    "SET standard_conforming_strings = {to}",
    "SELECT '\\', {call} --'",
    "SELECT '\\'', {call} --'",
    "SELECT 'a' /* ', */",
    "SELECT $x$ ' $x$, {call}",
    "SELECT 1 AS a$$, {call} --$$",
    "SELECT E'\\\\', {call} --'",
    "SELECT E'\\'', {call} --'",
    "SELECT 'a'{ }'b', {call}",
    "SELECT U&'\\0027', {call} --'",
    "SELECT 0x1f, {call}",
    "SELECT 1_0$a$, {call} --$a$",
    "SET client_encoding = {to}",
    "/* /* */ */ SELECT {call}",
    "/*/**/*/ SET {set} = {to} /*",
    "SELECT \"a\"\"\", {call} --\"",
    // prepared, cursors, objects of one's own
    "PREPARE p AS {run}",
    "PREPARE q(text, text) AS SELECT {call}",
    "EXECUTE p",
    "EXECUTE q({name}, {to})",
    "DEALLOCATE ALL",
    "PREPARE r AS SELECT set_config($1, $2, false)",
    "EXECUTE r({name}, {to})",
    "DECLARE c CURSOR FOR {run}",
    "FETCH ALL c",
    "DECLARE c CURSOR WITH HOLD FOR SELECT {call}",
    "FETCH c",
    "CLOSE ALL",
    "CREATE TEMP VIEW v AS SELECT {call} x",
    "SELECT * FROM v",
    "CREATE TEMP TABLE t (a text DEFAULT {call})",
    "INSERT INTO t DEFAULT VALUES",
    "SELECT * FROM t",
    "CREATE TEMP TABLE u AS {run}",
    "SET search_path = pg_temp, public",
    "EXPLAIN ANALYZE {run}",
    "COPY ({run}) TO STDOUT",
    "COPY (SELECT {call}) TO STDOUT",
    "COPY imports FROM STDIN",
    "COPY imports (line) FROM STDIN WHERE {call} = ''",
    // transactions
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "COMMIT AND CHAIN",
    "BEGIN;{ }{run}",
    "SAVEPOINT a; {run}",
    // rows
    "SELECT body FROM notes",
    "SELECT * FROM notes WHERE tenant_id = 'globex'",
    "DELETE FROM notes WHERE {call} <> ''",
    "INSERT INTO notes (tenant_id, body) VALUES ('globex', 'planted')",
    "UPDATE notes SET tenant_id = 'globex'",
    "DELETE FROM notes",
    "INSERT INTO notes (body) SELECT {call}",
    "UPDATE notes SET body = {call}",
    "SELECT 1; {run}",
    "INSERT INTO notes (body) VALUES ('x') RETURNING {call}",
    "MERGE INTO notes n USING t ON {call} = '' WHEN MATCHED THEN DELETE",
];

/// What a reader of text cannot follow, or what only the kind of statement tells; the strict level's concern.
pub(crate) const OPAQUE: &[&str] = &[
    "DO {code}",
    "DO{ }LANGUAGE plpgsql {code}",
    "DO {code} LANGUAGE plpgsql",
    "CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE plpgsql AS {code}",
    "SELECT pg_temp.f()",
    "CREATE FUNCTION pg_temp.g() RETURNS void LANGUAGE sql SET {set} = {to} AS {code}",
    "SELECT pg_temp.g()",
    "CREATE PROCEDURE pg_temp.h() LANGUAGE sql AS {code}",
    "CALL pg_temp.h()",
    "SELECT query_to_xml({code}, true, true, '')",
    "SELECT ts_stat({code})",
    "SELECT pg_catalog . query_to_xml('{run}', true, true, '')",
    "SELECT database_to_xml(true, true, '')",
    "SELECT cursor_to_xml('c', 10, true, true, '')",
    "SELECT \"query_to_xml\"('SELECT ' || {code}, true, true, '')",
    "ALTER ROLE app SET {set} = {to}",
    "ALTER USER CURRENT_USER PASSWORD 'x'",
    "ALTER{ }ROLE app RESET ALL",
    "GRANT app_owner TO app",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    "ALTER ROLE ALL SET {set} TO {to}",
    "REASSIGN OWNED BY app TO app",
    "ALTER ROLE app IN DATABASE app SET {set} = {to}",
    "COPY imports FROM PROGRAM 'true'",
    "LOAD 'plpgsql'",
    "LOCK TABLE notes",
];
