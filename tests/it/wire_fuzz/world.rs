//! What sequences run in: a PostgreSQL with two equal databases, a proxy with one server connection in front of one of
//! them, and a recorder between the two.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::protect::{KEY, install, sealed};
use crate::support::cluster::{APP_PASSWORD, OWNER_PASSWORD};
use crate::support::recorder::Recorder;
use crate::support::{Cluster, Link, Proxy, message};

use super::compare::{compare, compare_or_lost, is_cut_off};
use super::pair::{Closing, Fault, Pair, Servers, Stop};
use super::step::{End, Event, Leaves, Message, SYNC_AMONG_ROWS, Sequence, Step, TENANTS, Turn, Users};
use super::tables::{END_SERVERS, LOCKS, ROWS, SEALED, STATE, TABLES};

/// Longest time for an answer; generous, because the machine is shared.
const PATIENCE: Duration = Duration::from_secs(3);
/// The database of the direct side.
const TWIN: &str = "twin";
/// What the proxy logs about a server that it does not understand any more.
const DOUBTS: &[&str] = &["doubt", "was lost", "out of turn", "nobody", "panicked", "could not be reset"];

/// Startup parameters of a client.
type Startup = Vec<(&'static str, &'static str)>;

/// How a sequence ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Both sides were the same.
    Same,
    /// They were as far as they could be compared.
    Inconclusive(&'static str),
    /// A fault.
    Found(Fault),
}

pub(super) struct World {
    cluster: Cluster,
    proxy: Proxy,
    recorder: Recorder,
    databases: [Client; 2],
    context: Context,
    log: usize,
    tables_changed: bool,
    /// Clients of the last sequence that can go on, with who they are and their startup parameters.
    idle: [Option<(Pair, Users, Startup)>; 2],
    /// Longest time in which the proxy has to give what PostgreSQL gave.
    pub(super) patience: Duration,
}

/// How the proxy enters tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    Plain,
    Sealed,
}

impl Context {
    fn chosen() -> Self {
        match std::env::var("PGTENANT_WIRE_FUZZ_CONTEXT").as_deref() {
            Ok("sealed") => Self::Sealed,
            Ok("plain" | "") | Err(_) => Self::Plain,
            Ok(other) => panic!("no such context: {other}"),
        }
    }
}

// === impl World ===

impl World {
    pub(super) async fn start() -> Self {
        let cluster = match std::env::var_os("PGTENANT_WIRE_FUZZ_POSTGRES") {
            Some(binaries) => Cluster::of(binaries.into()).await,
            None => Cluster::start().await,
        };
        let context = Context::chosen();
        cluster.execute(TABLES).await;
        if context == Context::Sealed {
            // Both databases are made from this one, so that the direct side has the same privileges.
            install(&cluster);
            cluster.execute(TABLES).await;
        }
        // The proxy logs in again whenever it had to close a server.
        for (role, password) in [("app", APP_PASSWORD), ("app_owner", OWNER_PASSWORD)] {
            cluster.execute(&format!("ALTER ROLE {role} PASSWORD '{}'", cheap_verifier(password))).await;
        }
        let recorder = Recorder::start(cluster.port()).await;
        let proxy = start_proxy(&cluster, &recorder, context).await;
        let superuser = cluster.superuser_of("postgres").await;
        superuser.batch_execute(&format!("CREATE DATABASE {TWIN} TEMPLATE app")).await.unwrap();
        let databases = [cluster.superuser().await, cluster.superuser_of(TWIN).await];
        recorder.arm();
        let log = proxy.log().len();
        Self {
            cluster,
            proxy,
            recorder,
            databases,
            context,
            log,
            tables_changed: true,
            idle: [None, None],
            patience: PATIENCE,
        }
    }

    /// What the last servers received and sent.
    pub(super) fn trace(&self) -> String {
        self.recorder.trace()
    }

    async fn both(&self, sql: &str) {
        for database in &self.databases {
            database.batch_execute(sql).await.unwrap();
        }
    }

