//! Builds every part from the configuration, wires it, reloads it on SIGHUP and drains it on SIGTERM.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use crate::auth::{Authenticator, Tokens};
use crate::canary::Probes;
use crate::clients::Order;
use crate::config::{self, Config, Problems};
use crate::console::{Console, Refused, Setting, Wish};
use crate::directory::Directory;
use crate::doctor::{self, Watch};
use crate::guard::Verdicts;
use crate::names::{TenantId, UserName};
use crate::net::listener::Listener;
use crate::net::tls::{TlsError, load_identity};
use crate::observability::http::{self, Ready};
use crate::observability::logging;
use crate::observability::metrics::{ContextSwitches, Exporter, TenantLabels};
use crate::relay::Relay;
use crate::serve::{Live, Shared, connection, drain};
use crate::startup::Negotiator;
use crate::upstream::{Contexts, Upstreams};

/// What the guard may remember of texts that come again, in bytes.
const VERDICT_BYTES: usize = 16 * 1024 * 1024;
/// How often recorded samples are folded into buckets.
const UPKEEP: Duration = Duration::from_secs(5);

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
pub async fn serve(path: &Path) -> Result<(), AppError> {
    let config = config::load(path)?;
    let _logging = logging::start(&config.log).map_err(AppError::start)?;
    let exporter = Exporter::install().map_err(AppError::start)?;
    let app = App::new(path.to_owned(), config, rand::random())?;
    let ready = Ready::default();
    let metrics_address = app.config.metrics.address.clone();
    let metrics = TcpListener::bind(&metrics_address)
        .await
        .map_err(|source| AppError::Listen { address: metrics_address.clone(), source })?;
    let http = tokio::spawn(http::serve(metrics, exporter.clone(), ready.clone()));
    let outcome = app.examined_run(&exporter, &ready).await;
    http.abort();
    outcome
}

struct App {
    path: PathBuf,
    config: Config,
    shared: Arc<Shared>,
    mock_key: [u8; 32],
    probes: Option<Arc<Probes>>,
    tokens: Option<Arc<Tokens>>,
    /// Settings in force, for operators.
    settings: Arc<ArcSwap<Vec<Setting>>>,
}

impl App {
    fn new(path: PathBuf, config: Config, mock_key: [u8; 32]) -> Result<Self, AppError> {
        let relay = Relay {
            verdicts: Verdicts::new(VERDICT_BYTES),
            interner: Arc::default(),
            max_message_bytes: config.listen.max_message_bytes,
            switches: ContextSwitches::default(),
        };
        let probes = config.canary.clone().and_then(Probes::new).map(Arc::new);
        let tokens = config.token.clone().map(Tokens::new).transpose()?.map(Arc::new);
        let settings = Arc::new(ArcSwap::from_pointee(config.shown()));
        let shared = Shared {
            live: ArcSwap::from_pointee(live(&config, mock_key, probes.as_deref(), tokens.as_ref())?),
            clients: Arc::default(),
            contexts: Contexts::new(&config.directory.tenancy),
            upstreams: Upstreams::new(config.upstreams.values().cloned()),
            relay: Arc::new(relay),
            labels: TenantLabels::new(config.metrics.max_tenants),
            breaker: Arc::default(),
            replication: dashmap::DashMap::default(),
            operators: OnceLock::new(),
            seats: Arc::new(Semaphore::new(config.listen.max_clients)),
            login_timeout: config.listen.login_timeout,
        };
        Ok(Self { path, config, shared: Arc::new(shared), mock_key, probes, tokens, settings })
    }

    /// Nobody is let in before the doctor has looked at every upstream that can be reached.
    async fn examined_run(self, exporter: &Exporter, ready: &Ready) -> Result<(), AppError> {
        let tenancy = self.config.directory.tenancy.clone();
        let mut watch = Watch::new(tenancy, self.config.upstreams.values().cloned().collect());
        watch.first().await?;
        self.run(watch, exporter, ready).await
    }

