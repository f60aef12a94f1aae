//! What clients share and what they do not, without a server.

use super::*;
use crate::sql::survey;

const TEXT: &[u8] = b"SELECT v FROM t WHERE v = $1";
const OPEN: &[u8] = b"\0\0";

fn reading(text: &[u8]) -> Reading {
    Reading { survey: survey(text), change: None, footprint: None }
}

fn draft(interner: &Arc<Interner>, text: &[u8], sharing: Sharing) -> Arc<Statement> {
    interner.draft(text, OPEN, (reading(text), sharing), &SessionParameters::default())
}

/// One parameter and one column of this type.
fn of_type(oid: u8) -> Description {
    let parameters = [0, 1, 0, 0, 0, oid];
    let column = [&[0, 1][..], b"v\0", &[0; 6], &[0, 0, 0, oid], &[0, 8], &[255; 4], &[0, 0]].concat();
    Description::read(&parameters, Some(&column), 0).unwrap()
}

/// A client that has prepared a text and was told about it.
fn client(interner: &Arc<Interner>, text: &[u8], description: Description) -> Statements {
    let mut statements = Statements::default();
    let statement = draft(interner, text, Sharing::Shared);
    statements.add(b"s", Arc::clone(&statement));
    interner.learn(&statement, description);
    statements.settle(b"s", statement.id, interner);
    statements
}

fn id(statements: &Statements) -> StatementId {
    statements.find(b"s").unwrap().0.id
}

#[test]
fn clients_share_a_text_that_was_described_alike_and_no_other() {
    let interner = Arc::new(Interner::default());
    let first = client(&interner, TEXT, of_type(20));
    let same = client(&interner, TEXT, of_type(20));
    assert_eq!(id(&first), id(&same));
    let after_ddl = client(&interner, TEXT, of_type(23));
    assert_ne!(id(&first), id(&after_ddl));
    assert_eq!(id(&client(&interner, TEXT, of_type(23))), id(&after_ddl));
    assert_ne!(id(&first), id(&client(&interner, b"SELECT w FROM t WHERE v = $1", of_type(20))));
    assert_eq!(id(&first), id(&client(&interner, TEXT, of_type(20))), "the older ones go on together");
}

#[test]
fn what_may_mean_something_else_in_other_sessions_is_not_shared() {
    let interner = Arc::new(Interner::default());
    let shared = client(&interner, TEXT, of_type(20));
    let own = draft(&interner, TEXT, Sharing::Own);
    assert_eq!(interner.learn(&own, of_type(20)).id, own.id);
    assert_ne!(own.id, id(&shared));
    assert_eq!(id(&client(&interner, TEXT, of_type(20))), id(&shared), "nobody finds it either");
}

#[test]
fn one_text_read_in_two_ways_is_two_statements() {
    let interner = Arc::new(Interner::default());
    let stand_in = interner.draft(
        b"DISCARD TEMP",
        OPEN,
        (reading(b"DISCARD ALL"), Sharing::Shared),
        &SessionParameters::default(),
    );
    let itself = draft(&interner, b"DISCARD TEMP", Sharing::Shared);
    let none = Description::read(&[0, 0], None, 0).unwrap();
    assert_ne!(interner.learn(&stand_in, none.clone()).id, interner.learn(&itself, none).id);
}

#[test]
fn a_text_beyond_ascii_belongs_to_its_encoding() {
    let interner = Arc::new(Interner::default());
    let text = "SELECT 'é'".as_bytes();
    let speaks = |encoding: &str| {
        let mut parameters = SessionParameters::default();
        parameters.set("client_encoding", encoding);
        parameters
    };
    let told = |parameters: &SessionParameters| {
        let statement = interner.draft(text, OPEN, (reading(text), Sharing::Shared), parameters);
        interner.learn(&statement, of_type(25))
    };
    let (utf8, latin1) = (told(&SessionParameters::default()), told(&speaks("LATIN1")));
    assert_ne!(utf8.id, latin1.id);
    assert_eq!(told(&speaks("utf-8")).id, utf8.id, "another spelling");
    assert!(utf8.reads_the_same(&speaks("UTF8"), 0) && latin1.reads_the_same(&speaks("latin1"), 0));
    assert!(!utf8.reads_the_same(&speaks("latin1"), 0));
    let plain = draft(&interner, TEXT, Sharing::Shared);
    assert!(plain.reads_the_same(&speaks("latin1"), 0), "ASCII reads the same in all");
}