    /// Both databases as they were in the beginning.
    async fn reset(&mut self) {
        if std::mem::take(&mut self.tables_changed) {
            self.both(TABLES).await;
            if self.context == Context::Sealed {
                self.databases[0].batch_execute(SEALED).await.unwrap();
            }
        }
        self.both(ROWS).await;
        self.recorder.begin();
        self.log = self.proxy.log().len();
    }

    /// Replaces the proxy's servers, so that nothing of earlier sequences is left.
    pub(super) async fn renew(&mut self) {
        self.tables_changed = true;
        self.idle = [None, None];
        self.databases[0].execute(END_SERVERS, &[]).await.unwrap();
        self.proxy.comes_to_rest().await;
    }

    /// Starts the proxy anew, which lets no more than a few answers be of another statement.
    async fn replace_proxy(&mut self) {
        self.idle = [None, None];
        self.recorder.serves_another_proxy();
        self.proxy = start_proxy(&self.cluster, &self.recorder, self.context).await;
        self.log = self.proxy.log().len();
    }

    /// Runs a sequence from its beginning.
    pub(super) async fn run(&mut self, sequence: &Sequence) -> Outcome {
        self.reset().await;
        let mut pairs = [self.client(0, sequence).await, self.client(1, sequence).await];
        let mut outcome = self.play(sequence, &mut pairs).await;
        if outcome.is_ok() {
            outcome = self.finish(&mut pairs).await;
        }
        if outcome.is_ok() {
            self.keep(pairs, sequence).await;
        }
        let violations = self.recorder.violations();
        let log = self.proxy.log();
        // What was done to a server is logged.
        let since = if self.recorder.has_tampered() { log.len() } else { self.log };
        if self.recorder.has_repeated_enough() {
            self.replace_proxy().await;
        }
        let new_log = log.get(since..).unwrap_or_default();
        let doubt = new_log.lines().find(|line| DOUBTS.iter().any(|doubt| line.contains(doubt)));
        let mut fault = match outcome {
            Err(Stop::Found(fault)) => Some(fault),
            // The server may have been closed for what both sides object to.
            Err(Stop::Inconclusive(why)) if violations.is_empty() => return Outcome::Inconclusive(why),
            Ok(()) | Err(Stop::Inconclusive(_)) => None,
        };
        if fault.as_ref().is_some_and(|fault| !matches!(&*fault.kind, "another tenant" | "server lost"))
            && violations.is_empty()
            && sequence.has_sync_among_rows()
        {
            return Outcome::Inconclusive(SYNC_AMONG_ROWS);
        }
        let others = [("recorder", violations.first().cloned()), ("log", doubt.map(str::to_owned))];
        for (who, found) in others.into_iter().filter_map(|(who, found)| Some((who, found?))) {
            let fault = fault.get_or_insert_with(|| Fault { kind: who.to_owned(), report: String::new() });
            fault.report = format!("{}\nthe {who}: {found}", fault.report);
        }
        fault.map_or(Outcome::Same, Outcome::Found)
    }

    /// A client without a past: a new one, or one that has discarded what it had.
    async fn client(&mut self, client: usize, sequence: &Sequence) -> Pair {
        match self.idle[client].take() {
            Some((mut pair, users, startup))
                if users == sequence.users && startup == sequence.startup[client] =>
            {
                pair.patience = self.patience;
                pair.servers = Servers::Last;
                pair
            }
            _ => self.connect(client, sequence).await,
        }
    }

    async fn keep(&mut self, pairs: [Pair; 2], sequence: &Sequence) {
        for mut pair in pairs {
            if !pair.is_closed() && pair.discard().await {
                let client = pair.client;
                self.idle[client] = Some((pair, sequence.users, sequence.startup[client].clone()));
            }
        }
    }

