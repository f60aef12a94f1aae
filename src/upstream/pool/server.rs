//! One server connection and all that is known of its state. What is not known makes it unfit for reuse.

use std::collections::{BTreeMap, HashSet};
use std::future::poll_fn;
use std::task::Poll;

use tokio::time::Instant;

use crate::names::TenantId;
use crate::net::Channel;
use crate::upstream::budget::Permit;
use crate::upstream::context::seal::SealedFrames;
use crate::upstream::pool::Asker;
use crate::upstream::pool::copies::{Copies, StatementId};
use crate::upstream::pool::senders::Sender;
use crate::upstream::settings::ServerAddress;
use crate::wire::{backend, frame};

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
}

/// What use has left on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wear {
    /// Nobody used it since it was opened.
    Unused,
    /// It was used, by statements that are known to leave nothing behind.
    Clean,
    /// Something ran that may have left session state behind.
    Dirty,
}

/// A server connection.
#[derive(Debug)]
pub struct Server {
    /// Its stream and buffers.
    pub channel: Channel,
    address: ServerAddress,
    process_id: u32,
    key: Vec<u8>,
    /// What it reported last, by name.
    pub parameters: BTreeMap<String, String>,
    /// Who had it last; none: nobody yet, or a reset did not succeed.
    pub stamp: Option<Stamp>,
    /// What its use has left on it.
    pub wear: Wear,
    /// Prepared statements of clients on it.
    pub copies: Copies,
    /// What its unnamed statement is, as far as that is a client's.
    pub unnamed: Option<StatementId>,
    /// Names of the statements that enter a context and are prepared on it.
    pub entries: HashSet<&'static str>,
    identity: Identity,
    /// Who has it, for those who hear of it.
    pub sender: Sender,
    /// The sealed context that was entered last.
    pub sealed: Option<SealedFrames>,
    /// The marker of the last reset, if it is still there.
    pub marker: Option<String>,
    /// Of which generation of its pool it is.
    pub generation: u64,
    /// Since when it is idle.
    pub idle_since: Instant,
    /// Its part of the bounds.
    pub permit: Option<Permit>,
    /// Notifications that came while a statement of our own ran.
    pub notifications: Vec<Vec<u8>>,
}

/// Which server process it is, and its clock, as PostgreSQL itself says.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// `pg_backend_pid()`, which is not what a pooler in between would make us believe.
    pub backend_pid: u32,
    /// Its clock when that was asked, in seconds of the Unix epoch, and ours.
    pub clock: (u64, Instant),
}

impl Identity {
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
        identity: Identity,
        sender: Sender,
    ) -> Self {
        Self {
            channel,
            address,
            process_id,
            key,
            parameters: BTreeMap::new(),
            stamp: None,
            wear: Wear::Unused,
            copies: Copies::default(),
            unnamed: None,
            entries: HashSet::new(),
            identity,
            sender,
            sealed: None,
            marker: None,
            generation: 0,
            idle_since: Instant::now(),
            permit: None,
            notifications: Vec::new(),
        }
    }

    /// With what it reported at login.
    #[must_use]
    pub fn with_parameters(mut self, parameters: BTreeMap<String, String>) -> Self {
        self.parameters = parameters;
        self
    }

    /// Where to send a cancel request, for which process, with which key.
    pub fn cancel_target(&self) -> (ServerAddress, u32, Vec<u8>) {
        (self.address.clone(), self.process_id, self.key.clone())
    }

    /// Which server process it is.
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// PostgreSQL's process id, for logs.
    pub const fn process_id(&self) -> u32 {
        self.process_id
    }

    /// As it reported (PostgreSQL 14 and later report both).
    pub fn accepts_writes(&self) -> bool {
        let is_on = |name: &str| self.parameters.get(name).is_some_and(|value| value == "on");
        !is_on("in_hot_standby") && !is_on("default_transaction_read_only")
    }

    /// Whether this tenant had it last.
    pub(crate) fn was_of(&self, tenant: Option<&TenantId>) -> bool {
        self.stamp.as_ref().is_some_and(|stamp| stamp.tenant.as_ref() == tenant)
    }

    /// How well it fits: this client's own, its tenant's or untouched, a stranger's.
    pub fn rank(&self, asker: Asker<'_>) -> u8 {
        match &self.stamp {
            Some(stamp) if stamp.client == asker.client => 3,
            Some(stamp) if stamp.tenant.as_ref() == asker.tenant => 2,
            _ if self.wear == Wear::Unused => 1,
            _ => 0,
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
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
                b'N' => {}
                _ => return false,
            }
            self.channel.input.consume(header.total);
        }
        true
    }

    /// All prepared statements are gone.
    pub fn clear_prepared(&mut self) {
        self.copies.clear();
        self.unnamed = None;
        self.entries.clear();
    }
}

/// The name on its server of the copy with this number. Clients' own names never get there.
pub fn prepared_name(number: u64) -> String {
    format!("pgtenant_{number}")
}
