//! One server connection and all that is known of its state. What is not known makes it unfit for reuse.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::names::TenantId;
use crate::net::Channel;
use crate::upstream::budget::Permit;
use crate::upstream::pool::Asker;
use crate::upstream::pool::defaults::Defaults;
use crate::upstream::pool::senders::Sender;
use crate::upstream::settings::ServerAddress;
use crate::wire::{backend, frame};

/// Identifies a statement text with its parameter types, process-wide.
pub type StatementId = u64;

/// A client as servers remember it: its process id, and how often it discarded its state.
pub type ClientKey = u64;

/// Who had the server last, and what it runs with because of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The tenant; none for maintenance.
    pub tenant: Option<TenantId>,
    /// The client.
    pub client: ClientKey,
    /// Fingerprint of the session parameters that were applied.
    pub parameters: u64,
    /// Whether the context that was entered still stands.
    pub context: ContextState,
}

/// What became of a context behind its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextState {
    /// It stands.
    InForce,
    /// It may be gone: a statement emptied the register, or was refused by it. The session is still its client's.
    Lost,
}

/// What use has left on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wear {
    /// Nobody used it since it was opened.
    Unused,
    /// Nobody used it since its session was reset.
    Reset,
    /// It was used, by statements that are known to leave nothing behind.
    Clean,
    /// Something ran that may have left session state behind.
    Dirty,
}

/// Whether the login role could become another role when the server logged in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OtherRoles {
    /// It could not: whatever runs on the server, its role stays.
    #[default]
    None,
    /// It could, or PostgreSQL does not say: code of the database may set a role that no text tells.
    Maybe,
}

/// A prepared statement on a server.
#[derive(Debug)]
struct PreparedCopy {
    /// Its name there.
    name: StatementId,
    /// When it was parsed there.
    parsed: u64,
    /// The tick of its last use.
    used: u64,
}

/// Whether a client may have made temporary objects on a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Temporary {
    /// None has.
    #[default]
    Never,
    /// One may have.
    Maybe,
}

/// A server connection.
#[derive(Debug)]
pub struct Server {
    /// Its stream and buffers.
    pub channel: Channel,
    /// What is known of its session.
    pub state: ServerState,
    address: ServerAddress,
    process_id: u32,
    key: Vec<u8>,
    /// The generation of its pool that it belongs to.
    pub generation: u64,
    /// When it logged in.
    pub opened: Instant,
    /// When it became idle.
    pub idle_since: Instant,
    /// Its part of the bounds on connections.
    pub permit: Option<Permit>,
}

/// What is known of a server's session, without its socket.
#[derive(Debug)]
pub struct ServerState {
    /// The values that it reported last (ParameterStatus), by name.
    pub parameters: BTreeMap<String, String>,
    /// The settings that it began with.
    pub defaults: Defaults,
    /// Who had it last. None: nobody yet, or its session is in doubt: it needs a hand-over before any use.
    pub stamp: Option<Stamp>,
    /// What its use has left on it.
    pub wear: Wear,
    /// Whether a client may have made temporary objects on it. Functions remember for the life of a server process what
    /// type names meant, and no reset undoes that; so no other tenant ever gets it.
    pub temporary: Temporary,
    /// Copies of prepared statements on it.
    prepared: HashMap<StatementId, PreparedCopy>,
    /// Names of copies that a newer one has replaced, to be closed.
    unneeded: Vec<StatementId>,
    tick: u64,
    /// The statement that its unnamed prepared statement is, as far as that is a client's.
    pub unnamed: Option<StatementId>,
    /// Whether the statement that asserts a plain context is prepared on it.
    pub has_assertion: bool,
    identity: BackendIdentity,
    /// The client that has it, for those who receive its notifications.
    pub sender: Sender,
    /// Notifications that arrived while a statement of the proxy ran.
    pub notifications: Vec<Vec<u8>>,
}

/// What a DEALLOCATE ALL takes from a server.
#[derive(Debug)]
pub struct Deallocated {
    prepared: HashMap<StatementId, PreparedCopy>,
    unneeded: Vec<StatementId>,
    has_assertion: bool,
}