    async fn connect(&self, client: usize, sequence: &Sequence) -> Pair {
        let tenant = TENANTS[client];
        let (role, user, setting) = match sequence.users {
            Users::Tenants => ("app", format!("{tenant}_app"), "app.tenant_id"),
            Users::Maintenance => ("app_owner", "migrate".to_owned(), "fuzz.tenant"),
        };
        let options = format!("-c {setting}={tenant}");
        let mut startup = vec![("application_name", "fuzz")];
        startup.extend(&sequence.startup[client]);
        let socket = self.cluster.socket_directory().join(format!(".s.PGSQL.{}", self.cluster.port()));
        let mut direct = Link::unix(&socket).await;
        let mut parameters = vec![("user", role), ("database", TWIN), ("options", options.as_str())];
        parameters.extend(&startup);
        direct.startup(&parameters).await;
        direct.authenticate("").await.unwrap();
        if sequence.users == Users::Maintenance {
            startup.push(("options", options.as_str()));
        }
        let proxied = self.proxy.link_with(&user, &startup).await;
        Pair::new(client, [direct, proxied], self.patience)
    }

    async fn play(&mut self, sequence: &Sequence, pairs: &mut [Pair; 2]) -> Result<(), Stop> {
        for (place, event) in sequence.events.iter().enumerate() {
            match event {
                Event::Definition(sql) => {
                    self.tables_changed = true;
                    self.both(sql).await;
                }
                Event::Tampering(tampering) => {
                    self.recorder.tampers(*tampering);
                    for pair in pairs.iter_mut() {
                        pair.servers = Servers::MayBeLost;
                    }
                }
                Event::Turn(turn) => {
                    if pairs[turn.client].is_closed() {
                        let servers = pairs[turn.client].servers;
                        pairs[turn.client] = self.connect(turn.client, sequence).await;
                        pairs[turn.client].servers = servers;
                    }
                    self.turn(turn, sequence.events.get(place + 1), pairs).await?;
                }
            }
        }
        Ok(())
    }

    async fn turn(&self, turn: &Turn, next: Option<&Event>, pairs: &mut [Pair; 2]) -> Result<(), Stop> {
        self.expect(turn.client, &turn.steps);
        let (first, second) = pairs.split_at_mut(1);
        let (pair, other) = match turn.client {
            0 => (&mut first[0], &mut second[0]),
            _ => (&mut second[0], &mut first[0]),
        };
        pair.release().await;
        let hold = match turn.end {
            End::Hold(place) => Some(place),
            _ => None,
        };
        let before = pair.proxied.frames.len();
        pair.play(&turn.steps, hold, Some(other)).await?;
        if let Some(rows) = pair.late_rows(before) {
            self.recorder.sends_late(rows);
        }
        let then = (turn.leaves == Leaves::Pin).then_some("DISCARD ALL");
        match turn.end {
            End::Hold(_) if pair.is_idle() => return Ok(()),
            End::Rest(_) | End::Hold(_) => {
                let end = if let End::Rest(end) = turn.end { end } else { "ROLLBACK" };
                self.recorder.sends(turn.client, &message::query(end));
                self.expect_closers(turn.client);
                let early = self.early(turn, next);
                pair.settle(Closing { end, then, early }, Some(other)).await?;
            }
            End::Vanish | End::Terminate => {
                pair.leave(turn.end).await?;
                if turn.leaves == Leaves::Pin {
                    self.no_lock_is_left().await?;
                }
            }
        }
        check(pair)
    }

    /// The first message of the next turn, if the other client sends it in this one.
    fn early(&self, turn: &Turn, next: Option<&Event>) -> Option<Vec<u8>> {
        let Some(Event::Turn(next)) = next else { return None };
        let first = next.steps.first().filter(|_| next.is_early && next.client != turn.client)?;
        if next.steps.len() == 1 && matches!(next.end, End::Hold(_)) {
            return None;
        }
        self.expect(next.client, &next.steps[..1]);
        (!matches!(first.message, Message::Malformed(_))).then(|| first.message.bytes())
    }

    fn expect(&self, client: usize, steps: &[Step]) {
        for step in steps {
            match step.message {
                Message::Forbidden(_) => self.recorder.forbids(&step.message.bytes()),
                _ => self.recorder.sends(client, &step.message.bytes()),
            }
        }
    }

    fn expect_closers(&self, client: usize) {
        let closers = ["settled", "given up"].map(message::copy_fail);
        for closer in closers {
            self.recorder.sends(client, &closer);
        }
        for text in ["ROLLBACK", "DISCARD ALL"] {
            self.recorder.sends(client, &Message::Query(text.to_owned()).bytes());
        }
        for number in 1..40 {
            let marker = Message::Query(format!("SELECT 'marker {number}'"));
            self.recorder.sends(client, &marker.bytes());
        }
    }

