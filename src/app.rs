//! Builds every part from the configuration, wires it, reloads it on SIGHUP and drains it on SIGTERM.

mod choosers;
mod descriptors;
mod signals;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::auth::{Authenticator, Tokens};
use crate::canary::Probes;
use crate::clients::{Clients, Order};
use crate::config::rows::{Merged, Rows};
use crate::config::{self, Config, Problems};
use crate::console::{Console, ProcessRequest, Refused, Setting, Sources};
use crate::directory::Directory;
use crate::doctor::{self, Watch};
use crate::guard::{ChooserFunction, Verdicts};
use crate::memory::Budget;
use crate::names::{TenantId, UserName};
use crate::net::listener::Listener;
use crate::net::tls::{TlsError, load_identity};
use crate::observability::http::{self, Ready};
use crate::observability::logging;
use crate::observability::metrics::{ContextSwitches, Exporter, TenantLabels, directory_rows};
use crate::registry::{Lookup, Registry, Snapshot};
use crate::relay::Relay;
use crate::serve::logins::Logins;
use crate::serve::{self, Finder, Live, OPERATOR_SEATS, Shared, TURNED_AWAY, drain};
use crate::session::Bounds;
use crate::startup::Negotiator;
use crate::upstream::{Contexts, Upstreams};
use descriptors::Shares;
use signals::{Signals, Wanted};

/// What the guard may remember of texts that come again, in bytes.
const VERDICT_BYTES: usize = 16 * 1024 * 1024;
/// How often recorded samples are folded into buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long the start waits for the directory's tables.
const FIRST_SNAPSHOT: Duration = Duration::from_secs(10);
/// Rows with problems that are logged one by one.
const TOLD_LEFT_OUT: usize = 10;

/// Why the process could not serve.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration.
    #[error("{0}")]
    Config(#[from] Problems),
    /// Certificates.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// An address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The doctor found that the database does not isolate.
    #[error("{0}")]
    Unsafe(#[from] doctor::Unsafe),
    /// Logs, metrics, signals.
    #[error("cannot start: {0}")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AppError {
    fn start(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Start(error.into())
    }
}

/// Serves until SIGTERM or SIGINT.
pub fn serve(path: &Path) -> Result<(), AppError> {
    let config = read(path)?;
    let workers = config.listen.workers;
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    runtime.map_err(AppError::start)?.block_on(run(path, config))
}

/// Reads the configuration, which says how many workers there are. No signal ends the process meanwhile: a handler that
/// was installed once stays, and what came is told to the next one.
fn read(path: &Path) -> Result<Config, AppError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(AppError::start)?;
    let _signals = runtime.block_on(async { Signals::install() }).map_err(AppError::start)?;
    Ok(config::load(path)?)
}

async fn run(path: &Path, config: Config) -> Result<(), AppError> {
    let signals = Signals::install().map_err(AppError::start)?;
    let _logging = logging::start(&config.log).map_err(AppError::start)?;
    let exporter = Exporter::install().map_err(AppError::start)?;
    let app = App::new(path.to_owned(), config, rand::random())?;
    let ready = Ready::default();
    let metrics_address = app.config.metrics.address.clone();
    let metrics = TcpListener::bind(&metrics_address)
        .await
        .map_err(|source| AppError::Listen { address: metrics_address.clone(), source })?;
    let http = tokio::spawn(http::serve(metrics, exporter.clone(), ready.clone()));
    let outcome = app.examined_run(signals, &exporter, &ready).await;
    http.abort();
    outcome
}

struct App {
    path: PathBuf,
    /// In force: what needs a restart is as it was at start.
    config: Config,
    /// As it was read last.
    file: Arc<ArcSwap<Config>>,
    /// What the directory's tables held last.
    rows: Arc<Rows>,
    shared: Arc<Shared>,
    mock_key: [u8; 32],
    probes: Option<Arc<Probes>>,
    tokens: Option<Arc<Tokens>>,
    /// Settings in force, for operators.
    settings: Arc<ArcSwap<Vec<Setting>>>,
    /// Has the doctor look again.
    reloaded: Arc<Notify>,
}

/// What runs beside the clients, and what comes from there.
struct Background {
    tasks: Vec<JoinHandle<()>>,
    requests: mpsc::Receiver<ProcessRequest>,
    /// None: the file has no section `[directory]`.
    snapshots: Option<mpsc::Receiver<Snapshot>>,
}

