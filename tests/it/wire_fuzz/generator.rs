//! Makes sequences: picks families, joins their turns, and disturbs them a little. The words are few, so that what
//! clients do often has to do with what was done before.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::families::Family;
use super::step::{
    End, Event, Leaves, Message, Sequence, Step, TENANTS, Then, Turn, Users, bind, execute, parse, query,
};

/// Names of prepared statements and portals.
pub(super) const STATEMENTS: [&str; 4] = ["", "s1", "s2", "s3"];
pub(super) const PORTALS: [&str; 4] = ["", "c1", "c2", "c3"];

/// What shows the traces of the turns before.
const PROBE: [&str; 3] = [
    "SELECT tenant_id, id, body, rank FROM orders ORDER BY id",
    "SELECT current_setting('app.tenant_id', true), current_setting('TimeZone'), current_setting('DateStyle'), \
     current_setting('search_path'), current_setting('work_mem'), current_setting('application_name')",
    "SELECT timestamptz '2026-02-01 12:00:00+00', count(*) FROM orders",
];

/// Writes one client's messages.
pub(super) struct Writer<'a> {
    pub(super) random: &'a mut StdRng,
    pub(super) client: usize,
    users: Users,
    number: &'a mut u32,
}

/// The sequence of a seed, made of these families.
pub(super) fn sequence(seed: u64, families: &[&'static Family]) -> Sequence {
    let mut random = StdRng::seed_from_u64(seed);
    let mut number = 0;
    let users = if random.random_ratio(1, 5) { Users::Maintenance } else { Users::Tenants };
    let mut sequence = Sequence { users, startup: [Vec::new(), Vec::new()], events: Vec::new() };
    for startup in &mut sequence.startup {
        let family = families.choose_weighted(&mut random, |family| family.weight).unwrap();
        *startup = (family.startup)(&mut random);
    }
    let turns = random.random_range(2..7);
    for _ in 0..turns {
        let client = random.random_range(0..2);
        let family = families.choose_weighted(&mut random, |family| family.weight).unwrap();
        let mut writer = Writer { random: &mut random, client, users, number: &mut number };
        for event in (family.write)(&mut writer) {
            sequence.events.push(match event {
                Event::Turn(turn) if family.is_disturbed => Event::Turn(writer.disturb(turn)),
                event => event,
            });
        }
    }
    for client in 0..2 {
        let mut writer = Writer { random: &mut random, client, users, number: &mut number };
        let steps = PROBE.map(|text| Step { then: Then::Answer, ..Step::from(query(text)) }).into();
        sequence.events.push(Event::Turn(writer.turn("probe", steps)));
    }
    sequence
}

impl Writer<'_> {
    pub(super) fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(self.random).unwrap().clone()
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    /// A number that stands in no other message of the sequence.
    pub(super) fn fresh(&mut self) -> u32 {
        *self.number += 1;
        *self.number
    }

    pub(super) fn tenant(&self) -> &'static str {
        TENANTS[self.client]
    }

    pub(super) fn turn(&mut self, family: &'static str, steps: Vec<Step>) -> Turn {
        let end = End::Rest(if self.chance(50) { "ROLLBACK" } else { "COMMIT" });
        let is_early = self.chance(20);
        Turn { client: self.client, family, steps, end, leaves: Leaves::Nothing, is_early }
    }

    /// A turn in which each segment is answered before the next.
    pub(super) fn orderly_events(&mut self, family: &'static str, messages: Vec<Message>) -> Vec<Event> {
        let answered = |message: Message| {
            let then = if message.ends_segment() { Then::Answer } else { Then::More };
            Step { message, cut: None, then }
        };
        let steps = messages.into_iter().map(answered).collect();
        self.events(family, steps)
    }

    /// A turn of the other client, which takes the server.
    pub(super) fn other_client(&mut self, family: &'static str) -> Vec<Event> {
        self.client = 1 - self.client;
        let messages = vec![query(self.read())];
        let events = self.orderly_events(family, messages);
        self.client = 1 - self.client;
        events
    }

    pub(super) fn events(&mut self, family: &'static str, steps: Vec<Step>) -> Vec<Event> {
        vec![Event::Turn(self.turn(family, steps))]
    }
}