    /// Waits until nothing holds an advisory lock in the proxy's database, because the client that did has left.
    async fn no_lock_is_left(&self) -> Result<(), Stop> {
        let until = Instant::now() + self.patience;
        loop {
            let row = self.databases[0].query_one(LOCKS, &[]).await.unwrap();
            match row.get::<_, i64>(0) {
                0 => return Ok(()),
                _ if Instant::now() > until => {
                    return Err(Stop::found("residue", "an advisory lock of a client that has left"));
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Settles what turns left open, and compares the databases.
    async fn finish(&self, pairs: &mut [Pair; 2]) -> Result<(), Stop> {
        for pair in pairs.iter_mut() {
            self.expect_closers(pair.client);
            if pair.holds_back() || !pair.direct.frames.is_empty() {
                pair.settle(Closing { end: "ROLLBACK", then: None, early: None }, None).await?;
                check(pair)?;
            }
        }
        let mut states = Vec::new();
        for database in &self.databases {
            let row = database.query_one(STATE, &[]).await.unwrap();
            let (state, foreign): (String, String) = (row.get(0), row.get(1));
            if !foreign.is_empty() {
                return Err(Stop::found("another tenant", format!("rows of another writer: {foreign}")));
            }
            states.push(state);
        }
        if states[0] != states[1] {
            return Err(Stop::found(
                "databases",
                format!("the databases differ\n--- proxied\n{}\n--- direct\n{}", states[0], states[1]),
            ));
        }
        Ok(())
    }
}

/// A proxy with one server, behind the recorder.
async fn start_proxy(cluster: &Cluster, recorder: &Recorder, context: Context) -> Proxy {
    let server = format!("127.0.0.1:{}", recorder.port());
    Proxy::start(cluster, |config| {
        config.one_server();
        config.set("upstream.main.hosts", vec![server.clone()]);
        config.set("tenancy.application_name", "{application_name}");
        config.set("tenancy.allow_unsafe", true);
        // Its questions, an hour later, would be taken for a client's.
        config.set("tenancy.doctor_interval", "0s");
        if context == Context::Sealed {
            sealed(config, KEY);
        }
        // The strict level refuses more of what sessions keep.
        config.lenient();
        config.set("defaults.queue_timeout", "20s");
        for user in ["acme_app", "globex_app", "migrate"] {
            config.set_user(user, "password", cheap_verifier(&format!("{user}-secret")));
        }
    })
    .await
}

/// Compares what a client received in its turn.
fn check(pair: &mut Pair) -> Result<(), Stop> {
    let client = pair.client;
    let is_closed = (pair.proxied.is_closed(), pair.direct.is_closed());
    let (direct, proxied) = pair.take_frames();
    match pair.servers {
        Servers::Last => compare(direct, proxied)?,
        Servers::MayBeLost if is_closed.0 && is_cut_off(&direct, &proxied) => {
            return Err(Stop::Inconclusive("a client that had sent ahead was disconnected with its server"));
        }
        Servers::MayBeLost => compare_or_lost(direct, &proxied)?,
    }
    match is_closed {
        (true, false) => Err(Stop::found("disconnected", format!("{} was disconnected", TENANTS[client]))),
        (false, true) => Err(Stop::found("connected", format!("{} was not disconnected", TENANTS[client]))),
        _ => Ok(()),
    }
}

/// A SCRAM verifier of one iteration, so that a login costs little.
fn cheap_verifier(password: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use sha2::{Digest as _, Sha256};

    let sign = |key: &[u8], text: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text);
        mac.finalize().into_bytes().to_vec()
    };
    let salt = b"sixteen bytes ok";
    let salted = sign(password.as_bytes(), &[&salt[..], &1_u32.to_be_bytes()].concat());
    let stored = Sha256::digest(sign(&salted, b"Client Key"));
    let server = sign(&salted, b"Server Key");
    format!(
        "SCRAM-SHA-256$1:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored),
        STANDARD.encode(server)
    )
}