impl App {
    fn new(path: PathBuf, config: Config, mock_key: [u8; 32]) -> Result<Self, AppError> {
        let relay = Relay {
            verdicts: Verdicts::new(VERDICT_BYTES),
            interner: Arc::default(),
            max_message_bytes: config.listen.max_message_bytes,
            max_prepared_bytes: config.listen.max_prepared_bytes,
            max_client_memory: config.listen.max_client_memory,
            memory: Arc::new(Budget::of_process(config.listen.max_memory)),
            switches: ContextSwitches::default(),
        };
        let quota = Shares::of(&config);
        let probes = config.canary.clone().and_then(Probes::new).map(Arc::new);
        let tokens = config.token.clone().map(Tokens::new).transpose()?.map(Arc::new);
        let settings = Arc::new(ArcSwap::from_pointee(config.shown()));
        let shared = Shared {
            live: ArcSwap::from_pointee(live(
                &config,
                config.directory.clone(),
                (mock_key, probes.as_deref(), tokens.as_ref()),
            )?),
            clients: Arc::new(Clients::new(config.listen.max_tenant_memory)),
            contexts: Contexts::new(&config.directory.tenancy),
            upstreams: Upstreams::new(config.upstreams.values().cloned(), quota.servers),
            relay: Arc::new(relay),
            finder: Lookup::new(&config).map(|lookup| Arc::new(lookup) as Arc<dyn Finder>),
            labels: TenantLabels::new(config.metrics.max_tenants),
            breaker: Arc::default(),
            replication: dashmap::DashMap::default(),
            operators: OnceLock::new(),
            logins: Logins::new(quota.logins, config.listen.max_logins_per_address),
            turned_away: Semaphore::new(TURNED_AWAY),
            seats: Arc::new(Semaphore::new(quota.clients)),
            operator_seats: Arc::new(Semaphore::new(OPERATOR_SEATS)),
            login_timeout: config.listen.login_timeout,
            bounds: Arc::new(Bounds::new(config.listen.message_timeout)),
            choosers: config.directory.tenancy.choosers.iter().cloned().map(ChooserFunction::new).collect(),
        };
        let file = Arc::new(ArcSwap::from_pointee(config.clone()));
        let (shared, rows) = (Arc::new(shared), Arc::default());
        let reloaded = Arc::default();
        Ok(Self { path, config, file, rows, shared, mock_key, probes, tokens, settings, reloaded })
    }

    /// Nobody is let in before the doctor has looked at every upstream that can be reached.
    async fn examined_run(
        self,
        mut signals: Signals,
        exporter: &Exporter,
        ready: &Ready,
    ) -> Result<(), AppError> {
        let shared = Arc::clone(&self.shared);
        let directory = move || shared.live.load().directory.clone();
        let mut watch = Watch::new(directory, self.config.upstreams.values().cloned().collect());
        tokio::select! {
            verdict = watch.first() => verdict?,
            () = signals.end() => {
                tracing::info!("stopped before it was ready");
                return Ok(());
            }
        }
        tokio::select! {
            () = choosers::look(&self.shared.choosers, &self.config) => {}
            () = signals.end() => return Ok(()),
        }
        self.run((watch, signals), exporter, ready).await
    }

    async fn run(
        mut self,
        (watch, mut signals): (Watch, Signals),
        exporter: &Exporter,
        ready: &Ready,
    ) -> Result<(), AppError> {
        let listen = &self.config.listen;
        let listener = Listener::bind(&listen.address, listen.socket_dir.as_deref())
            .await
            .map_err(|source| AppError::Listen { address: listen.address.clone(), source })?;
        let address = listener.address().map_err(AppError::start)?;
        let Background { tasks, mut requests, mut snapshots } = self.background(exporter);
        let mut upkeep = tokio::time::interval(UPKEEP);
        let mut watch = std::pin::pin!(watch.run(Arc::clone(&self.reloaded)));
        let mut verdict = Ok(());
        match &mut snapshots {
            None => ready.set(),
            Some(snapshots) => tokio::select! {
                snapshot = first_snapshot(snapshots) => self.take(snapshot, ready),
                // And so does the loop below, at once.
                () = signals.end() => {}
            },
        }
        tracing::info!(%address, metrics = self.config.metrics.address, version = env!("CARGO_PKG_VERSION"), "ready");
        loop {
            tokio::select! {
                stream = listener.accept() => serve::accept(&self.shared, stream),
                wanted = signals.next() => match wanted {
                    Wanted::Reload => drop(self.reload().await),
                    Wanted::End => break,
                },
                Some(request) = requests.recv() => match request {
                    // Who asked may have gone.
                    ProcessRequest::Reload(reply) => drop(reply.send(self.reload().await)),
                    ProcessRequest::Install(config, over, reply) => drop(reply.send(self.install_over(*config, &over).await)),
                    ProcessRequest::Shutdown => break,
                },
                Some(snapshot) = next(&mut snapshots) => self.take(Some(snapshot), ready),
                _ = upkeep.tick() => {
                    // Takes a while where there are many series.
                    let exporter = exporter.clone();
                    drop(tokio::task::spawn_blocking(move || exporter.upkeep()));
                    self.shared.upstreams.reap();
                    self.shared.clients.expire(SystemTime::now());
                }
                found = &mut watch => {
                    tracing::error!("an upstream that could be reached only now does not isolate tenants: stopping");
                    verdict = Err(AppError::Unsafe(found));
                    break;
                }
            }
        }
        ready.clear();
        drop(listener);
        for task in tasks {
            task.abort();
        }
        tracing::info!(clients = self.shared.clients.count(), "draining");
        self.shared.seats.close();
        self.shared.operator_seats.close();
        // What is not isolated has no time to finish.
        let limit = verdict.as_ref().map_or(Duration::ZERO, |()| self.config.listen.drain_timeout);
        drain(&self.shared.clients, limit).await;
        tracing::info!("stopped");
        verdict
    }

