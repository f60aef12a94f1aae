//! The directory's tables in PostgreSQL: read as a whole, merged with the file, handed over as a snapshot; and read
//! again when somebody says that they changed, and at intervals.
//! Promise: what was read last and whole keeps serving, whatever becomes of that database.
//!
//! ```text
//!   connect, LISTEN ─> read ─> hand over ─> a notification, the interval, a move ─> read …
//!        ^                                         │
//!        └──── wait <──── lost, refused ───────────┘
//! ```

mod lookup;
mod rows;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use crate::config::Config;
use crate::config::rows::{Merged, Rows};
use crate::control;
use crate::directory::{Isolation, Tables};
use crate::names::TenantId;
use crate::observability::metrics::{directory_down, directory_up};
use crate::upstream::ConnectError;
use crate::upstream::settings::UpstreamSettings;
pub use lookup::Lookup;
use rows::{Raw, load, relocate};

/// The channel of notifications that the tables' triggers use.
pub const CHANNEL: &str = "pgtenant_directory";
/// Changes that come within this time, or within the time that a reading takes, are read at once.
const GATHER: Duration = Duration::from_millis(200);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is said again that they cannot be read.
const REMIND: Duration = Duration::from_secs(60);
/// The longest that reading all rows may take.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// The longest that a move may take, while its tenant waits.
const MOVE_LIMIT: Duration = Duration::from_secs(10);

/// File and tables as one, to be installed as a whole.
#[derive(Debug)]
pub struct Snapshot {
    /// What the tables hold.
    pub rows: Arc<Rows>,
    /// The file that it was merged with.
    pub file: Arc<Config>,
    /// Both.
    pub merged: Merged,
    /// Told once it is installed, or why it is not.
    pub installed: oneshot::Sender<Result<(), String>>,
}

/// Where a tenant goes; what is not said is as its description says or as the default is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// How its rows are kept apart there.
    pub isolation: Isolation,
    /// On which upstream.
    pub upstream: Option<String>,
    /// In which database.
    pub database: Option<String>,
    /// In which schema.
    pub schema: Option<String>,
    /// As which role.
    pub role: Option<String>,
}

/// A tenant of the tables that is to be moved.
struct Move {
    tenant: TenantId,
    to: Destination,
    reply: oneshot::Sender<Result<(), String>>,
}

/// Has tenants moved.
#[derive(Debug, Clone)]
pub struct Mover(mpsc::Sender<Move>);

impl std::fmt::Debug for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Move({})", self.tenant)
    }
}

impl Mover {
    /// Writes a tenant's new place to its row and has the snapshot with it installed; or why nothing has changed.
    pub async fn relocate(&self, tenant: &TenantId, to: &Destination) -> Result<(), String> {
        let ending = || "the proxy is ending".to_owned();
        let (reply, answer) = oneshot::channel();
        let order = Move { tenant: tenant.clone(), to: to.clone(), reply };
        self.0.send(order).await.map_err(|_| ending())?;
        answer.await.map_err(|_| "the directory's database was lost".to_owned())?
    }
}

/// Why the tables cannot be read.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("{}", told(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("{0} has more than max_rows = {1} rows")]
    TooMany(&'static str, usize),
    #[error("the rows cannot be read: {0}")]
    Rows(String),
    #[error("the answer is of no use: {0}")]
    Answer(String),
    #[error("reading took too long")]
    Timeout,
    #[error("the connection is closed")]
    Closed,
    #[error("the proxy is ending")]
    Ending,
}

fn told(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |db| format!("{} ({})", db.message(), db.code().code()))
}

/// Keeps up with the tables.
#[derive(Debug)]
pub struct Registry {
    tables: Tables,
    upstream: UpstreamSettings,
    file: Arc<ArcSwap<Config>>,
    snapshots: mpsc::Sender<Snapshot>,
    moves: mpsc::Receiver<Move>,
    last: Option<(Arc<Rows>, Arc<Config>)>,
    /// When it was last said that they cannot be read, since they could be.
    complained: Option<Instant>,
}

impl Registry {
    /// None: the file has no section `[directory]`. Snapshots come out of the receiver.
    pub fn new(file: Arc<ArcSwap<Config>>) -> Option<(Self, Mover, mpsc::Receiver<Snapshot>)> {
        let config = file.load_full();
        let tables = config.tables.clone()?;
        let upstream = config.upstreams.get(&tables.login.upstream)?;
        let upstream = upstream.in_database(tables.login.database.as_deref());
        let (snapshots, receiver) = mpsc::channel(1);
        let (sender, moves) = mpsc::channel(1);
        let registry = Self { tables, upstream, file, snapshots, moves, last: None, complained: None };
        Some((registry, Mover(sender), receiver))
    }