// === what statements say ===

impl Writer<'_> {
    /// A statement of any kind but COPY.
    pub(super) fn statement(&mut self) -> String {
        match self.random.random_range(0..20) {
            0..7 => self.read(),
            7..10 => self.write(),
            10..13 => self.control(),
            13..16 => self.session(),
            16..18 => self.failure(),
            18 => self
                .one(&["FETCH 2 FROM k", "CLOSE k", "DECLARE k CURSOR FOR SELECT generate_series(1, 6)"])
                .to_owned(),
            _ => self.prepared(),
        }
    }

    pub(super) fn read(&mut self) -> String {
        self.one(&[
            "SELECT 1",
            "SELECT tenant_id, id, body FROM orders ORDER BY id",
            "SELECT count(*) FROM orders",
            "SELECT body FROM orders WHERE id = 2",
            "SELECT current_setting('app.tenant_id', true)",
            "SELECT generate_series(1, 6)",
            "SELECT * FROM typed ORDER BY id",
            "SELECT v FROM typed ORDER BY id",
            "SELECT date '2026-02-01'",
            "SHOW TimeZone",
            "SHOW search_path",
            "VALUES (1, 'a'), (2, 'b')",
            "",
        ])
        .to_owned()
    }

    pub(super) fn write(&mut self) -> String {
        let (id, number, tenant) = (self.random.random_range(1..9), self.fresh(), self.tenant());
        match self.random.random_range(0..6) {
            0..3 => format!(
                "INSERT INTO orders (id, body) VALUES ({id}, '{tenant}:{number}') RETURNING tenant_id"
            ),
            3 => format!("UPDATE orders SET body = '{tenant}:{number}' WHERE id = {id}"),
            4 => format!("DELETE FROM orders WHERE id = {id}"),
            _ => format!(
                "INSERT INTO lines (k, body) VALUES ({}, '{tenant}:{number}') RETURNING tenant_id",
                id + 10
            ),
        }
    }

    pub(super) fn failure(&mut self) -> String {
        let (tenant, number) = (self.tenant(), self.fresh());
        let duplicate = format!("INSERT INTO orders (id, body) VALUES (1, '{tenant}:{number}')");
        let deferred =
            format!("INSERT INTO orders (id, body, rank) VALUES ({}, '{tenant}:{number}', 1)", 20 + number);
        self.one(&[
            "SELECT 1/0".to_owned(),
            "SELEKT".to_owned(),
            "SELECT no_such FROM orders".to_owned(),
            "SELECT 'unterminated".to_owned(),
            duplicate,
            deferred,
        ])
    }

    pub(super) fn control(&mut self) -> String {
        self.one(&[
            "BEGIN",
            "BEGIN",
            "COMMIT",
            "COMMIT",
            "ROLLBACK",
            "SAVEPOINT a",
            "ROLLBACK TO a",
            "RELEASE a",
            "COMMIT AND CHAIN",
            "ROLLBACK AND CHAIN",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "END",
        ])
        .to_owned()
    }

    pub(super) fn session(&mut self) -> String {
        self.one(&[
            "SET TimeZone = 'Asia/Tokyo'",
            "SET work_mem = '5MB'",
            "SET LOCAL work_mem = '6MB'",
            "SET search_path = other, public",
            "SET DateStyle = 'German'",
            "SET application_name = 'mine'",
            "RESET TimeZone",
            "RESET work_mem",
            "RESET search_path",
            "RESET ALL",
            "DISCARD ALL",
            "DISCARD PLANS",
            "SET work_mem = 'nonsense'",
            "SELECT set_config('work_mem', '7MB', false)",
        ])
        .to_owned()
    }

    pub(super) fn prepared(&mut self) -> String {
        self.one(&["DEALLOCATE s1", "DEALLOCATE s2", "DEALLOCATE ALL", "DEALLOCATE none"]).to_owned()
    }

    /// Several statements in one text.
    pub(super) fn text(&mut self) -> String {
        let count = self.one(&[1, 1, 1, 2, 2, 3, 4]);
        let statements: Vec<String> = (0..count).map(|_| self.statement()).collect();
        statements.join("; ")
    }

    /// Rows for `lines`; with a row that fails if `fails`.
    pub(super) fn rows(&mut self, count: usize, failing: Option<usize>) -> Vec<String> {
        let tenant = self.tenant();
        (0..count)
            .map(|place| {
                let number = self.fresh();
                match failing {
                    Some(at) if at == place => {
                        self.one(&["not a number\n".to_owned(), format!("1\t{tenant}:{number}\n")])
                    }
                    _ => format!("{}\t{tenant}:{number}\n", 100 + number),
                }
            })
            .collect()
    }

    /// A statement that the proxy has to refuse in any place; of a maintenance user it refuses none.
    pub(super) fn forbidden(&mut self) -> Message {
        if self.users == Users::Maintenance {
            return query(self.text());
        }
        let (number, tenant, other) = (self.fresh(), self.tenant(), TENANTS[1 - self.client]);
        let text = self.one(&[
            format!("ROLLBACK; SET app.tenant_id = '{other}'; INSERT INTO orders (id, body) VALUES ({}, '{tenant}:{number}')", 50 + number),
            format!("SELECT set_config('app.tenant_id', '{other}', false), {number}"),
            format!("SET ROLE app_owner /* {number} */"),
        ]);
        let message = match self.random.random_range(0..6) {
            0 => parse(self.one(&STATEMENTS), text),
            _ => query(text),
        };
        Message::Forbidden(Box::new(message))
    }
}