/// Backend process of a server connection and its clock, as PostgreSQL reports them.
#[derive(Debug, Clone, Copy)]
pub struct BackendIdentity {
    /// `pg_backend_pid()`, which is not what a pooler in between would make us believe.
    pub backend_pid: u32,
    /// Its clock when that was asked, in seconds of the Unix epoch, and ours.
    pub clock: (u64, Instant),
    /// What its login role could become.
    pub other_roles: OtherRoles,
}

impl BackendIdentity {
    /// A process whose clock begins now.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn for_tests() -> Self {
        Self { backend_pid: 1, clock: (0, Instant::now()), other_roles: OtherRoles::None }
    }

    /// What the server's clock shows now.
    pub fn epoch_seconds(&self, now: Instant) -> u64 {
        let (then, asked) = self.clock;
        then.saturating_add(now.saturating_duration_since(asked).as_secs())
    }
}

impl Server {
    /// A server that has just logged in.
    pub fn new(
        channel: Channel,
        (address, (process_id, key)): (ServerAddress, (u32, Vec<u8>)),
        identity: BackendIdentity,
        sender: Sender,
    ) -> Self {
        Self {
            channel,
            state: ServerState::new(identity, sender),
            address,
            process_id,
            key,
            generation: 0,
            opened: Instant::now(),
            idle_since: Instant::now(),
            permit: None,
        }
    }

    /// With what it reported at login.
    #[must_use]
    pub fn with_parameters(mut self, parameters: BTreeMap<String, String>) -> Self {
        self.state.parameters = parameters;
        self
    }

    /// Where to send a cancel request, for which process, with which key.
    pub fn cancel_target(&self) -> (ServerAddress, u32, Vec<u8>) {
        (self.address.clone(), self.process_id, self.key.clone())
    }

    /// PostgreSQL's process id, for logs.
    pub const fn process_id(&self) -> u32 {
        self.process_id
    }

    /// As it reported (PostgreSQL 14 and later report both).
    pub fn accepts_writes(&self) -> bool {
        let is_on = |name: &str| self.state.parameters.get(name).is_some_and(|value| value == "on");
        !is_on("in_hot_standby") && !is_on("default_transaction_read_only")
    }

    /// Whether this tenant had it last.
    pub(crate) fn was_of(&self, tenant: Option<&TenantId>) -> bool {
        self.state.stamp.as_ref().is_some_and(|stamp| stamp.tenant.as_ref() == tenant)
    }

    /// Whether it has been idle for so long, with what its last user left. One that may have had temporary objects is of no
    /// use to another tenant.
    pub(crate) fn is_unreset(&self, idle_for: Duration) -> bool {
        let is_fresh = self.state.stamp.is_none() && matches!(self.state.wear, Wear::Unused | Wear::Reset);
        !is_fresh && self.state.temporary == Temporary::Never && self.idle_since.elapsed() >= idle_for
    }

    /// How well it fits: this client's own, its tenant's, nobody's, a stranger's.
    pub fn rank(&self, asker: Asker<'_>) -> u8 {
        match &self.state.stamp {
            Some(stamp) if stamp.client == asker.client => 3,
            Some(stamp) if stamp.tenant.as_ref() == asker.tenant => 2,
            None => 1,
            Some(_) => 0,
        }
    }

    /// Whether an idle server still stands. Costs no system call as long as nothing has arrived.
    pub async fn is_alive(&mut self) -> bool {
        poll_fn(|cx| {
            loop {
                match self.channel.stream.poll_readable(cx) {
                    Poll::Pending => return Poll::Ready(true),
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Ready(Ok(())) => {}
                }
                match self.channel.input.poll_fill(&mut self.channel.stream, cx, 1) {
                    Poll::Pending => return Poll::Ready(true),
                    Poll::Ready(Ok(1..)) if self.take_asynchronous() => {}
                    Poll::Ready(_) => return Poll::Ready(false),
                }
            }
        })
        .await
    }

    /// Takes what PostgreSQL may send at any time; false if there is anything else.
    fn take_asynchronous(&mut self) -> bool {
        while !self.channel.input.is_empty() {
            let bytes = self.channel.input.bytes();
            let Ok(Some(header)) = frame::header(bytes) else { return false };
            let Some(message) = bytes.get(..header.total) else { return false };
            match header.tag {
                b'S' => {
                    let Some((name, value)) = backend::parameter_status(frame::body(message)) else {
                        return false;
                    };
                    self.state.parameters.insert(name.to_owned(), value.to_owned());
                }
                b'N' => {}
                _ => return false,
            }
            self.channel.input.consume(header.total);
        }
        true
    }
}

