//! What all connections share, and what stands above the flow and is handed to it.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::sync::Semaphore;

use crate::auth::{Authenticator, Identity};
use crate::breaker::Breaker;
use crate::clients::{Clients, Membership};
use crate::directory::{Directory, User};
use crate::guard::ChooserFunction;
use crate::names::UserName;
use crate::net::Channel;
use crate::observability::metrics::TenantLabels;
use crate::relay::Relay;
use crate::serve::logins::Logins;
use crate::session::{Bounds, End};
use crate::startup::Negotiator;
use crate::upstream::{Contexts, Upstreams};

/// What a reload replaces as a whole.
#[derive(Debug)]
pub struct Live {
    /// Users and tenants.
    pub directory: Directory,
    /// How connections are opened: certificates among it.
    pub negotiator: Negotiator,
    /// How passwords are proven.
    pub authenticator: Authenticator,
    /// Names of databases that tenants may use besides the upstreams'.
    pub databases: HashSet<String>,
}

/// Who serves operators: the console, which stands above all that it shows.
pub trait Operators: std::fmt::Debug + Send + Sync {
    /// Serves one until it leaves.
    fn run(self: Arc<Self>, session: OperatorSession) -> Pin<Box<dyn Future<Output = End> + Send>>;
}

/// A proven operator.
#[derive(Debug)]
pub struct OperatorSession {
    /// The stream.
    pub channel: Channel,
    /// Its place among the clients.
    pub membership: Membership,
    /// Who it is.
    pub identity: Identity,
}

/// Finds users whom the directory does not have.
pub trait Finder: std::fmt::Debug + Send + Sync {
    /// The user of that name, if there is one.
    fn find<'f>(&'f self, name: &'f UserName) -> Found<'f>;
    /// Remembers nothing any more.
    fn forget(&self);
}

/// What a [`Finder`] will have found.
pub type Found<'f> = Pin<Box<dyn Future<Output = Option<Arc<User>>> + Send + 'f>>;

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// What a reload replaces.
    pub live: ArcSwap<Live>,
    /// Who is connected.
    pub clients: Arc<Clients>,
    /// The way to PostgreSQL.
    pub upstreams: Upstreams,
    /// Makes the contexts that transactions run under.
    pub contexts: Contexts,
    /// What conversations share.
    pub relay: Arc<Relay>,
    /// Finds users whom the directory does not have, if anybody does.
    pub finder: Option<Arc<dyn Finder>>,
    /// Series of tenants.
    pub labels: TenantLabels,
    /// Whether anything of any tenant may run.
    pub breaker: Arc<Breaker>,
    /// Replication connections of each user.
    pub replication: DashMap<UserName, Arc<AtomicUsize>>,
    /// Who serves operators, once it is there.
    pub operators: OnceLock<Arc<dyn Operators>>,
    /// Connections that have not logged in.
    pub logins: Arc<Logins>,
    /// Those that are told that there is no place, before they are let go.
    pub turned_away: Semaphore,
    /// Seats for clients in all, taken when it is proven who they are.
    pub seats: Arc<Semaphore>,
    /// Seats for operators when those are taken.
    pub operator_seats: Arc<Semaphore>,
    /// From accept to the end of the login.
    pub login_timeout: Duration,
    /// What bounds the cost of messages.
    pub bounds: Arc<Bounds>,
    /// Functions of the database that choose the tenant.
    pub choosers: Arc<[ChooserFunction]>,
}