    /// What runs beside the clients; the console is there from here on.
    fn background(&self, exporter: &Exporter) -> Background {
        let mut tasks = Vec::new();
        let (mover, snapshots) = match Registry::new(Arc::clone(&self.file)) {
            None => (None, None),
            Some((registry, mover, snapshots)) => {
                tasks.push(tokio::spawn(registry.keep()));
                (Some(mover), Some(snapshots))
            }
        };
        if let Some(probes) = self.probes.clone() {
            let shared = Arc::clone(&self.shared);
            let setting = self.config.directory.tenancy.setting.clone();
            tasks.push(tokio::spawn(async move { probes.walk(&shared, &setting).await }));
        }
        let shared = Arc::clone(&self.shared);
        tasks.push(tokio::spawn(async move { shared.upstreams.reset_idle_servers().await }));
        if let Some(tokens) = self.tokens.clone() {
            tasks.push(tokio::spawn(async move { tokens.keep_keys().await }));
        }
        let (shared, config) = (Arc::clone(&self.shared), self.config.clone());
        tasks.push(tokio::spawn(async move { choosers::find(&shared.choosers, &config).await }));
        let (sender, requests) = mpsc::channel(4);
        let sources = Sources {
            settings: Arc::clone(&self.settings),
            path: self.path.clone(),
            file: Arc::clone(&self.file),
            mover,
        };
        let console = Console::new(Arc::clone(&self.shared), exporter.clone(), sender, sources);
        let _first = self.shared.operators.set(Arc::new(console));
        Background { tasks, requests, snapshots }
    }

    /// Takes what can go live of the file; a bad one changes nothing.
    async fn reload(&mut self) -> Result<(), Refused> {
        let outcome = match config::load(&self.path) {
            Ok(config) => self.install(config).await,
            Err(problems) => Err(problems.to_string()),
        };
        if let Err(problems) = &outcome {
            tracing::error!(problems, "reload refused: the old configuration stays");
        }
        outcome
    }

    async fn install_over(&mut self, config: Config, over: &Arc<Config>) -> Result<(), Refused> {
        if !Arc::ptr_eq(over, &self.file.load()) {
            return Err("another was read meanwhile; try again".to_owned());
        }
        self.install(config).await
    }

    async fn install(&mut self, config: Config) -> Result<(), Refused> {
        self.admit_roles(&config).await?;
        let merged = config.with_rows(&self.rows).map_err(|problems| problems.to_string())?;
        tell_left_out(&self.rows, &merged);
        let live = self.live(&config, merged.directory)?;
        for setting in config::needs_restart(&self.config, &config) {
            tracing::warn!(setting, "changed, but takes effect only after a restart");
        }
        self.shared.contexts.replace_key(&config.directory.tenancy.context);
        self.config.directory = config.directory.clone();
        self.settings.store(Arc::new(self.config.shown()));
        self.file.store(Arc::new(config));
        if let Some(finder) = &self.shared.finder {
            finder.forget();
        }
        self.replace(live, "configuration reloaded");
        self.reloaded.notify_one();
        Ok(())
    }

    /// Roles that no user could set before are looked at in the databases, as at the start.
    async fn admit_roles(&self, config: &Config) -> Result<(), Refused> {
        let (before, now) = (self.config.directory.roles(), config.directory.roles());
        if now.is_subset(&before) || config.directory.tenancy.allow_unsafe {
            return Ok(());
        }
        let upstreams: Vec<_> = self.config.upstreams.values().cloned().collect();
        Box::pin(doctor::refuse_roles(&upstreams, &config.directory)).await
    }