    /// Reads them now and again, for ever.
    pub async fn keep(mut self) {
        loop {
            let fault = match self.follow().await {
                Err(Fault::Ending) => return,
                Err(fault) => fault,
                Ok(never) => match never {},
            };
            directory_down();
            if self.complained.is_none_or(|since| since.elapsed() >= REMIND) {
                tracing::warn!(%fault, "the directory's tables cannot be read: what was read last stays");
                self.complained = Some(Instant::now());
            }
            self.pause().await;
        }
    }

    /// Nothing can be moved meanwhile.
    async fn pause(&mut self) {
        let refuse = async {
            while let Some(order) = self.moves.recv().await {
                drop(order.reply.send(Err("the directory's database is away".to_owned())));
            }
        };
        drop(timeout(RETRY, refuse).await);
    }

    async fn follow(&mut self) -> Result<Infallible, Fault> {
        let login = &self.tables.login;
        let (mark, mut news) = mpsc::channel(1);
        let client =
            control::connect_hearing(&self.upstream, (&login.user, login.password.as_ref()), Some(mark))
                .await?;
        let hello = format!("SET search_path = pg_catalog, pg_temp; LISTEN {CHANNEL}");
        within(READ_LIMIT, async { Ok(client.batch_execute(&hello).await?) }).await?;
        loop {
            let began = Instant::now();
            within(READ_LIMIT, self.read(&client)).await?;
            directory_up();
            self.complained = None;
            // Whoever notifies without end has half of the time read, not all of it.
            let gather = GATHER.max(began.elapsed());
            tokio::select! {
                heard = news.recv() => {
                    heard.ok_or(Fault::Closed)?;
                    sleep(gather).await;
                    let _heard = news.try_recv();
                }
                () = sleep(self.tables.interval) => {}
                order = self.moves.recv() => self.carry_out(&client, order.ok_or(Fault::Ending)?).await?,
            }
        }
    }

    async fn read(&mut self, client: &Client) -> Result<(), Fault> {
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let raw = load(client, self.tables.max_rows).await?;
        client.batch_execute("COMMIT").await?;
        let file = self.file.load_full();
        let last = self.last.clone().filter(|(_, with)| Arc::ptr_eq(with, &file)).map(|(last, _)| last);
        match merge(raw, Arc::clone(&file), last).await? {
            None => Ok(()),
            Some((rows, merged)) => self.hand_over(rows, file, merged).await,
        }
    }

    async fn hand_over(&mut self, rows: Arc<Rows>, file: Arc<Config>, merged: Merged) -> Result<(), Fault> {
        let (installed, done) = oneshot::channel();
        let snapshot = Snapshot { rows: Arc::clone(&rows), file: Arc::clone(&file), merged, installed };
        self.snapshots.send(snapshot).await.map_err(|_| Fault::Ending)?;
        done.await.map_err(|_| Fault::Ending)?.map_err(Fault::Rows)?;
        self.last = Some((rows, file));
        Ok(())
    }

    async fn carry_out(&mut self, client: &Client, order: Move) -> Result<(), Fault> {
        let outcome = within(MOVE_LIMIT, self.move_tenant(client, &order.tenant, &order.to)).await;
        match outcome {
            Ok(outcome) => {
                drop(order.reply.send(outcome));
                Ok(())
            }
            Err(fault) => {
                drop(order.reply.send(Err(fault.to_string())));
                Err(fault)
            }
        }
    }

    /// Writes the row, looks whether the tenant is where it should be then, and only then keeps it.
    async fn move_tenant(
        &mut self,
        client: &Client,
        tenant: &TenantId,
        to: &Destination,
    ) -> Result<Result<(), String>, Fault> {
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        let is_there = relocate(client, tenant, to).await?;
        let file = self.file.load_full();
        let raw = load(client, self.tables.max_rows).await?;
        let Some((rows, merged)) = merge(raw, Arc::clone(&file), None).await? else {
            return Err(Fault::Closed);
        };
        let place = merged.directory.tenants.get(tenant);
        if !is_there || place.is_none_or(|place| place.isolation != to.isolation) {
            client.batch_execute("ROLLBACK").await?;
            let name = format!("{:?}", tenant.as_str());
            let why = merged.left_out.iter().find(|problem| problem.place.contains(&name));
            return Ok(Err(why.map_or_else(|| "it has no row".to_owned(), ToString::to_string)));
        }
        client.batch_execute("COMMIT").await?;
        self.hand_over(rows, file, merged).await.map(Ok)
    }
}

/// Where there are many rows this takes a second, in which no client should wait. None: they are the last ones.
async fn merge(
    raw: Raw,
    file: Arc<Config>,
    last: Option<Arc<Rows>>,
) -> Result<Option<(Arc<Rows>, Merged)>, Fault> {
    let work = move || {
        let rows = raw.read()?;
        if last.is_some_and(|last| *last == rows) {
            return Ok(None);
        }
        let merged = file.with_rows(&rows).map_err(|problems| Fault::Rows(problems.to_string()))?;
        Ok(Some((Arc::new(rows), merged)))
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Fault::Rows(error.to_string()))?
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(limit, work).await.map_err(|_| Fault::Timeout)?
}