    async fn run(mut self, watch: Watch, exporter: &Exporter, ready: &Ready) -> Result<(), AppError> {
        let listen = &self.config.listen;
        let listener = Listener::bind(&listen.address, listen.socket_dir.as_deref())
            .await
            .map_err(|source| AppError::Listen { address: listen.address.clone(), source })?;
        let address = listener.address().map_err(AppError::start)?;
        let mut reload = signal(SignalKind::hangup()).map_err(AppError::start)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(AppError::start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::start)?;
        let mut wishes = self.open_console(exporter);
        let mut upkeep = tokio::time::interval(UPKEEP);
        let canary = self.probes.clone().map(|probes| {
            let shared = Arc::clone(&self.shared);
            let setting = self.config.directory.tenancy.setting.clone();
            tokio::spawn(async move { probes.walk(&shared, &setting).await })
        });
        let keys = self.tokens.clone().map(|tokens| tokio::spawn(async move { tokens.keep_keys().await }));
        let mut watch = std::pin::pin!(watch.run());
        let mut verdict = Ok(());
        ready.set();
        tracing::info!(%address, metrics = self.config.metrics.address, version = env!("CARGO_PKG_VERSION"), "ready");
        loop {
            tokio::select! {
                stream = listener.accept() => {
                    tokio::spawn(connection(Arc::clone(&self.shared), stream));
                }
                _ = reload.recv() => drop(self.reload()),
                Some(wish) = wishes.recv() => match wish {
                    // Who asked may have gone.
                    Wish::Reload(reply) => drop(reply.send(self.reload())),
                    Wish::Install(config, reply) => drop(reply.send(self.install(*config))),
                    Wish::Shutdown => break,
                },
                _ = upkeep.tick() => {
                    exporter.upkeep();
                    self.shared.upstreams.reap();
                    self.shared.clients.expire(SystemTime::now());
                }
                found = &mut watch => {
                    tracing::error!("an upstream that could be reached only now does not isolate tenants: stopping");
                    verdict = Err(AppError::Unsafe(found));
                    break;
                }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        ready.clear();
        drop(listener);
        for task in canary.into_iter().chain(keys) {
            task.abort();
        }
        tracing::info!(clients = self.shared.clients.count(), "draining");
        self.shared.seats.close();
        // What is not isolated has no time to finish.
        let limit = verdict.as_ref().map_or(Duration::ZERO, |()| self.config.listen.drain_timeout);
        drain(&self.shared.clients, limit).await;
        tracing::info!("stopped");
        verdict
    }

    /// The console is there from here on; what operators wish comes out.
    fn open_console(&self, exporter: &Exporter) -> mpsc::Receiver<Wish> {
        let (sender, wishes) = mpsc::channel(4);
        let settings = Arc::clone(&self.settings);
        let console =
            Console::new(Arc::clone(&self.shared), exporter.clone(), sender, settings, self.path.clone());
        let _first = self.shared.operators.set(Arc::new(console));
        wishes
    }

    /// Takes what can go live of the file; a bad one changes nothing.
    fn reload(&mut self) -> Result<(), Refused> {
        let outcome = config::load(&self.path).map_err(|problems| problems.to_string());
        let outcome = outcome.and_then(|config| self.install(config));
        if let Err(problems) = &outcome {
            tracing::error!(problems, "reload refused: the old configuration stays");
        }
        outcome
    }

    fn install(&mut self, config: Config) -> Result<(), Refused> {
        let live = live(&config, self.mock_key, self.probes.as_deref(), self.tokens.as_ref());
        let live = live.map_err(|error| error.to_string())?;
        for setting in config::needs_restart(&self.config, &config) {
            tracing::warn!(setting, "changed, but takes effect only after a restart");
        }
        self.shared.contexts.replace_key(&config.directory.tenancy.context);
        let new = Arc::new(live);
        let old = self.shared.live.swap(Arc::clone(&new));
        self.follow(&old.directory, &new.directory);
        self.config.directory = config.directory;
        self.settings.store(Arc::new(self.config.shown()));
        Ok(())
    }

    /// Those who are connected learn what of the directory has changed for them.
    fn follow(&self, old: &Directory, new: &Directory) {
        let moved = self.shared.clients.follow(old, new);
        let grant = |directory: &Directory, name: &UserName| {
            directory.users.get(name).map(|user| (user.grant.clone(), user.allow.clone()))
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
            "configuration reloaded"
        );
    }
}

fn live(
    config: &Config,
    mock_key: [u8; 32],
    probes: Option<&Probes>,
    tokens: Option<&Arc<Tokens>>,
) -> Result<Live, TlsError> {
    let listen = &config.listen;
    let identity = match (&listen.certificate, &listen.private_key) {
        (Some(certificate), Some(key)) if listen.tls != crate::net::settings::ClientTls::Off => {
            Some(load_identity(certificate, key, listen.clients.as_ref())?)
        }
        _ => None,
    };
    let mut directory = config.directory.clone();
    if let Some(probes) = probes {
        probes.enlist(&mut directory);
    }
    Ok(Live {
        authenticator: Authenticator::new(
            identity.as_ref().map(|identity| &*identity.chain_pem),
            mock_key,
            tokens.cloned(),
            &directory,
        ),
        negotiator: Negotiator {
            tls: listen.tls,
            identity: identity.map(|identity| identity.config),
            max_startup_bytes: listen.max_startup_bytes,
        },
        directory,
    })
}