#[test]
fn a_described_statement_is_sent_with_the_described_types() {
    let interner = Arc::new(Interner::default());
    let statement = draft(&interner, TEXT, Sharing::Shared);
    assert_eq!(statement.sent_types(), OPEN);
    interner.learn(&statement, of_type(20));
    assert_eq!(statement.sent_types(), [0, 1, 0, 0, 0, 20]);
    interner.learn(&statement, of_type(23));
    assert_eq!(statement.description(), Some(&of_type(20)), "the first answer holds for good");
}

#[test]
fn a_client_gets_no_copy_that_is_older_than_its_own_parse() {
    let interner = Arc::new(Interner::default());
    let early = client(&interner, TEXT, of_type(20));
    let copy = interner.number();
    let late = client(&interner, TEXT, of_type(20));
    let since = |statements: &Statements| statements.find(b"s").unwrap().1.since;
    assert!(since(&early) <= copy && copy < since(&late));
    let own = late.find(b"s").unwrap().1.own;
    assert_ne!(own, id(&late), "its own Parse had a number of its own");
}

#[test]
fn a_statement_that_was_not_closed_after_all_is_described_all_the_same() {
    let interner = Arc::new(Interner::default());
    let shared = client(&interner, TEXT, of_type(20));
    let mut statements = Statements::default();
    let statement = draft(&interner, TEXT, Sharing::Shared);
    statements.add(b"s", Arc::clone(&statement));
    let (name, named) = statements.remove(b"s").unwrap();
    interner.learn(&statement, of_type(20));
    statements.settle(b"s", statement.id, &interner);
    assert!(!statements.has(b"s"));
    statements.put_back(name, named, &interner);
    assert_eq!(id(&statements), id(&shared));
    assert!(statements.find(b"s").unwrap().1.since > 0);
}

#[test]
fn another_statement_of_the_same_name_is_left_alone() {
    let interner = Arc::new(Interner::default());
    let mut statements = Statements::default();
    let closed = draft(&interner, TEXT, Sharing::Shared);
    statements.add(b"s", Arc::clone(&closed));
    statements.remove(b"s");
    let other = draft(&interner, b"SELECT 1", Sharing::Shared);
    statements.add(b"s", Arc::clone(&other));
    interner.learn(&closed, of_type(20));
    statements.settle(b"s", closed.id, &interner);
    let (found, fresh) = statements.find(b"s").unwrap();
    assert_eq!((found.id, fresh), (other.id, Freshness { own: other.id, since: 0 }));
}

#[test]
fn a_text_is_held_once_and_no_longer_than_somebody_has_it() {
    let interner = Arc::new(Interner::default());
    let clients: Vec<Statements> = (0..10).map(|_| client(&interner, TEXT, of_type(20))).collect();
    let (statement, _) = clients[0].find(b"s").unwrap();
    assert_eq!(Arc::strong_count(&statement), 11, "ten clients and this one");
    drop(statement);
    assert_eq!(interner.known.len(), 1);
    drop(clients);
    assert!(interner.known.is_empty());
}

#[test]
fn the_bytes_of_a_client_are_those_of_its_statements() {
    let interner = Arc::new(Interner::default());
    let mut statements = Statements::default();
    assert_eq!(statements.bytes(), 0);
    for name in [&b"a"[..], b"bb"] {
        let statement = draft(&interner, TEXT, Sharing::Shared);
        statements.add(name, Arc::clone(&statement));
        let before = statements.bytes();
        interner.learn(&statement, of_type(20));
        statements.settle(name, statement.id, &interner);
        assert!(statements.bytes() > before, "the types count too");
    }
    assert!(statements.bytes() > 2 * TEXT.len() + 3);
    let (name, named) = statements.remove(b"a").unwrap();
    let one = statements.bytes();
    statements.put_back(name, named, &interner);
    assert!(statements.bytes() > one);
    statements.remove(b"a");
    assert_eq!(statements.bytes(), one);
    statements.remove(b"bb");
    assert_eq!(statements.bytes(), 0);
}

#[test]
fn there_is_room_for_the_most_and_not_for_one_more() {
    let interner = Arc::new(Interner::default());
    let mut statements = Statements::default();
    let statement = draft(&interner, b"SELECT 1", Sharing::Own);
    for number in 0..MAX_NAMED {
        assert!(!statements.is_full(), "{number}");
        statements.add(number.to_string().as_bytes(), Arc::clone(&statement));
    }
    assert!(statements.is_full());
    statements.remove(b"7");
    assert!(!statements.is_full());
}