    /// Takes what the tables hold; the last that was whole stays otherwise.
    fn take(&mut self, snapshot: Option<Snapshot>, ready: &Ready) {
        let Some(Snapshot { rows, file, merged, installed }) = snapshot else { return };
        let now = self.file.load_full();
        let merged = if Arc::ptr_eq(&file, &now) { Ok(merged) } else { now.with_rows(&rows) };
        let live = merged.map_err(|problems| problems.to_string()).and_then(|merged| {
            tell_left_out(&rows, &merged);
            self.live(&now, merged.directory)
        });
        let outcome = live.map(|live| {
            self.rows = rows;
            self.replace(live, "the directory's tables were read");
            ready.set();
        });
        // Who waits for it may have gone.
        drop(installed.send(outcome));
    }

    fn live(&self, config: &Config, directory: Directory) -> Result<Live, Refused> {
        let with = (self.mock_key, self.probes.as_deref(), self.tokens.as_ref());
        live(config, directory, with).map_err(|error| error.to_string())
    }

    /// Those who are connected learn what of the directory has changed for them.
    fn replace(&self, live: Live, what: &'static str) {
        let live = Arc::new(live);
        let old = self.shared.live.swap(Arc::clone(&live));
        let (old, new) = (&old.directory, &live.directory);
        let moved = self.shared.clients.follow(old, new);
        let grant = |directory: &Directory, name: &UserName| {
            directory.users.get(name).map(|user| (user.grant.clone(), user.allow.clone(), user.roles.clone()))
        };
        let gone = |name: &UserName, tenant: Option<&TenantId>| {
            grant(old, name) != grant(new, name)
                || tenant.is_some_and(|tenant| !new.tenants.contains_key(tenant))
        };
        let told = self.shared.clients.order(Order::Leave, gone);
        tracing::info!(
            users = new.users.len(),
            tenants = new.tenants.len(),
            tenants_moved = moved,
            clients_told_to_leave = told,
            "{what}"
        );
    }
}

async fn first_snapshot(snapshots: &mut mpsc::Receiver<Snapshot>) -> Option<Snapshot> {
    let first = timeout(FIRST_SNAPSHOT, snapshots.recv()).await;
    first.unwrap_or_else(|_| {
        tracing::error!(
            "the directory's tables cannot be read yet: until then only users of the file can log in"
        );
        None
    })
}

/// Without a channel there is never anything.
async fn next(snapshots: &mut Option<mpsc::Receiver<Snapshot>>) -> Option<Snapshot> {
    match snapshots {
        Some(snapshots) => snapshots.recv().await,
        None => std::future::pending().await,
    }
}

/// Rows with problems are logged, the first of them in full.
fn tell_left_out(rows: &Rows, merged: &Merged) {
    if rows.count() == 0 && merged.left_out.is_empty() {
        return;
    }
    let left_out = merged.left_out.len();
    directory_rows(rows.count().saturating_sub(left_out), left_out);
    for problem in merged.left_out.iter().take(TOLD_LEFT_OUT) {
        tracing::warn!(%problem, "a row of the directory's tables is left out");
    }
    if left_out > TOLD_LEFT_OUT {
        tracing::warn!(left_out, "more rows of the directory's tables are left out");
    }
}

fn live(
    config: &Config,
    mut directory: Directory,
    (mock_key, probes, tokens): ([u8; 32], Option<&Probes>, Option<&Arc<Tokens>>),
) -> Result<Live, TlsError> {
    let listen = &config.listen;
    let identity = match (&listen.certificate, &listen.private_key) {
        (Some(certificate), Some(key)) if listen.tls != crate::net::settings::ClientTls::Off => {
            Some(load_identity(certificate, key, listen.clients.as_ref())?)
        }
        _ => None,
    };
    if let Some(probes) = probes {
        probes.enlist(&mut directory);
    }
    let chain = identity.as_ref().map(|identity| &*identity.chain_pem);
    let authenticator = Authenticator::new(chain, mock_key, tokens.cloned(), &directory);
    let authenticator =
        if config.auth_query.is_some() { authenticator.with_passwords() } else { authenticator };
    Ok(Live {
        authenticator,
        negotiator: Negotiator {
            tls: listen.tls,
            identity: identity.map(|identity| identity.config),
            max_startup_bytes: listen.max_startup_bytes,
        },
        directory,
        databases: listen.databases.iter().cloned().collect(),
    })
}