// === any message ===

impl Writer<'_> {
    /// A message of any kind.
    pub(super) fn message(&mut self) -> Message {
        match self.random.random_range(0..30) {
            0..6 => query(self.text()),
            6..10 => parse(self.one(&STATEMENTS), self.statement()),
            10..14 => bind(self.one(&PORTALS), self.one(&STATEMENTS)),
            14..18 => execute(self.one(&PORTALS), self.one(&[0, 0, 1, 2])),
            18 => Message::DescribeStatement(self.one(&STATEMENTS)),
            19 => Message::DescribePortal(self.one(&PORTALS)),
            20 => Message::CloseStatement(self.one(&STATEMENTS)),
            21 => Message::ClosePortal(self.one(&PORTALS)),
            22..26 => Message::Sync,
            26 => Message::Flush,
            27 => Message::CopyData("1\tlate\n".to_owned()),
            28 => match self.users {
                Users::Tenants => self.one(&[
                    Message::CopyDone,
                    Message::CopyFail,
                    Message::Forbidden(Box::new(Message::FunctionCall)),
                ]),
                Users::Maintenance => {
                    self.one(&[Message::CopyDone, Message::CopyFail, Message::FunctionCall])
                }
            },
            _ => self.forbidden(),
        }
    }

    /// How a message is sent.
    pub(super) fn sent(&mut self, message: Message) -> Step {
        let cut = self.chance(8).then(|| self.random.random_range(0..1000));
        let then = match self.random.random_range(0..10) {
            0..6 => Then::More,
            6 => Then::Pause,
            _ => Then::Answer,
        };
        Step { message, cut, then }
    }

    pub(super) fn all_sent(&mut self, messages: Vec<Message>) -> Vec<Step> {
        messages.into_iter().map(|message| self.sent(message)).collect()
    }

    /// Changes a turn in a place or two.
    fn disturb(&mut self, mut turn: Turn) -> Turn {
        while self.chance(30) && !turn.steps.is_empty() {
            let place = self.random.random_range(0..turn.steps.len());
            match self.random.random_range(0..5) {
                0 => {
                    turn.steps.remove(place);
                }
                1 => turn.steps.insert(place, turn.steps[place].clone()),
                2 => {
                    let message = self.message();
                    let step = self.sent(message);
                    turn.steps.insert(place, step);
                }
                3 if place > 0 => turn.steps.swap(place - 1, place),
                _ => {
                    let message = turn.steps[place].message.clone();
                    turn.steps[place] = self.sent(message);
                }
            }
        }
        turn
    }
}