// === impl ServerState ===

impl ServerState {
    /// The session of a server that nobody has used.
    pub fn new(identity: BackendIdentity, sender: Sender) -> Self {
        Self {
            parameters: BTreeMap::new(),
            defaults: Defaults::default(),
            stamp: None,
            wear: Wear::Unused,
            temporary: Temporary::Never,
            prepared: HashMap::new(),
            unneeded: Vec::new(),
            tick: 0,
            unnamed: None,
            has_assertion: false,
            identity,
            sender,
            notifications: Vec::new(),
        }
    }

    /// PostgreSQL's major version, zero if it does not say.
    pub fn major_version(&self) -> u32 {
        let version = self.parameters.get("server_version").map_or("", String::as_str);
        let digits = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().unwrap_or_default()
    }

    /// Whether it is a standby, where nothing can be written.
    pub fn is_standby(&self) -> bool {
        self.parameters.get("in_hot_standby").is_some_and(|value| value == "on")
    }

    /// The server process and its clock.
    pub const fn identity(&self) -> BackendIdentity {
        self.identity
    }

    /// The name of its copy of the statement, if that was parsed no earlier than this; counts as a use.
    pub fn prepared(&mut self, id: StatementId, since: u64) -> Option<StatementId> {
        self.tick += 1;
        let copy = self.prepared.get_mut(&id).filter(|copy| copy.parsed >= since)?;
        copy.used = self.tick;
        Some(copy.name)
    }

    /// It has a copy of the statement under the statement's own name from now on. The names that have to be closed first:
    /// older copies, and the one used longest ago if that makes more than `limit`.
    pub fn add_prepared(&mut self, id: StatementId, (parsed, limit): (u64, usize)) -> Vec<StatementId> {
        self.tick += 1;
        let mut closed = std::mem::take(&mut self.unneeded);
        let copy = PreparedCopy { name: id, parsed, used: self.tick };
        closed.extend(self.prepared.insert(id, copy).map(|old| old.name));
        if self.prepared.len() > limit
            && let Some((&oldest, _)) =
                self.prepared.iter().filter(|(other, _)| **other != id).min_by_key(|(_, copy)| copy.used)
        {
            closed.extend(self.prepared.remove(&oldest).map(|copy| copy.name));
        }
        closed
    }

    /// The copy of one statement is one of another that has the same text and description.
    pub fn adopt_prepared(&mut self, id: StatementId, own: StatementId) {
        let Some(copy) = self.prepared.remove(&own) else { return };
        self.unneeded.extend(self.prepared.insert(id, copy).map(|old| old.name));
    }

    /// A Close of this name was skipped.
    pub fn keep_unneeded(&mut self, name: StatementId) {
        self.unneeded.push(name);
    }

    /// It does not have the statement after all. The name of the copy.
    pub fn remove_prepared(&mut self, id: StatementId) -> Option<StatementId> {
        self.prepared.remove(&id).map(|copy| copy.name)
    }

    /// All prepared statements are gone, or are another client's.
    pub fn clear_prepared(&mut self) {
        drop(self.deallocate_all());
        self.unnamed = None;
    }

    /// DEALLOCATE ALL: the unnamed statement stays. What gives the others back if it does not run.
    pub fn deallocate_all(&mut self) -> Deallocated {
        Deallocated {
            prepared: std::mem::take(&mut self.prepared),
            unneeded: std::mem::take(&mut self.unneeded),
            has_assertion: std::mem::take(&mut self.has_assertion),
        }
    }

    /// A DEALLOCATE ALL did not run.
    pub fn restore_prepared(&mut self, deallocated: Deallocated) {
        self.prepared = deallocated.prepared;
        self.unneeded = deallocated.unneeded;
        self.has_assertion = deallocated.has_assertion;
    }
}

/// The name of a statement on servers. Clients' own names never get there.
pub fn prepared_name(id: StatementId) -> String {
    format!("pgtenant_{id}")
}
